// The forward kernels of few rows. The thread blocks of a key head share its tiles of keys; each computes all rows of
// the head over its own tiles. A second kernel combines the results of the thread blocks in a fixed order.
#include <algorithm>

#include "dropout.cuh"
#include "few_rows.h"
#include "few_rows_floats.cuh"
#include "few_rows_tensor.cuh"
#include "forward.cuh"
#include "host.h"
#include "mask.cuh"
#include "primitives.cuh"
#include "start.h"

namespace flashmask::cuda {

// A tile of keys; -1: none.
struct KeyTile {
  int tile;
  bool partial;
};

// The kind of a tile over the rows of all query heads.
template <class Tile>
__device__ inline TileKind ClassifyKeys(const FewRowsParams& p, const HeadRows& at, int tile) {
  const Sizes& s = p.sizes;
  constexpr int kBlock = Tile::kKeys < kMapBlock ? kMapBlock : Tile::kKeys;
  const int c0 = tile * Tile::kKeys;
  const int c1 = min(c0 + Tile::kKeys, s.Sk);
  const int64_t maskHead = MaskHeadOf(p.mask, at.b, at.firstHead, s.H);
  const int maskHeads = max(p.mask.Hm / s.Hkv, 1);
  TileKind kinds = kEmpty;
  bool anyEmpty = false;
  for (int i = 0; i < maskHeads; ++i) {
    const BlockBounds bounds = ReadBlockBounds<kBlock>(p.mask, maskHead + i, c0 / kBlock);
    const TileKind kind = Classify(bounds, p.mask.causal, 0, s.Sq, c0, c1, c0 + Tile::kKeys > s.Sk, s.Sk - s.Sq);
    kinds |= kind;
    anyEmpty |= kind == kEmpty;
  }
  // A tile that is full for some heads and empty for others hides pairs.
  return kinds != kEmpty && anyEmpty ? kinds | kHidesEdge : kinds;
}

// Starts the copy of a tile from row `row0` of a head. Rows and channels past the end become zeros.
template <class Tile, class Swizzle>
__device__ inline void CopyFloats(float* tile, const float* head, const ConstTensor32& tensor, int row0, int rows) {
  const uint32_t to = SharedAddress(tile);
  const int channel = threadIdx.x % Tile::kChunks * 4;
  const int first = threadIdx.x / Tile::kChunks;
  const float* from = head + (row0 + first) * tensor.row + channel;
#pragma unroll
  for (int row = 0; row < Tile::kKeys; row += Tile::kKeyLanes) {
    const int own = first + row;
    const uint32_t place = to + (own * Tile::kD + (channel ^ Swizzle::Of(own))) * 4;
    const bool valid = row0 + own < rows;
    if (tensor.channels % 4 == 0) {
      CopyAsync16(place, from, valid && channel < tensor.channels);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) CopyAsync4(place + e * 4, from + e, valid && channel + e < tensor.channels);
    }
    from += Tile::kKeyLanes * tensor.row;
  }
}

// Writes the queries, multiplied by the factor of the scale, to shared memory. Missing rows and channels are zeros.
template <class Products>
__device__ inline void LoadQueries(float* queries, const FewRowsParams& p, const HeadRows& at) {
  using Tile = typename Products::Tile;
  const int Sq = p.sizes.Sq;
  for (int i = threadIdx.x; i < Tile::kRows * Tile::kD; i += Tile::kThreads) {
    const int row = i / Tile::kD;
    const int channel = i % Tile::kD;
    const float* q = p.q.data + at.b * p.q.batch + (at.firstHead + row / Sq) * p.q.head + row % Sq * p.q.row + channel;
    const float x = row < at.rows && channel < p.q.channels ? *q * p.scoreScale.factor : 0.f;
    queries[row * Tile::kD + (channel ^ Products::KeySwizzle::Of(row))] = Products::Query(x);
  }
}

// The softmax of a warp's rows.
template <class Tile>
struct WarpRows {
  float reference[Tile::kRowsOfWarp];  // subtracted from scores, in powers of two; minus infinity before the first
  float sum[Tile::kRowsOfWarp];        // of this lane's keys
};

__device__ inline bool IsKept(const Dropout& d, int batchHead, int row, int column) {
  const uint4 words = Philox(static_cast<uint32_t>(column) >> 2, row, batchHead, d.key0, d.key1);
  const uint32_t low = column & 1 ? words.y : words.x;
  const uint32_t high = column & 1 ? words.w : words.z;
  return (column & 2 ? high : low) >= d.threshold;
}

