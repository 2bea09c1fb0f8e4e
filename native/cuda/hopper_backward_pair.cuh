// The pair of thread blocks that share a block of 128 keys in hopper_backward_wide.cuh: what is where in shared memory,
// the barriers, and what the first block's loading warp copies to both.
#pragma once

#include "hopper_key_block.cuh"

namespace flashmask::cuda {

template <int kD_, int kDv_>
struct HopperPairTile {
  static constexpr int kD = kD_;
  static constexpr int kDv = kDv_;
  static constexpr int kNumberParts = 1;
  static constexpr int kBlockQ = 64;
  static constexpr int kCluster = 2;
  static constexpr int kBlockK = kHopperBackwardKeys;
  static constexpr int kOwnKeys = kBlockK / kCluster;  // of a thread block
  static constexpr int kStages = 2;
  static constexpr int kDOutStages = kD == 256 ? 1 : 2;
  static constexpr int kScoring = 2 * kWarpgroup;  // threads that compute scores, dk and dv; as many as a warpgroup: dq
  static constexpr int kComputing = kScoring + kWarpgroup;
  static constexpr int kThreads = kComputing + kWarpgroup;
  static constexpr int kScoreRegisters = 208;
  static constexpr int kDqRegisters = 64;
  static constexpr int kLoadRegisters = 32;
  static_assert(2 * kScoreRegisters + kDqRegisters + kLoadRegisters == 65536 / kWarpgroup);
  static constexpr int kPageBytes = 64 * kPageRowBytes;
  static constexpr int kKeyBytes = kTileBytes<kOwnKeys, kD>;
  static constexpr int kValueBytes = kTileBytes<kOwnKeys, kDv>;
  static constexpr int kPeerKeyBytes = 2 * kPageBytes;
  static constexpr int kQueryBytes = kTileBytes<kBlockQ, kD>;
  static constexpr int kDOutBytes = kTileBytes<kBlockQ, kDv>;
  static constexpr int kWeightBytes = kTileBytes<kOwnKeys, kBlockQ>;
  static constexpr int kDqBoxBytes = 64 * 128;
  static constexpr int kDqBuffers = kD == 256 ? 1 : 2;  // of 64 channels
  static constexpr int kStatBytes = kBlockQ * 4;
  // In shared memory, in this order: own keys, own values, channels of the peer's keys, queries, dO, weights, two tiles
  // of gradients, the peer's gradients, dq, row terms, entries of the loading
  // warp and those for dq, barriers.
  static constexpr int kValuesAt = kKeyBytes;
  static constexpr int kPeerKeysAt = kValuesAt + kValueBytes;
  static constexpr int kQueriesAt = kPeerKeysAt + kPeerKeyBytes;
  static constexpr int kDOutAt = kQueriesAt + kStages * kQueryBytes;
  static constexpr int kWeightsAt = kDOutAt + kDOutStages * kDOutBytes;
  static constexpr int kGradientsAt = kWeightsAt + kWeightBytes;
  static constexpr int kPeerGradientsAt = kGradientsAt + 2 * kWeightBytes;
  static constexpr int kDqAt = kPeerGradientsAt + kWeightBytes;
  static constexpr int kStatsAt = kDqAt + kDqBuffers * 2 * kDqBoxBytes;
  static constexpr int kEntriesAt = kStatsAt + kStages * 3 * kStatBytes;
  static constexpr int kDqEntriesAt = kEntriesAt + kStages * 16;
  static constexpr int kToldAt = kDqEntriesAt + 2 * 16;
  static constexpr int kBarriersAt = kToldAt + kToldTiles * 16;
  static constexpr int kSharedBytes = kBarriersAt + (9 + 2 * (kStages + kDOutStages) + 3 * kDqBuffers + kToldTiles) * 8;
  static_assert(kSharedBytes <= kLargeShared);

