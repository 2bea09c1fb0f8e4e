// The tile sizes of every kernel. Sides are in queries and keys; head sizes are rounded up to kD.
#pragma once

namespace flashmask::cuda {

// Shared memory that a thread block may use: 227 KB on sm_90, at least 99 KB elsewhere. Large tiles are those for
// sm_90.
constexpr int kLargeShared = 232448;
constexpr int kSmallShared = 101376;

// The code for an architecture has only the kernels with its own tiles. Newer architectures run the portable code made
// for sm_89.
#ifdef __CUDA_ARCH__
template <bool kLarge>
constexpr bool kCompiled = kLarge == (__CUDA_ARCH__ == 900);
#else
template <bool kLarge>
constexpr bool kCompiled = true;
#endif

// Bytes of a tile of 16-bit numbers: pages of 64 channels (primitives.cuh).
template <int kRows, int kChannels>
constexpr int kTileBytes = kRows * 128 * ((kChannels + 63) / 64);

// Keys that the backward kernels on Hopper keep.
constexpr int kHopperBackwardKeys = 128;

// Forward and deterministic dq: a warp keeps blockQ / warps queries and walks over key blocks.
template <int kD_, int kParts_, int kBlockQ_, int kBlockK_, int kWarps_>
struct RowTile {
  static constexpr int kD = kD_;
  static constexpr int kParts = kParts_;
  static constexpr int kBlockQ = kBlockQ_;
  static constexpr int kBlockK = kBlockK_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowBlocks = kBlockQ / kWarps / 16;  // blocks of 16 queries per warp
  static constexpr int kQueryBytes = kParts * kTileBytes<kBlockQ, kD>;
  static constexpr int kKeyBytes = kParts * kTileBytes<kBlockK, kD>;
  static constexpr int kSpanBytes = kBlockK * 16;
  static constexpr int kSharedBytes(int queryTensors) {
    return queryTensors * kQueryBytes + 2 * kKeyBytes + kSpanBytes;
  }
};

// Backward: a thread block keeps blockK keys and walks over query blocks. Its warps form a grid with kScoreRows rows
// for the scores, kKeyRows rows for dk and dv, and kQueryRows rows for dq. With kBulk (sm_90), dq goes to memory
// through shared memory.
template <bool kBulk_, int kD_, int kParts_, int kBlockQ_, int kBlockK_, int kWarps_, int kStages_, int kScoreRows_,
          int kKeyRows_, int kQueryRows_>
struct ColumnTile {
  static constexpr int kD = kD_;
  static constexpr int kParts = kParts_;
  static constexpr int kBlockQ = kBlockQ_;
  static constexpr int kBlockK = kBlockK_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kStages =
      kStages_;  // query blocks in shared memory: with 2, one is loaded while the other is used
  static constexpr int kScoreRows = kScoreRows_;
  static constexpr int kScoreColumns = kWarps / kScoreRows;
  static constexpr int kKeyRows = kKeyRows_;
  static constexpr int kKeyColumns = kWarps / kKeyRows;
  static constexpr int kQueryRows = kQueryRows_;
  static constexpr int kQueryColumns = kWarps / kQueryRows;
  static constexpr int kKeyBytes = kParts * kTileBytes<kBlockK, kD>;
  static constexpr int kQueryBytes = kParts * kTileBytes<kBlockQ, kD>;
  static constexpr int kWeightBytes = kParts * kTileBytes<kBlockQ, kBlockK>;
  static constexpr int kStatBytes = kBlockQ * 4;
  static constexpr int kSpanBytes = kBlockK * 16;
  static constexpr bool kBulk = kBulk_;
  static constexpr int kDqRowBytes = kD * 4 + 32;  // so that the rows of a store begin in different banks
  static constexpr int kDqBytes = kBulk ? kBlockQ * kDqRowBytes : 0;
  static constexpr int kSharedBytes =
      2 * kKeyBytes + kStages * (2 * kQueryBytes + 3 * kStatBytes) + 2 * kWeightBytes + kSpanBytes + kDqBytes;
};

// Tiles for head size kD with kParts 16-bit numbers per float, on devices with large or small shared memory.
template <int kD, int kParts, bool kLarge>
struct Tiles;

template <>
struct Tiles<64, 1, true> {
  using Forward = RowTile<64, 1, 128, 128, 4>;
  using Dq = RowTile<64, 1, 64, 64, 4>;
  using Backward = ColumnTile<true, 64, 1, 128, 128, 8, 2, 4, 4, 4>;
};
template <>
struct Tiles<128, 1, true> {
  using Forward = RowTile<128, 1, 128, 64, 4>;
  using Dq = RowTile<128, 1, 64, 64, 4>;
  using Backward = ColumnTile<true, 128, 1, 64, 128, 8, 2, 2, 4, 2>;
};
template <>
struct Tiles<256, 1, true> {
  using Forward = RowTile<256, 1, 64, 64, 4>;
  using Dq = RowTile<256, 1, 64, 32, 4>;
  using Backward = ColumnTile<true, 256, 1, 64, 64, 8, 1, 4, 2, 2>;
};
template <>
struct Tiles<64, 2, true> {
  using Forward = RowTile<64, 2, 64, 64, 4>;
  using Dq = RowTile<64, 2, 64, 64, 4>;
  using Backward = ColumnTile<true, 64, 2, 64, 64, 8, 1, 4, 4, 4>;
};
template <>
struct Tiles<128, 2, true> {
  using Forward = RowTile<128, 2, 64, 64, 4>;
  using Dq = RowTile<128, 2, 64, 32, 4>;
  using Backward = ColumnTile<true, 128, 2, 64, 64, 8, 1, 4, 2, 2>;
};
template <>
struct Tiles<256, 2, true> {
  using Forward = RowTile<256, 2, 64, 32, 4>;
  using Dq = RowTile<256, 2, 32, 32, 2>;
  using Backward = ColumnTile<true, 256, 2, 32, 32, 4, 1, 2, 2, 2>;
};

template <>
struct Tiles<64, 1, false> {
  using Forward = RowTile<64, 1, 128, 64, 4>;
  using Dq = RowTile<64, 1, 64, 64, 4>;
  using Backward = ColumnTile<false, 64, 1, 64, 64, 8, 2, 4, 4, 4>;
};
template <>
struct Tiles<128, 1, false> {
  using Forward = RowTile<128, 1, 128, 64, 4>;
  using Dq = RowTile<128, 1, 64, 32, 4>;
  using Backward = ColumnTile<false, 128, 1, 64, 64, 8, 1, 4, 2, 2>;
};
template <>
struct Tiles<256, 1, false> {
  using Forward = RowTile<256, 1, 64, 64, 4>;
  using Dq = RowTile<256, 1, 32, 32, 2>;
  using Backward = ColumnTile<false, 256, 1, 32, 32, 4, 1, 2, 2, 2>;
};
template <>
struct Tiles<64, 2, false> {
  using Forward = RowTile<64, 2, 64, 32, 4>;
  using Dq = RowTile<64, 2, 32, 32, 2>;
  using Backward = ColumnTile<false, 64, 2, 32, 32, 4, 1, 2, 2, 2>;
};
template <>
struct Tiles<128, 2, false> {
  using Forward = RowTile<128, 2, 64, 32, 4>;
  using Dq = RowTile<128, 2, 32, 32, 2>;
  using Backward = ColumnTile<false, 128, 2, 32, 32, 4, 1, 2, 2, 2>;
};

// Tiles of split floats with 256 channels do not fit into small shared memory. They are never launched (attention.cu
// refuses them).
template <>
struct Tiles<256, 2, false> : Tiles<128, 2, false> {};

}  // namespace flashmask::cuda