// Turns the scores of a tile from column c0 on into weights, 2^(score - reference), and adds them to the sums. Gives
// whether the reference of one of the warp's rows was raised; all rows have the factors of their earlier sums in
// `factors`.
template <class Tile>
__device__ inline bool ComputeWeights(WarpRows<Tile>& own, float* scores, float* factors, const FewRowsParams& p,
                                      const HeadRows& at, float scale2, int c0, bool partial) {
  constexpr int kLaneKeys = (Tile::kKeys + kWarp - 1) / kWarp;
  const Sizes& s = p.sizes;
  const int lane = threadIdx.x % kWarp;
  bool anyRaised = false;
#pragma unroll
  for (int o = 0; o < Tile::kRowsOfWarp; ++o) {
    const int row = threadIdx.x / kWarp * Tile::kRowsOfWarp + o;
    const int query = row % s.Sq;
    // Rows past the last one have the mask of any head: nobody reads their results.
    const int head = min(at.firstHead + row / s.Sq, s.H - 1);
    const int64_t maskHead = MaskHeadOf(p.mask, at.b, head, s.H);
    float x[kLaneKeys];
    bool hidden[kLaneKeys];
#pragma unroll
    for (int i = 0; i < kLaneKeys; ++i) {
      const int key = lane + i * kWarp;
      const int column = c0 + key;
      hidden[i] = key >= Tile::kKeys || (partial && (column >= s.Sk || !Sees(p.mask, maskHead, s, query, column)));
      x[i] = hidden[i] ? -kInfinity : scores[key * Tile::kScoreStride + row];
    }
    float largest = x[0];
#pragma unroll
    for (int i = 1; i < kLaneKeys; ++i) largest = fmaxf(largest, x[i]);
    largest = WarpMax(largest) * scale2;
    float& reference = own.reference[o];
    const bool raise = largest - reference > kSlack;
    const float factor = raise ? Exp2(reference - largest) : 1.f;
    reference = raise ? largest : reference;
    anyRaised |= raise;
    own.sum[o] *= factor;
    if (lane == 0) factors[row] = factor;
#pragma unroll
    for (int i = 0; i < kLaneKeys; ++i) {
      const int key = lane + i * kWarp;
      float weight = Exp2(fmaf(x[i], scale2, -FiniteReference(reference)));
      own.sum[o] += weight;
      if (p.dropout.threshold != 0 && !IsKept(p.dropout, at.b * s.H + head, query, c0 + key)) weight = 0;
      if (key < Tile::kKeys) scores[key * Tile::kScoreStride + row] = hidden[i] ? kHiddenWeight : weight;
    }
  }
  return anyRaised;
}

__device__ inline int PartialChannels(const FewRowsParams& p) { return (p.v.channels + 3) / 4 * 4; }

// Stores the statistics of a warp's rows.
template <class Tile>
__device__ inline void StoreStats(float2* to, int rows, const WarpRows<Tile>& own) {
#pragma unroll
  for (int o = 0; o < Tile::kRowsOfWarp; ++o) {
    const int row = threadIdx.x / kWarp * Tile::kRowsOfWarp + o;
    const float sum = WarpSum(own.sum[o]);
    if (threadIdx.x % kWarp == 0 && row < rows) to[row] = {own.reference[o], sum};
  }
}