  // A thread block computes dq of half of the channels, in two parts of 64; with 192 channels, the second part is 32.
  static __device__ int DqChannel(int rank, int part) {
    if (kD == 256) return rank * 128 + part * 64;
    return part == 0 ? rank * 64 : 128 + rank * 32;
  }
  template <int kPart>
  static constexpr int kDqBoxes = kD == 192 && kPart == 1 ? 1 : 2;
};

// The barriers of a thread block. Those that free what both blocks read are in the first block.
template <class Tile>
struct PairBarriers {
  uint32_t base;
  __device__ uint32_t keysFull() const { return base; }
  __device__ uint32_t keysFree() const { return base + 8; }
  __device__ uint32_t weightsFree() const { return base + 16; }
  __device__ uint32_t peerGradientsFull() const { return base + 24; }
  // Whether the other block's place for gradients is free.
  __device__ uint32_t placeAtPeerFree() const { return base + 32; }
  __device__ uint32_t gradientsFull(int tile) const { return base + 40 + tile * 16; }
  __device__ uint32_t gradientsFree(int tile) const { return base + 48 + tile * 16; }
  __device__ uint32_t queriesFull(int stage) const { return base + 72 + stage * 16; }
  __device__ uint32_t queriesFree(int stage) const { return base + 80 + stage * 16; }
  __device__ uint32_t dOutFull(int stage) const { return queriesFull(Tile::kStages + stage); }
  __device__ uint32_t dOutFree(int stage) const { return queriesFree(Tile::kStages + stage); }
  __device__ uint32_t dqFree(int buffer) const { return dOutFull(Tile::kDOutStages) + buffer * 24; }
  // For the warps that add dq, one for every other tile.
  __device__ uint32_t dqFull(int adder, int buffer) const { return dqFree(buffer) + 8 + adder * 8; }
  __device__ uint32_t told(int place) const { return dqFree(Tile::kDqBuffers) + place * 8; }

  __device__ void Init() const {
    // One warp loads; each warp that computes arrives for itself.
    constexpr int kWarps = Tile::kComputing / kWarp;
    constexpr int kScoringWarps = Tile::kScoring / kWarp;
    constexpr int kDqWarps = kWarps - kScoringWarps;
    InitBarrier(keysFull(), 1);
    InitBarrier(keysFree(), Tile::kCluster * kWarps);
    InitBarrier(weightsFree(), kScoringWarps);
    InitBarrier(peerGradientsFull(), 1);
    InitBarrier(placeAtPeerFree(), kDqWarps);
    for (int tile = 0; tile < 2; ++tile) {
      InitBarrier(gradientsFull(tile), kScoringWarps);
      InitBarrier(gradientsFree(tile), kDqWarps + 1);  // and the other block, which has its copy
    }
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      InitBarrier(queriesFull(stage), 1);
      InitBarrier(queriesFree(stage), Tile::kCluster * kScoringWarps);
    }
    for (int stage = 0; stage < Tile::kDOutStages; ++stage) {
      InitBarrier(dOutFull(stage), 1);
      InitBarrier(dOutFree(stage), Tile::kCluster * kScoringWarps);
    }
    for (int buffer = 0; buffer < Tile::kDqBuffers; ++buffer) {
      InitBarrier(dqFree(buffer), 1);
      for (int adder = 0; adder < kDqAdders; ++adder) InitBarrier(dqFull(adder, buffer), kDqWarps);
    }
    for (int tile = 0; tile < kToldTiles; ++tile) InitBarrier(told(tile), 1);
    FenceBarrierInit();
  }
};

// What the loading warp of the first block starts, for both blocks.
template <class Tile>
struct PairCopies {
  static constexpr uint16_t kBoth = 3;
  const HopperBackwardParams& p;
  uint32_t shared;
  PairBarriers<Tile> barriers;
  Place<Tile::kStages> place;
  Place<Tile::kDOutStages> dOutPlace;
  uint32_t keysParity = 1;
  uint32_t tiles = 0;

  __device__ PairCopies(const HopperBackwardParams& p, uint8_t* shared, PairBarriers<Tile> barriers)
      : p(p), shared(SharedAddress(shared)), barriers(barriers) {}

  // Stores an entry for both thread blocks, and lets a barrier wait for it and for more bytes.
  __device__ void StoreEntry(const QueryEntry& entry, uint32_t to, uint32_t barrier, int bytes) {
    for (int rank = 0; rank < Tile::kCluster; ++rank) {
      const uint32_t full = InBlock(barrier, rank);
      ArriveThereExpecting(full, sizeof(entry) + bytes);
      StoreThere(InBlock(to, rank), {entry.work, entry.head, entry.block, static_cast<int>(entry.kind)}, full);
    }
  }

