// What the warpgroups of hopper_backward_wide.cuh have in common, and the one that computes dq. It is told of tiles of
// gradients, exchanges them with the other thread block, and leaves its half of the channels to the warps that add dq.
#pragma once

#include "gradients.cuh"
#include "hopper_backward_pair.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

// Where a channel begins in a tile of 64 rows.
__device__ inline uint32_t ChannelOffset(int channel) { return channel / 64 * (64 * kPageRowBytes) + channel % 64 * 2; }

// What the warpgroups that compute have in common.
template <class Tile>
struct WideBlock {
  const HopperBackwardParams& params;
  uint8_t* shared;
  PairBarriers<Tile> barriers;
  uint32_t base = SharedAddress(shared);
  int rank = BlockInCluster();
  Place<2> gradients;  // while one tile is written, products may read the other
  uint32_t keysParity = 0;
  QueryEntry entry;
  KeyBlock keys;

  // Takes the key block of `entry`.
  __device__ void TakeKeys() {
    keys = TakenKeys<Tile>(entry.work, params.call);
    keys.c0 += rank * Tile::kOwnKeys;
  }

  __device__ void WaitKeys() {
    WaitParity(barriers.keysFull(), keysParity);
    keysParity ^= 1;
  }

  __device__ uint32_t GradientsTile() const { return base + Tile::kGradientsAt + gradients.stage * Tile::kWeightBytes; }
  // The entry that tells the warpgroup of dq of a tile of gradients, as the loading warp tells of queries.
  __device__ QueryEntry& DqEntry() const {
    return reinterpret_cast<QueryEntry*>(shared + Tile::kDqEntriesAt)[gradients.stage];
  }
  __device__ int Head() const { return keys.keyHead * keys.group + entry.head; }

  // Arrives at a barrier of a thread block, once for a warp.
  __device__ void ArriveIn(int block, uint32_t barrier) const {
    __syncwarp();
    if (IsFirstLane()) ArriveThere(InBlock(barrier, block));
  }
};

// The boxes of a place for dq: 64 queries x 32 channels each.
template <class Tile>
struct WideDqBoxes {
  static constexpr int kPlaces = 2;

  static __device__ void Add(const CUtensorMap& dq, uint32_t shared, int part, int r0, int h, int b) {
    const int boxes = part == 0 ? Tile::template kDqBoxes<0> : Tile::template kDqBoxes<1>;
    const uint32_t tile = shared + part % Tile::kDqBuffers * 2 * Tile::kDqBoxBytes;
    const int channel = Tile::DqChannel(BlockInCluster(), part);
    for (int box = 0; box < boxes; ++box) {
      AddBox(&dq, tile + box * Tile::kDqBoxBytes, channel + box * 32, r0, h, b);
    }
  }
};

// The warpgroup that computes dq.
template <class T, class Tile>
struct WideDq : WideBlock<Tile> {
  using Base = WideBlock<Tile>;
  using Base::barriers, Base::base, Base::entry, Base::gradients, Base::keys, Base::rank;

  bool copies = threadIdx.x % kWarpgroup == 0;  // whether this thread starts copies
  uint32_t parity = 0;                          // of the query blocks that were computed
  Place<Tile::kDqBuffers> place;                // for dq
  float factor;

  __device__ WideDq(const HopperBackwardParams& params, uint8_t* shared, PairBarriers<Tile> barriers)
      : Base{params, shared, barriers} {}

  // Copies the gradients to the other thread block, when that has a place for them, and expects its gradients.
  __device__ void ExchangeGradients() const {
    if (!copies) return;
    const int peer = rank ^ 1;
    ArriveExpecting(barriers.peerGradientsFull(), Tile::kWeightBytes);
    WaitParity(barriers.placeAtPeerFree(), parity ^ 1);
    CopyThere(InBlock(base + Tile::kPeerGradientsAt, peer), Base::GradientsTile(), Tile::kWeightBytes,
              InBlock(barriers.peerGradientsFull(), peer));
  }

  // Waits for the other thread block's gradients, which it may then write again.
  __device__ void ReceiveGradients() const {
    WaitParity(barriers.peerGradientsFull(), parity);
    if (copies) ArriveThere(InBlock(barriers.gradientsFree(gradients.stage), rank ^ 1));
  }