// Thread blocks of different heads that read the same keys are neighbours, because these keys may be neighbours in
// memory. The splits of a head take its tiles in turn, so that each gets its part of the live ones.
template <class Products>
__global__ void __launch_bounds__(Products::Tile::kThreads, Products::Tile::kBlocks)
    FewRowsKernel(const __grid_constant__ FewRowsParams p) {
  using Tile = typename Products::Tile;
  extern __shared__ __align__(16) uint8_t shared[];
  const auto floats = reinterpret_cast<float*>(shared);
  float* queries = floats + Tile::kQueriesAt;
  float* scores = floats + Tile::kScoresAt;
  float* factors = floats + Tile::kFactorsAt;
  const auto keysAt = [&](int stage) { return floats + stage * Tile::kTileFloats; };
  const auto valuesAt = [&](int stage) { return floats + Tile::kValuesAt + stage * Tile::kTileFloats; };

  const int heads = p.sizes.B * p.sizes.Hkv;
  const int keyBatchHead = blockIdx.x % heads;
  const int split = blockIdx.x / heads;
  const HeadRows at = HeadRowsAt(p.sizes, keyBatchHead);
  const int Sk = p.sizes.Sk;
  const float* k = p.k.data + at.b * p.k.batch + at.keyHead * p.k.head;
  const float* v = p.v.data + at.b * p.v.batch + at.keyHead * p.v.head;
  const auto copyKeys = [&](int tile, int stage) {
    if (tile >= 0) CopyFloats<Tile, typename Products::KeySwizzle>(keysAt(stage), k, p.k, tile * Tile::kKeys, Sk);
    CommitCopies();
  };
  const auto copyValues = [&](int tile, int stage) {
    if (tile >= 0) CopyFloats<Tile, typename Products::ValueSwizzle>(valuesAt(stage), v, p.v, tile * Tile::kKeys, Sk);
    CommitCopies();
  };
  const int tiles = (Sk + Tile::kKeys - 1) / Tile::kKeys;
  LiveBlocks live(0, (tiles - split + p.splits - 1) / p.splits);
  const auto nextTile = [&] {
    bool partial = false;
    const int i = live.Next(&partial, [&](int i) { return ClassifyKeys<Tile>(p, at, split + i * p.splits); });
    return KeyTile{i < 0 ? -1 : split + i * p.splits, partial};
  };

  KeyTile current = nextTile();
  copyKeys(current.tile, 0);
  copyValues(current.tile, 0);
  KeyTile next = nextTile();
  copyKeys(next.tile, 1);
  LoadQueries<Products>(queries, p, at);
  const float scale2 = ScaleOfScores({1, p.scoreScale.exponent}, 0);
  Products products;
  WarpRows<Tile> own;
#pragma unroll
  for (int o = 0; o < Tile::kRowsOfWarp; ++o) {
    own.reference[o] = -kInfinity;
    own.sum[o] = 0;
  }
  // Copies that are started later are those of the next values, and of the keys after the next.
  for (int stage = 0; current.tile >= 0; stage ^= 1) {
    WaitCopies<2>();
    __syncthreads();
    copyValues(next.tile, stage ^ 1);
    Products::Scores(scores, keysAt(stage), queries);
    const KeyTile afterNext = nextTile();
    __syncthreads();
    copyKeys(afterNext.tile, stage);
    const bool raised =
        ComputeWeights<Tile>(own, scores, factors, p, at, scale2, current.tile * Tile::kKeys, current.partial);
    WaitCopies<3>();
    if (__syncthreads_or(raised)) products.Rescale(factors);
    if (current.partial) {
      products.template Add<true>(valuesAt(stage), scores);
    } else {
      products.template Add<false>(valuesAt(stage), scores);
    }
    current = next;
    next = afterNext;
  }
  __syncthreads();
  const int64_t place = (static_cast<int64_t>(keyBatchHead) * p.splits + split) * at.rows;
  const int channels = PartialChannels(p);
  products.Store(p.partialOut + place * channels, at.rows, channels, floats);
  StoreStats<Tile>(p.partialStats + place, at.rows, own);
}

constexpr int kCombineThreads = 256;
constexpr int kCombineWarps = kCombineThreads / kWarp;

