// What partial tiles hide in Hopper's forward kernels. While a tile waits for its turn, other warps write a bit for
// each of its pairs to shared memory. The warps that compute read these bits in the order of their scores, so that a
// score takes no comparisons, however many intervals the mask has.
#pragma once

#include "hopper_forward_tile.cuh"
#include "hopper_mask.cuh"

namespace flashmask::cuda {

// Hides columns past the causal triangle and past the end, those after the last one that a row may see, where no warp
// writes bits. Columns of a lane are counted at compile time, so that each score takes one comparison.
template <int kN>
__device__ inline void HideEdge(float (&scores)[kN][4], bool causal, int row0, int tileColumn0, const Sizes& s) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int last = causal ? min(row0 + ElementRow(0, 2 * half) + s.Sk - s.Sq, s.Sk - 1) : s.Sk - 1;
    const int lastOfLane = last - tileColumn0 - ElementColumn(0, 0);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (n * 8 + e > lastOfLane) scores[n][2 * half + e] = -kInfinity;
      }
    }
  }
}

// Where bits lie: in groups of eight words, for 32 rows and eight columns, those that a lane has in a block of 32. Word
// g of a group has rows g, g + 8, g + 16 and g + 24, a byte each. The groups of 64 columns lie where their spans lay.
struct BitGroup {
  int rows, block, quad;  // the blocks of 32 rows and of 32 columns, and the place of the lane in its quad

  __device__ int Column(int i) const { return block * 32 + i / 2 * 8 + quad * 2 + i % 2; }
  __device__ int At() const { return block / 2 * 1024 + rows * 256 + block % 2 * 128 + quad * 32; }
};

// Turns words of a column each, whose bits are rows, into words whose bits are columns: swaps rows and columns of the
// squares that are made of one byte of each word.
__device__ inline void TransposeBytes(uint32_t (&words)[8]) {
  constexpr uint32_t kLower[] = {0x55555555, 0x33333333, 0x0f0f0f0f};
#pragma unroll
  for (int step = 0; step < 3; ++step) {
    const int size = 1 << step;
    const uint32_t lower = kLower[step];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((i & size) != 0) continue;
      const uint32_t x = words[i];
      const uint32_t y = words[i + size];
      words[i] = (x & lower) | (y << size & ~lower);
      words[i + size] = (x >> size & lower) | (y & ~lower);
    }
  }
}

// A warp that writes the bits of partial tiles for 64 columns, from the one with number 64 `masker` on. A lane writes a
// group.
template <class Tile>
struct Masker {
  static_assert(Tile::kBlockQ == 128, "a warp has lanes for 128 rows");

  const ForwardParams& p;
  uint8_t* shared;
  Barriers<Tile> barriers;
  BitGroup group;
  Place<Tile::kKeyStages> place;

  // The last block of columns may be a single one. Then two lanes write the same.
  __device__ Masker(const ForwardParams& p, uint8_t* shared, Barriers<Tile> barriers, int masker)
      : p(p), shared(shared), barriers(barriers) {
    const int lane = threadIdx.x % kWarp;
    group = {lane / 8, min(masker * 2 + lane / 4 % 2, Tile::kBlockK / 32 - 1), lane % 4};
  }

  __device__ uint8_t* MaskOfStage() const { return shared + Tile::kMasksAt + place.stage * Tile::kMaskBytes; }

  // What the columns of the group hide: for each a word of rows.
  __device__ void FindHidden(uint32_t (&hidden)[8], const Entry& entry) const {
    const Sizes& s = p.sizes;
    const int row0 = entry.rows.r0 + group.rows * 32;
    // Without the triangle, row 0 sees all columns.
    const int offset = p.mask.causal ? s.Sk - s.Sq : 0x7fffffff;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = entry.block * Tile::kBlockK + group.Column(i);
      hidden[i] = ~RowsFrom(column < s.Sk ? column - offset : 0x7fffffff, row0);
    }
    const int2* spans = reinterpret_cast<const int2*>(MaskOfStage());
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      if ((entry.kind & (upper == 0 ? kHidesLower : kHidesUpper)) == 0) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) hidden[i] |= RowsOfSpan(spans[2 * group.Column(i) + upper], row0);
    }
  }

  __device__ void MaskTile(const Entry& entry) const {
    uint32_t hidden[8];
    FindHidden(hidden, entry);
    __syncwarp();
    TransposeBytes(hidden);
    uint4* words = reinterpret_cast<uint4*>(MaskOfStage() + group.At());
    words[0] = {hidden[0], hidden[1], hidden[2], hidden[3]};
    words[1] = {hidden[4], hidden[5], hidden[6], hidden[7]};
  }

  __device__ void MaskAll() {
    for (;;) {
      WaitAsWarp(barriers.keysFull(place.stage), place.parity);
      const Entry& entry = reinterpret_cast<const Entry*>(shared + Tile::kEntriesAt)[place.stage];
      if (entry.block == kEndOfWork) return;
      if (entry.block >= 0 && entry.kind != kLive) {
        MaskTile(entry);
        ArriveAsWarp(barriers.hiddenFull(place.stage));
      }
      // The copy engine writes there next.
      FenceAsync();
      ArriveAsWarp(barriers.keysFree(place.stage));
      place.Advance();
    }
  }
};

// Sets the hidden scores of a warp's 16 rows to minus infinity. `warpRow` is its first row of the tile, `hidden` are
// the bits of the tile. Bits are asked for byte by byte, because one instruction turns those of a byte into predicates.
template <int kN>
__device__ inline void HideBits(float (&scores)[kN][4], const uint8_t* hidden, int warpRow) {
  const int lane = threadIdx.x % kWarp;
  hidden += BitGroup{warpRow / 32, 0, lane % 4}.At() + lane / 4 * 4 + warpRow % 32 / 8;
#pragma unroll
  for (int block = 0; block < kN / 4; ++block) {
    const uint32_t bits = *reinterpret_cast<const uint16_t*>(hidden + BitGroup{0, block, 0}.At());
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (bits & 1u << (half * 8 + i)) scores[block * 4 + i / 2][half * 2 + i % 2] = -kInfinity;
      }
    }
  }
}

}  // namespace flashmask::cuda