  __device__ void StoreEntry(const QueryEntry& entry, int bytes) {
    StoreEntry(entry, shared + Tile::kEntriesAt + place.stage * 16, barriers.queriesFull(place.stage), bytes);
  }

  // Tells what has no tile.
  __device__ void Tell(const QueryEntry& entry) {
    WaitAsWarp(barriers.queriesFree(place.stage), place.parity ^ 1);
    if (IsFirstLane()) StoreEntry(entry, 0);
    place.Advance();
  }

  // Tells the warps that add dq of the next tile. The first lane calls it.
  __device__ void TellAdder(const QueryEntry& entry) {
    const uint32_t told = tiles++ % kToldTiles;
    StoreEntry(entry, shared + Tile::kToldAt + told * 16, barriers.told(told), 0);
  }

  __device__ void TellEnd(const QueryEntry& end) {
    Tell(end);
    if (!IsFirstLane()) return;
    for (int adder = 0; adder < kDqAdders; ++adder) TellAdder(end);
  }

  __device__ void LoadKeys(const KeyBlock& keys) {
    WaitAsWarp(barriers.keysFree(), keysParity);
    keysParity ^= 1;
    if (!IsFirstLane()) return;
    const uint32_t full = barriers.keysFull();
    for (int rank = 0; rank < Tile::kCluster; ++rank) {
      const auto block = static_cast<uint16_t>(1 << rank);
      const int c0 = keys.c0 + rank * Tile::kOwnKeys;
      const int peerC0 = keys.c0 + (rank ^ 1) * Tile::kOwnKeys;
      ArriveThereExpecting(InBlock(full, rank), Tile::kKeyBytes + Tile::kValueBytes + Tile::kPeerKeyBytes);
      CopyPages<Tile::kD, Tile::kOwnKeys>(shared, &p.k, full, c0, keys.keyHead, keys.b, block);
      CopyPages<Tile::kDv, Tile::kOwnKeys>(shared + Tile::kValuesAt, &p.v, full, c0, keys.keyHead, keys.b, block);
      for (int part = 0; part < 2; ++part) {
        CopyBox(shared + Tile::kPeerKeysAt + part * Tile::kPageBytes, &p.k, full, Tile::DqChannel(rank, part), peerC0,
                keys.keyHead, keys.b, block);
      }
    }
  }

  __device__ void LoadQueries(const KeyBlock& keys, const QueryEntry& entry) {
    const BackwardParams& call = p.call;
    const int h = keys.keyHead * keys.group + entry.head;
    const int r0 = entry.block * Tile::kBlockQ;
    const int64_t row = static_cast<int64_t>(keys.b * call.sizes.H + h) * call.rowsOfHead + r0;
    WaitAsWarp(barriers.queriesFree(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.queriesFull(place.stage);
      const uint32_t stats = shared + Tile::kStatsAt + place.stage * 3 * Tile::kStatBytes;
      StoreEntry(entry, Tile::kQueryBytes + 3 * Tile::kStatBytes);
      TellAdder(entry);
      CopyPages<Tile::kD, Tile::kBlockQ>(shared + Tile::kQueriesAt + place.stage * Tile::kQueryBytes, &p.q, full, r0, h,
                                         keys.b, kBoth);
      CopyRowTerms<Tile::kStatBytes>(stats, call, row, full, kBoth);
    }
    place.Advance();
    LoadDOut(keys, h, r0);
  }

  __device__ void LoadDOut(const KeyBlock& keys, int h, int r0) {
    WaitAsWarp(barriers.dOutFree(dOutPlace.stage), dOutPlace.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.dOutFull(dOutPlace.stage);
      for (int rank = 0; rank < Tile::kCluster; ++rank) ArriveThereExpecting(InBlock(full, rank), Tile::kDOutBytes);
      CopyPages<Tile::kDv, Tile::kBlockQ>(shared + Tile::kDOutAt + dOutPlace.stage * Tile::kDOutBytes, &p.dOut, full,
                                          r0, h, keys.b, kBoth);
    }
    dOutPlace.Advance();
  }
};

}  // namespace flashmask::cuda
