// The shared memory of Hopper's forward kernels: tiles, what the loading warp tells of them, and their barriers.
#pragma once

#include "hopper.cuh"
#include "hopper_forward.h"
#include "mask.cuh"
#include "row_block.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// What the loading warp tells of a stage of keys: a key block of a row block, or the end of the row block, or the end
// of all work. It tells all that the row block needs, because to find that out takes divisions and reads of memory.
struct Entry {
  RowBlock rows;
  float scale2;    // turns products of q and k into scores in powers of two
  bool notFinite;  // whether values of the key head are not finite
  int block;       // or one of the below
  TileKind kind;
};
constexpr int kEndOfRows = -1;
constexpr int kEndOfWork = -2;

// With kKeepsQueries, queries stay in registers. With kTakesTurns, the two warpgroups issue products in turn, so that
// one computes weights while the products of the other run. A number has kParts parts of 16 bits.
template <int kD_, int kDv_, int kKeyStages_, int kValueStages_, bool kKeepsQueries_, bool kTakesTurns_,
          int kBlockQ_ = kHopperBlockQ, int kParts_ = 1>
struct HopperForwardTile {
  static constexpr int kD = kD_;
  static constexpr int kDv = kDv_;
  static constexpr int kKeyStages = kKeyStages_;
  static constexpr int kValueStages = kValueStages_;
  static constexpr bool kKeepsQueries = kKeepsQueries_;
  static constexpr bool kTakesTurns = kTakesTurns_;
  static constexpr int kParts = kParts_;
  static_assert(kParts == 1 || !kKeepsQueries);
  static constexpr int kBlockQ = kBlockQ_;
  static constexpr int kBlockK = HopperHeadsOf(kD, kDv, kParts).blockK;
  static_assert(kBlockK % kMapBlock == 0, "the bounds map tells of whole blocks");
  static constexpr int kComputing = kBlockQ / 64 * kWarpgroup;  // threads
  static constexpr int kThreads = kComputing + kWarpgroup;
  // Registers of a thread that computes and of one that loads. Where three warpgroups share them, weights take the
  // places of their scores.
  static constexpr bool kWeighsInPlace = kBlockQ == 192;
  static constexpr int kComputeRegisters = kWeighsInPlace ? 160 : kDv == 256 ? 240 : 232;
  static constexpr int kLoadRegisters = kWeighsInPlace ? 32 : kDv == 256 ? 24 : 40;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  // Warps that tell what partial tiles hide, of 64 keys each (hopper_forward_mask.cuh). Three warpgroups have no masks
  // with intervals.
  static constexpr int kMaskers = kWeighsInPlace ? 0 : (kBlockK + 63) / 64;
  static constexpr int kQueryBytes = kParts * kTileBytes<kBlockQ, kD>;
  static constexpr int kKeyBytes = kParts * kTileBytes<kBlockK, kD>;
  static constexpr int kValueBytes = kParts * kTileBytes<kBlockK, kDv>;
  // The mask of a tile: 1,024 bytes for each 64 keys. They have the keys' spans, then in their place a bit for each
  // pair.
  static constexpr int kMaskBytes = (kBlockK + 63) / 64 * 1024;
  // In shared memory, in this order: queries, keys, values, boxes of output, masks, entries, barriers.
  static constexpr int kKeysAt = kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kKeyStages * kKeyBytes;
  static constexpr int kStoreAt = kValuesAt + kValueStages * kValueBytes;
  static constexpr int kOtherBytes =
      kKeyStages * (kMaskBytes + sizeof(Entry)) + (2 + 3 * kKeyStages + 2 * kValueStages) * 8;
  // Boxes of 64 queries x 32 channels of output that a warpgroup has, as far as there is room for two. With none,
  // output goes to memory from registers.
  static constexpr int kStoreBoxBytes = 64 * 128;
  static constexpr int kRoom = (kLargeShared - kStoreAt - kOtherBytes) / (kBlockQ / 64 * kStoreBoxBytes);
  static constexpr int kStoreBoxes = kRoom < 2 || kParts == 2 ? 0 : kRoom < kDv / 32 ? kRoom : kDv / 32;
  static constexpr int kMasksAt = kStoreAt + kBlockQ / 64 * kStoreBoxes * kStoreBoxBytes;
  static constexpr int kEntriesAt = kMasksAt + kKeyStages * kMaskBytes;
  static constexpr int kBarriersAt = kEntriesAt + kKeyStages * sizeof(Entry);
  static constexpr int kSharedBytes = kMasksAt + kOtherBytes;
  static_assert(kSharedBytes <= kLargeShared);
};

// The barriers of a thread block.
template <class Tile>
struct Barriers {
  uint32_t base;
  __device__ uint32_t queriesFull() const { return base; }
  __device__ uint32_t queriesFree() const { return base + 8; }
  __device__ uint32_t keysFull(int stage) const { return base + 16 + stage * 16; }
  __device__ uint32_t keysFree(int stage) const { return base + 24 + stage * 16; }
  __device__ uint32_t valuesFull(int stage) const { return keysFull(Tile::kKeyStages + stage); }
  __device__ uint32_t valuesFree(int stage) const { return keysFree(Tile::kKeyStages + stage); }
  // For the bits of what is hidden. They are free with the keys.
  __device__ uint32_t hiddenFull(int stage) const {
    return keysFull(Tile::kKeyStages + Tile::kValueStages) + stage * 8;
  }

  __device__ void Init() const {
    // One warp loads; each warp that computes, or masks, frees for itself.
    constexpr int kWarps = Tile::kComputing / kWarp;
    InitBarrier(queriesFull(), 1);
    InitBarrier(queriesFree(), kWarps);
    for (int stage = 0; stage < Tile::kKeyStages; ++stage) {
      InitBarrier(keysFull(stage), 1);
      InitBarrier(keysFree(stage), kWarps + Tile::kMaskers);
      if (Tile::kMaskers > 0) InitBarrier(hiddenFull(stage), Tile::kMaskers);
    }
    for (int stage = 0; stage < Tile::kValueStages; ++stage) {
      InitBarrier(valuesFull(stage), 1);
      InitBarrier(valuesFree(stage), kWarps);
    }
    FenceBarrierInit();
  }
};

}  // namespace flashmask::cuda