// One thread block per row of [B, H, Sq]. Each warp adds up every kCombineWarps-th split.
__global__ void __launch_bounds__(kCombineThreads) CombineSplitsKernel(const __grid_constant__ FewRowsParams p) {
  constexpr int kLaneQuads = kMaxHeadSize / (4 * kWarp);
  const Sizes& s = p.sizes;
  const int64_t index = blockIdx.x;
  const int row = index % s.Sq;
  const int batchHead = index / s.Sq;
  const int group = s.H / s.Hkv;
  const int rows = group * s.Sq;
  const int64_t first = static_cast<int64_t>(batchHead / group) * p.splits * rows + batchHead % group * s.Sq + row;
  const int channels = PartialChannels(p);
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;

  float reference = -kInfinity;
  for (int i = lane; i < p.splits; i += kWarp) {
    reference = fmaxf(reference, p.partialStats[first + static_cast<int64_t>(i) * rows].x);
  }
  reference = FiniteReference(WarpMax(reference));
  float out[kLaneQuads][4] = {};
  float sum = 0;
#pragma unroll 4
  for (int i = warp; i < p.splits; i += kCombineWarps) {
    const int64_t at = first + static_cast<int64_t>(i) * rows;
    const float2 stats = p.partialStats[at];
    const float factor = Exp2(stats.x - reference);
    sum = fmaf(factor, stats.y, sum);
#pragma unroll
    for (int n = 0; n < kLaneQuads; ++n) {
      const int channel = (lane + n * kWarp) * 4;
      if (channel >= channels) continue;
      const float4 x = ReadQuad(p.partialOut + at * channels + channel);
      out[n][0] = fmaf(factor, x.x, out[n][0]);
      out[n][1] = fmaf(factor, x.y, out[n][1]);
      out[n][2] = fmaf(factor, x.z, out[n][2]);
      out[n][3] = fmaf(factor, x.w, out[n][3]);
    }
  }
  static __shared__ float sums[kCombineWarps];
  static __shared__ __align__(16) float outs[kCombineWarps][kMaxHeadSize];
  if (lane == 0) sums[warp] = sum;
#pragma unroll
  for (int n = 0; n < kLaneQuads; ++n) WriteQuad(&outs[warp][(lane + n * kWarp) * 4], out[n]);
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kCombineWarps; ++i) total += sums[i];
  const int b = batchHead / s.H;
  const int h = batchHead % s.H;
  // If all visible scores of a row are minus infinity, its output is 0 / 0.
  if (total == 0 && SeesKeys(p.mask, MaskHeadOf(p.mask, b, h, s.H), s, row)) total = kNaN;
  const float factor = total == 0 ? 0.f : p.dropout.keepScale / total;
  float* to = p.out.data + b * p.out.batch + h * p.out.head + row * p.out.row;
  for (int channel = threadIdx.x; channel < p.out.channels; channel += kCombineThreads) {
    float x = 0;
#pragma unroll
    for (int i = 0; i < kCombineWarps; ++i) x += outs[i][channel];
    to[channel] = x * factor;
  }
  if (threadIdx.x == 0) {
    p.lse[index] = total == 0 ? -kInfinity : (reference + log2f(total)) * kLn2;
    p.rowStats[index] = {reference, total};
  }
}

template <class Products>
cudaError_t LaunchProducts(const FewRowsParams& params, cudaStream_t stream) {
  using Tile = typename Products::Tile;
  static_assert(Tile::kSharedBytes <= kSmallShared, "tiles fit the shared memory");
  const auto kernel = FewRowsKernel<Products>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  if (error != cudaSuccess) return error;
  // All of a multiprocessor's memory, so that as many thread blocks as fit share it.
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  const int64_t blocks = int64_t{params.sizes.B} * params.sizes.Hkv * params.splits;
  return Start(kernel, {static_cast<unsigned>(blocks), Tile::kThreads, Tile::kSharedBytes, stream}, params);
}

template <int kD>
cudaError_t LaunchHeadSize(const FewRowsParams& params, cudaStream_t stream) {
  const int rows = params.sizes.H / params.sizes.Hkv * params.sizes.Sq;
  if (rows <= 4) return LaunchProducts<FloatProducts<FewRowsTile<kD, 4>>>(params, stream);
  if (rows <= 8) return LaunchProducts<FloatProducts<FewRowsTile<kD, 8>>>(params, stream);
  if (!params.mayRound) return LaunchProducts<FloatProducts<FewRowsTile<kD, kFewRowsExact>>>(params, stream);
  if (rows <= 16) return LaunchProducts<TensorProducts<FewRowsTile<kD, 16>>>(params, stream);
  return LaunchProducts<TensorProducts<FewRowsTile<kD, kFewRows>>>(params, stream);
}

cudaError_t LaunchFewRows(int kD, const FewRowsParams& params, cudaStream_t stream) {
  const auto launch = kD == 64 ? LaunchHeadSize<64> : kD == 128 ? LaunchHeadSize<128> : LaunchHeadSize<256>;
  const cudaError_t error = launch(params, stream);
  if (error != cudaSuccess) return error;
  const int64_t rows = int64_t{params.sizes.B} * params.sizes.H * params.sizes.Sq;
  return Start(CombineSplitsKernel, {static_cast<unsigned>(rows), kCombineThreads, 0, stream}, params);
}

}  // namespace flashmask::cuda
