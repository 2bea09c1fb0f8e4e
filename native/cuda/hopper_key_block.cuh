// What the backward kernels on Hopper share: the block of keys that is taken, the walk of the loading warp over the
// live query blocks of all query heads of the key head, and what is masked or dropped in transposed tiles.
#pragma once

#include "column_block.cuh"
#include "dropout.cuh"
#include "hopper.cuh"
#include "hopper_mask.cuh"
#include "not_finite.cuh"

namespace flashmask::cuda {

struct HopperBackwardParams {
  CUtensorMap q, k, v, dOut;
  CUtensorMap dq;  // in boxes of 32 floats x 64 rows
  BackwardParams call;
};

// Warps that add dq to memory (hopper_backward_dq.cuh). They are told of more tiles than can be on their way, so that a
// place is free when its turn comes again: when the loading warp starts a tile, dq of the one six before was stored,
// and for that they had to have read of the ones before.
constexpr int kDqAdders = 2;
constexpr int kToldTiles = 8;

// What the loading warp tells of a stage: a query block of a head of the group for the key block `work`, or the end of
// the key block (block -1), or the end of all work (work -1).
struct QueryEntry {
  int work, head, block;
  TileKind kind;
};

// Heads that take turns under masks with intervals if key blocks add to dq in order. The more of them, the fewer key
// blocks of one head run at a time, which wait for each other.
constexpr int kOrderedHeadsInTurn = 32;

// The key block that is taken as number `work`. Heads take turns, so that those with the most work come first.
template <class Tile>
__device__ inline KeyBlock TakenKeys(int work, const BackwardParams& call) {
  const bool ordered = call.order != nullptr;
  const bool intervals = call.mask.spans != nullptr;
  return KeyBlockAt<Tile::kBlockK>(work, call.sizes, call.mask.causal || intervals || ordered,
                                   ordered && intervals ? kOrderedHeadsInTurn : kHeadsInTurn);
}

// The kind of the tile of a key block with these bounds and a query block.
template <class Tile>
__device__ inline TileKind KindOfTile(const BackwardParams& call, const BlockBounds& bounds, int keyBlock,
                                      int queryBlock) {
  const Sizes& s = call.sizes;
  const int r0 = queryBlock * Tile::kBlockQ;
  const int c0 = keyBlock * Tile::kBlockK;
  return Classify(bounds, call.mask.causal, r0, min(r0 + Tile::kBlockQ, s.Sq), c0, min(c0 + Tile::kBlockK, s.Sk),
                  c0 + Tile::kBlockK > s.Sk, s.Sk - s.Sq);
}

// The warp that loads. Copies copies keys and query blocks, and tells of them.
template <class Tile, class Copies>
struct BackwardLoader {
  const BackwardParams& call;
  Copies copies;