  // Issues the addition of dq of 64 queries and 64 channels, summed over 64 keys.
  __device__ void Issue(float (&dq)[8][4], uint32_t gradientsTile, uint32_t keysPage, bool add) const {
    const auto left = Descriptor::OfColumns<Tile::kPageBytes>(Agreed(gradientsTile));
    const auto right = Descriptor::OfColumns<Tile::kPageBytes>(Agreed(keysPage));
#pragma unroll
    for (int k = 0; k < Tile::kOwnKeys / 16; ++k) {
      const int rows = k * 16 * kPageRowBytes;
      Product16<true, true>(dq, left.At(rows), right.At(rows), add || k != 0, T());
    }
  }

  // Writes dq of 64 queries and kBoxes times 32 channels to shared memory.
  template <int kBoxes>
  __device__ void StoreDq(const float (&dq)[8][4]) {
    const uint32_t tile = base + Tile::kDqAt + place.stage * 2 * Tile::kDqBoxBytes;
    WaitParity(barriers.dqFree(place.stage), place.parity ^ 1);
    const int row = threadIdx.x % kWarpgroup / kWarp * 16 + ElementRow(0, 0);
    const bool oddRow = row % 2 == 1;
    // Odd rows store the blocks of a pair in the other order, because even ones use the same banks.
#pragma unroll
    for (int n = 0; n < 4 * kBoxes; ++n) {
      const bool second = oddRow != (n % 2 == 1);
      const uint32_t at = tile + n / 4 * Tile::kDqBoxBytes + row * kPageRowBytes;
      const int column = ElementColumn(n / 2 * 2 % 4 + second, 0);
      const uint32_t chunk = (column / 4 ^ row % 8) * 16 + column % 4 * 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = second ? dq[n / 2 * 2 + 1][2 * half] : dq[n / 2 * 2][2 * half];
        const float y = second ? dq[n / 2 * 2 + 1][2 * half + 1] : dq[n / 2 * 2][2 * half + 1];
        StoreSharedPair(at + half * 8 * kPageRowBytes + chunk, x * factor, y * factor);
      }
    }
    FenceAsync();
    ArriveAsWarp(barriers.dqFull(parity, place.stage));
    place.Advance();
  }

  template <int kPart>
  __device__ void ComputePart() {
    const int channel = Tile::DqChannel(rank, kPart);
    // In order, both thread blocks begin with the gradients of the first.
    const bool peerFirst = rank == 1 && Base::params.call.order != nullptr;
    const uint32_t ownGradients = Base::GradientsTile();
    const uint32_t peerGradients = base + Tile::kPeerGradientsAt;
    const uint32_t ownKeys = base + ChannelOffset(channel);
    const uint32_t peerKeys = base + Tile::kPeerKeysAt + kPart * Tile::kPageBytes;
    if (kPart == 0 && peerFirst) ReceiveGradients();
    float dq[8][4];
    Pin(dq);
    FenceProducts();
    Issue(dq, peerFirst ? peerGradients : ownGradients, peerFirst ? peerKeys : ownKeys, false);
    CommitProducts();
    if (kPart == 0 && !peerFirst) ReceiveGradients();
    FenceProducts();
    Issue(dq, peerFirst ? ownGradients : peerGradients, peerFirst ? ownKeys : peerKeys, true);
    CommitProducts();
    WaitProducts<0>();
    Pin(dq);
    if (kPart == 1) {
      ArriveAsWarp(barriers.gradientsFree(gradients.stage));
      Base::ArriveIn(rank ^ 1, barriers.placeAtPeerFree());
    }
    StoreDq<Tile::template kDqBoxes<kPart>>(dq);
  }

  // Frees a tile of gradients that the other thread block does not get.
  __device__ void FreeUnsent() const {
    ArriveAsWarp(barriers.gradientsFree(gradients.stage));
    if (copies) Arrive(barriers.gradientsFree(gradients.stage));
  }

  __device__ void ReadEntry() {
    WaitParity(barriers.gradientsFull(gradients.stage), gradients.parity);
    entry = Base::DqEntry();
  }

  // All query blocks that see a key block. `entry` is the first.
  __device__ void WalkQueries() {
    Base::TakeKeys();
    Base::WaitKeys();
    factor = FactorsOf<T, 1>(Base::params.call, keys.keyBatchHead).dq;
    for (; entry.block >= 0; ReadEntry()) {
      ExchangeGradients();
      ComputePart<0>();
      ComputePart<1>();
      parity ^= 1;
      gradients.Advance();
    }
    Base::ArriveIn(0, barriers.keysFree());
    FreeUnsent();
    gradients.Advance();
  }

  __device__ void ComputeAll() {
    for (ReadEntry(); entry.work >= 0; ReadEntry()) WalkQueries();
  }
};

}  // namespace flashmask::cuda
