// What the backward kernels on Hopper share: the block of keys that is taken, the walk of the loading warp over the
// live query blocks of all query heads of the key head, and what is masked or dropped in transposed tiles.
#pragma once

#include "column_block.cuh"
#include "dropout.cuh"
#include "hopper.cuh"
#include "not_finite.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

struct HopperBackwardParams {
  CUtensorMap q, k, v, dOut;
  CUtensorMap dq;  // in boxes of 32 floats x 64 rows
  BackwardParams call;
};

// What the loading warp tells of a stage: a query block of a head of the group for the key block `work`, or the end of
// the key block (block -1), or the end of all work (work -1).
struct QueryEntry {
  int work, head, block;
  TileKind kind;
};

// The key block that is taken as number `work`. Heads take turns, so that those with the most work come first.
template <class Tile>
__device__ inline KeyBlock TakenKeys(int work, const Sizes& s, const Mask& mask) {
  return KeyBlockAt<Tile::kBlockK>(work, s, mask.causal || mask.spans != nullptr);
}

// The warp that loads. Copies copies keys and query blocks, and tells of them.
template <class Tile, class Copies>
struct BackwardLoader {
  const BackwardParams& call;
  Copies copies;

  __device__ void LoadKeyBlock(int work) {
    const Sizes& s = call.sizes;
    const KeyBlock keys = TakenKeys<Tile>(work, s, call.mask);
    const int offset = s.Sk - s.Sq;
    const int firstBlock = call.mask.causal ? max(keys.c0 - offset, 0) / Tile::kBlockQ : 0;
    const int blocks = (s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ;
    // Key heads with numbers that are not finite are left to the kernel of backward.cuh.
    const int heads = HasNotFinite(call, keys.keyBatchHead) ? 0 : keys.group;
    bool loaded = false;
    for (int head = 0; head < heads; ++head) {
      const int64_t maskHead = MaskHeadOf(call.mask, keys.b, keys.keyHead * keys.group + head, s.H);
      const BlockBounds bounds = ReadBlockBounds<Tile::kBlockK>(call.mask, maskHead, keys.block);
      const auto classify = [&](int block) {
        const int r0 = block * Tile::kBlockQ;
        return Classify(bounds, call.mask.causal, r0, min(r0 + Tile::kBlockQ, s.Sq), keys.c0, keys.c1,
                        keys.c0 + Tile::kBlockK > s.Sk, offset);
      };
      LiveBlocks live(firstBlock, blocks);
      bool partial;
      for (int block; (block = live.Next(&partial, classify)) >= 0;) {
        if (!loaded) copies.LoadKeys(keys);
        loaded = true;
        copies.LoadQueries(keys, {work, head, block, live.Kind(block)});
      }
    }
    copies.Tell({work, -1, -1, kEmpty});
  }

  __device__ void LoadAll() {
    const Sizes& s = call.sizes;
    const int works = s.B * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
    for (int work = blockIdx.x / Tile::kCluster; work < works;) {
      LoadKeyBlock(work);
      if (IsFirstLane()) work = gridDim.x / Tile::kCluster + atomicAdd(call.counter, 1);
      work = __shfl_sync(~0u, work, 0);
    }
    copies.Tell({-1, -1, -1, kEmpty});
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

// A bit for each of 64 queries from r0 on, of those before `row`.
__device__ inline uint64_t QueriesBefore(int row, int r0) {
  const int count = max(row, r0) - r0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// The same of those in `length` rows from `start` on. The end fits an int, the length may not.
__device__ inline uint64_t QueriesWithin(int start, int length, int r0) {
  const int end = static_cast<int>(static_cast<uint32_t>(start) + static_cast<uint32_t>(length));
  return QueriesBefore(end, r0) & ~QueriesBefore(start, r0);
}

// Sets masked scores of a warp's part of a transposed tile to minus infinity. The part begins at key row0 of the
// problem, the tile at query r0. `spans` are those of the mask head.
template <int kN>
__device__ inline void HideMaskedKeys(float (&scores)[kN][4], const int4* spans, bool causal, int row0, int r0, int Sq,
                                      int Sk) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = row0 + ElementRow(0, 2 * half);
    const bool outside = key >= Sk;
    uint64_t hidden = QueriesBefore(outside ? 0x7fffffff : causal ? key - (Sk - Sq) : 0, r0);
    if (spans != nullptr && !outside) {
      const int4 span = __ldg(&spans[key]);
      hidden |= QueriesWithin(span.x, span.y, r0) | QueriesWithin(span.z, span.w, r0);
    }
    hidden >>= ElementColumn(0, 0);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (hidden >> (n * 8 + e) & 1) scores[n][2 * half + e] = -kInfinity;
      }
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

// Stores a warp's part of dk or dv by four channels at a time: lanes exchange the pairs of two blocks and have half of
// one block each. Fours must be aligned.
template <int kN>
__device__ inline void StoreRowsByFours(float* head, const Tensor32& to, const float (&x)[kN][4], float factor,
                                        int row0, int channel0, int rows) {
  const bool odd = threadIdx.x % 2 == 1;
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    const int channel = channel0 + (n + odd) * 8 + threadIdx.x % 4 / 2 * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(0, 2 * half);
      const float2 even = {x[n][2 * half] * factor, x[n][2 * half + 1] * factor};
      const float2 other = {x[n + 1][2 * half] * factor, x[n + 1][2 * half + 1] * factor};
      const float2 taken = {__shfl_xor_sync(~0u, odd ? even.x : other.x, 1),
                            __shfl_xor_sync(~0u, odd ? even.y : other.y, 1)};
      if (row < rows && channel < to.channels) {
        *reinterpret_cast<float4*>(head + row * to.row + channel) =
            odd ? float4{taken.x, taken.y, other.x, other.y} : float4{even.x, even.y, taken.x, taken.y};
      }
    }
  }
}

// Stores a warp's part of dk or dv.
template <int kN>
__device__ inline void StoreKeyRows(float* head, const Tensor32& to, const float (&x)[1][kN][4], float factor, int row0,
                                    int channel0, int rows) {
  if (to.channels % 4 == 0 && to.row % 4 == 0 && reinterpret_cast<uintptr_t>(head) % 16 == 0) {
    StoreRowsByFours(head, to, x[0], factor, row0, channel0, rows);
  } else {
    StoreRows(head, to, x, factor, row0, channel0, rows);
  }
}

}  // namespace flashmask::cuda