  __device__ void LoadKeyBlock(int work) {
    const Sizes& s = call.sizes;
    const KeyBlock keys = TakenKeys<Tile>(work, call);
    const int firstBlock = call.mask.causal ? max(keys.c0 - (s.Sk - s.Sq), 0) / Tile::kBlockQ : 0;
    const int blocks = (s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ;
    const auto blockAt = [&](int i) { return BlockOfWalk(i, firstBlock, blocks, call.order != nullptr); };
    // Key heads with numbers that are not finite are left to the kernel of backward.cuh.
    const int heads = HasNotFinite(call, keys.keyBatchHead) ? 0 : keys.group;
    bool loaded = false;
    for (int head = 0; head < heads; ++head) {
      const int64_t maskHead = MaskHeadOf(call.mask, keys.b, keys.keyHead * keys.group + head, s.H);
      const BlockBounds bounds = ReadBlockBounds<Tile::kBlockK>(call.mask, maskHead, keys.block);
      const auto classify = [&](int i) { return KindOfTile<Tile>(call, bounds, keys.block, blockAt(i)); };
      LiveBlocks live(firstBlock, blocks);
      bool partial;
      for (int i; (i = live.Next(&partial, classify)) >= 0;) {
        if (!loaded) copies.LoadKeys(keys);
        loaded = true;
        copies.LoadQueries(keys, {work, head, blockAt(i), live.Kind(i)});
      }
    }
    copies.Tell({work, -1, -1, kEmpty});
  }

  __device__ int Take() const {
    int taken = 0;
    if (IsFirstLane()) taken = atomicAdd(call.counter, 1);
    return __shfl_sync(~0u, taken, 0);
  }

  __device__ void LoadAll() {
    const Sizes& s = call.sizes;
    const int works = s.B * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
    // In order, a thread block that does not run yet must not have work that others wait for.
    const int given = call.order == nullptr ? gridDim.x / Tile::kCluster : 0;
    for (int work = given == 0 ? Take() : blockIdx.x / Tile::kCluster; work < works; work = given + Take()) {
      LoadKeyBlock(work);
    }
    copies.TellEnd({-1, -1, -1, kEmpty});
  }
};

// Copies the three terms of the rows from `row` of the call on, kBytes each. The last parameter, if given, is that of
// CopyBulk.
template <int kBytes, class... Blocks>
__device__ inline void CopyRowTerms(uint32_t shared, const BackwardParams& call, int64_t row, uint32_t barrier,
                                    Blocks... blocks) {
  CopyBulk(shared, call.reference + row, kBytes, barrier, blocks...);
  CopyBulk(shared + kBytes, call.weight + row, kBytes, barrier, blocks...);
  CopyBulk(shared + 2 * kBytes, call.rowShift + row, kBytes, barrier, blocks...);
}

// What is hidden of a lane's elements of a transposed tile, as bits: those of HideKeys(). The warp's part begins at key
// row0 of the problem, the tile at query r0 of head h of batch b. Each lane of a quad looks at one of their two keys
// and 32 queries, and gives the others their bits.
template <int kN>
__device__ inline uint32_t HiddenKeys(const BackwardParams& call, TileKind kind, int b, int h, int row0, int r0) {
  const Sizes& s = call.sizes;
  const Mask& mask = call.mask;
  const int lane = threadIdx.x % 4;
  const int key = row0 + ElementRow(0, lane % 2 * 2);
  const int first = r0 + (kN == 8 ? lane / 2 * 32 : 0);
  uint32_t hidden = 0;
  if (kind & kHidesEdge) {
    if (mask.causal) hidden = ~RowsFrom(key - (s.Sk - s.Sq), first);
    if (key >= s.Sk) hidden = ~0u;
  }
  if (kind & (kHidesLower | kHidesUpper)) {
    // Most masks are those of all heads, which takes no division.
    const int64_t maskHead = mask.maskB * mask.Hm == 1 ? 0 : MaskHeadOf(mask, b, h, s.H);
    const int2* halves = reinterpret_cast<const int2*>(mask.spans + maskHead * s.Sk + min(key, s.Sk - 1));
    if (kind & kHidesLower) hidden |= RowsOfSpan(__ldg(&halves[0]), first);
    if (kind & kHidesUpper) hidden |= RowsOfSpan(__ldg(&halves[1]), first);
  }
  // The bits of a lane, two of each eight, become a byte: pairs of bits swap places in squares of 2, then of 4.
  uint32_t moved = (hidden ^ hidden >> 6) & 0x00cc00cc;
  hidden ^= moved ^ moved << 6;
  moved = (hidden ^ hidden >> 12) & 0x0000f0f0;
  hidden ^= moved ^ moved << 12;
  // Each lane gets its byte of all four.
  hidden = __byte_perm(hidden, __shfl_xor_sync(~0u, hidden, 1), lane % 2 == 0 ? 0x6240 : 0x3715);
  return __byte_perm(hidden, __shfl_xor_sync(~0u, hidden, 2), lane / 2 == 0 ? 0x5410 : 0x3276);
}

// Sets the scores of these bits to minus infinity. Bits are asked for byte by byte, because one instruction turns those
// of a byte into predicates.
template <int kN>
__device__ inline void HideKeys(float (&scores)[kN][4], uint32_t hidden) {
#pragma unroll
  for (int byte = 0; byte < kN / 2; ++byte) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (hidden & 1u << (byte * 8 + i)) scores[byte / 2 * 4 + i / 2][byte % 2 * 2 + i % 2] = -kInfinity;
    }
  }
}

// Which of the four elements of a block of a transposed tile are kept: bit i is element i's. Its first element is the
// pair of query `row` and key `column`. One Philox counter serves four keys of one query, which four lanes have: each
// of these draws for one of the queries and halves.
__device__ inline uint32_t KeptTransposed(const Dropout& d, int batchHead, int row, int column) {
  const int own = threadIdx.x / 4 % 4;  // the key among four
  const uint32_t drawn = static_cast<uint32_t>(column - own + (own >> 1) * 8) >> 2;
  const uint4 x = Philox(drawn, row + (own & 1), batchHead, d.key0, d.key1);
  const uint32_t bits =
      (x.x >= d.threshold) | (x.y >= d.threshold) << 1 | (x.z >= d.threshold) << 2 | (x.w >= d.threshold) << 3;
  const int first = threadIdx.x % kWarp - own * 4;
  uint32_t kept = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) kept |= (__shfl_sync(~0u, bits, first + i * 4) >> own & 1) << i;
  return kept;
}

}  // namespace flashmask::cuda
