// The entry points of attention.h and attention16.h: scratch memory, conversions, and the order of the kernels.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "../attention.h"
#include "attention16.h"
#include "bounds_map.cuh"
#include "convert.cuh"
#include "hopper_backward.h"
#include "hopper_forward.h"
#include "host.h"
#include "launch.h"
#include "tiles.h"

namespace flashmask::cuda {
namespace {

constexpr int kRowsThreads = 256;

// Hands out buffers of the scratch memory; with a null base it only counts bytes.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* Take(int64_t count) {
    T* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += CeilDivide(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    return result;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  int64_t bytes_ = 0;
};

struct Strides {
  int64_t batch, row, head;
};

Strides StridesOf(bool bhsd, int64_t rows, int64_t heads, int64_t channels) {
  const int64_t batch = rows * heads * channels;
  return bhsd ? Strides{batch, channels, rows * channels} : Strides{batch, heads * channels, channels};
}

template <class Float>
TensorOf<Float> TensorIn(const Problem& p, Float* data, int64_t rows, int64_t heads, int64_t channels) {
  const Strides s = StridesOf(p.bhsd, rows, heads, channels);
  return {data, s.batch, s.row, s.head, static_cast<int>(channels)};
}

Tensor16 Tensor16In(const Problem& p, const void* data, int64_t rows, int64_t heads, int64_t channels) {
  const Strides s = StridesOf(p.bhsd, rows, heads, channels);
  return {data, s.batch, s.row, s.head, 0, static_cast<int>(channels)};
}

// Takes memory for a float32 tensor in 16 bits: [parts, B, heads, rows, channels].
Tensor16 TakeTensor16(Scratch& scratch, int parts, int64_t B, int64_t heads, int64_t rows, int64_t channels) {
  const int64_t padded = CeilDivide(channels, 8) * 8;
  const int64_t part = B * heads * rows * padded;
  return {scratch.Take<uint16_t>(parts * part),
          heads * rows * padded,
          padded,
          rows * padded,
          part,
          static_cast<int>(padded)};
}

int PartsOf(const Problem& p) { return p.precision == Precision::kFloat32 ? 2 : 1; }
bool IsBfloat16(const Problem& p) { return p.precision == Precision::kBFloat16; }

Sizes SizesOf(const Problem& p) {
  return {static_cast<int>(p.B), static_cast<int>(p.H), static_cast<int>(p.Hkv), static_cast<int>(p.Sq),
          static_cast<int>(p.Sk)};
}

Dropout DropoutOf(const Problem& p) {
  const bool drops = p.dropoutThreshold != 0;
  return {p.dropoutThreshold, drops ? p.keepScale : 1.f, static_cast<uint32_t>(p.seed),
          static_cast<uint32_t>(p.seed >> 32)};
}

cudaError_t VariantOf(const Problem& p, Variant* variant) {
  int device = 0;
  int major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  const int64_t channels = std::max(p.D, p.Dv);
  *variant = {channels <= 64 ? 64 : channels <= 128 ? 128 : 256, major == 9};
  const bool fits = variant->large || variant->kD < 256 || PartsOf(p) == 1;
  return major >= 8 && fits ? cudaSuccess : cudaErrorNotSupported;
}

// The spans, bounds map and ranges of the mask, in scratch.
struct MaskScratch {
  int4* spans;
  int4* boundsMap;
  uint8_t* seeing;
  int2* ranges;
  int* counter;  // of the work that is taken; 0 before a kernel takes any
};

// The smallest blockQ of all kernels that use ranges.
constexpr int kLeastBlockQ = 32;

MaskScratch TakeMask(const Problem& p, Scratch& scratch) {
  MaskScratch mask = {};
  mask.counter = scratch.Take<int>(1);
  if (p.n == 0) return mask;
  const int64_t heads = p.maskB * p.Hm;
  mask.spans = scratch.Take<int4>(heads * p.Sk);
  mask.boundsMap = scratch.Take<int4>(heads * CeilDivide(p.Sk, kMapBlock) * 2);
  mask.seeing = scratch.Take<uint8_t>(heads * p.Sq);
  mask.ranges = scratch.Take<int2>(heads * CeilDivide(p.Sq, kLeastBlockQ));
  return mask;
}

Mask MaskOf(const Problem& p, const MaskScratch& scratch) {
  return {scratch.spans,
          scratch.boundsMap,
          scratch.seeing,
          static_cast<int>(CeilDivide(p.Sk, kMapBlock)),
          static_cast<int>(p.maskB),
          static_cast<int>(p.Hm),
          p.causal};
}

// Computes spans, boundsMap and seeing.
void LaunchMask(const Problem& p, const int32_t* bounds, const MaskScratch& scratch, cudaStream_t stream) {
  if (p.n == 0) return;
  constexpr int kThreads = 128;
  const int mapBlocks = static_cast<int>(CeilDivide(p.Sk, kMapBlock));
  const dim3 grid(static_cast<unsigned>(CeilDivide(mapBlocks, kThreads / 32)), static_cast<unsigned>(p.maskB * p.Hm));
  BoundsMapKernel<kThreads><<<grid, kThreads, 0, stream>>>(
      bounds, static_cast<int>(p.n), p.causal, static_cast<int>(p.Sk), mapBlocks, scratch.spans, scratch.boundsMap);
  const dim3 rows(static_cast<unsigned>(CeilDivide(p.Sq, kThreads / 32)), static_cast<unsigned>(p.maskB * p.Hm));
  SeeingKernel<kThreads><<<rows, kThreads, 0, stream>>>(MaskOf(p, scratch), SizesOf(p), scratch.seeing);
}

// Computes the ranges for a kernel with these block sizes.
void LaunchRanges(const Problem& p, const MaskScratch& scratch, int blockQ, int blockK, cudaStream_t stream) {
  if (p.n == 0) return;
  constexpr int kThreads = 128;
  const int queryBlocks = static_cast<int>(CeilDivide(p.Sq, blockQ));
  const dim3 grid(static_cast<unsigned>(CeilDivide(queryBlocks, kThreads / 32)), static_cast<unsigned>(p.maskB * p.Hm));
  RangesKernel<kThreads><<<grid, kThreads, 0, stream>>>(MaskOf(p, scratch), static_cast<int>(p.Sq),
                                                        static_cast<int>(p.Sk), blockQ, blockK, queryBlocks,
                                                        scratch.ranges, scratch.counter);
}

template <class Get>
auto OfVariant(const Variant& v, int parts, Get get) {
  if (v.kD == 64) {
    if (parts == 1) return v.large ? get(Tiles<64, 1, true>()) : get(Tiles<64, 1, false>());
    return v.large ? get(Tiles<64, 2, true>()) : get(Tiles<64, 2, false>());
  }
  if (v.kD == 128) {
    if (parts == 1) return v.large ? get(Tiles<128, 1, true>()) : get(Tiles<128, 1, false>());
    return v.large ? get(Tiles<128, 2, true>()) : get(Tiles<128, 2, false>());
  }
  if (parts == 1) return v.large ? get(Tiles<256, 1, true>()) : get(Tiles<256, 1, false>());
  return v.large ? get(Tiles<256, 2, true>()) : get(Tiles<256, 2, false>());
}

void LaunchForwardRanges(const Problem& p, const Variant& v, int parts, const MaskScratch& mask, cudaStream_t stream) {
  OfVariant(v, parts, [&](auto tiles) {
    using Tile = typename decltype(tiles)::Forward;
    LaunchRanges(p, mask, Tile::kBlockQ, Tile::kBlockK, stream);
  });
}

void LaunchDqRanges(const Problem& p, const Variant& v, int parts, const MaskScratch& mask, cudaStream_t stream) {
  OfVariant(v, parts, [&](auto tiles) {
    using Tile = typename decltype(tiles)::Dq;
    LaunchRanges(p, mask, Tile::kBlockQ, Tile::kBlockK, stream);
  });
}

// Rounds float32 tensors to 16 bits, in two passes: one for numbers of ordinary size, one for the others.
void LaunchConvert(const Problem& p, const Mask& mask, std::initializer_list<ConvertParams> tensors,
                   cudaStream_t stream) {
  ConvertList list = {SizesOf(p), mask, {}};
  std::copy(tensors.begin(), tensors.end(), list.tensors);
  int rows = 0;
  int heads = 0;
  for (const ConvertParams& tensor : tensors) {
    rows = std::max(rows, tensor.rows);
    heads = std::max(heads, tensor.heads);
  }
  const dim3 grid(static_cast<unsigned>(p.B * heads), static_cast<unsigned>(CeilDivide(rows, kConvertRows)),
                  static_cast<unsigned>(tensors.size()));
  if (IsBfloat16(p)) {
    ConvertKernel<__nv_bfloat16, 1, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list);
  } else if (PartsOf(p) == 1) {
    ConvertKernel<__half, 1, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list);
    ConvertKernel<__half, 1, ConvertStep::kScale><<<grid, kConvertThreads, 0, stream>>>(list);
  } else {
    ConvertKernel<__half, 2, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list);
    ConvertKernel<__half, 2, ConvertStep::kScale><<<grid, kConvertThreads, 0, stream>>>(list);
  }
}

// A number as factor · 2^exponent with a factor from 1/2 to 1.
Scale ScaleOf(double x) {
  int exponent = 0;
  const double factor = std::frexp(x, &exponent);
  return {static_cast<float>(factor), exponent};
}

Scale ScoreScaleOf(const Problem& p) {
  constexpr double kLog2E = 1.4426950408889634;
  return ScaleOf(p.scale * kLog2E);
}

ConvertParams ConvertQueries(const Problem& p, const float* from, const Tensor16& to, const Facts& facts, float factor,
                             int64_t channels) {
  const int group = static_cast<int>(p.H / p.Hkv);
  const int rows = static_cast<int>(p.Sq);
  return {TensorIn(p, from, p.Sq, p.H, channels), to, facts, factor, false, static_cast<int>(p.H), group, rows};
}

ConvertParams ConvertKeys(const Problem& p, const float* from, const Tensor16& to, const Facts& facts,
                          int64_t channels) {
  const int rows = static_cast<int>(p.Sk);
  return {TensorIn(p, from, p.Sk, p.Hkv, channels), to, facts, 1, true, static_cast<int>(p.Hkv), 1, rows};
}

// q, k and v in 16 bits.
struct Inputs16 {
  Tensor16 q, k, v;
};

Inputs16 TakeInputs(const Problem& p, Scratch& scratch) {
  const int parts = PartsOf(p);
  return {TakeTensor16(scratch, parts, p.B, p.H, p.Sq, p.D), TakeTensor16(scratch, parts, p.B, p.Hkv, p.Sk, p.D),
          TakeTensor16(scratch, parts, p.B, p.Hkv, p.Sk, p.Dv)};
}

Inputs16 GivenInputs(const Problem& p, const void* q, const void* k, const void* v) {
  return {Tensor16In(p, q, p.Sq, p.H, p.D), Tensor16In(p, k, p.Sk, p.Hkv, p.D), Tensor16In(p, v, p.Sk, p.Hkv, p.Dv)};
}

// The facts of a call are those of q, k, v, dOut and the rows, two words each for B * Hkv heads.
constexpr int kFactTensors = 5;

uint32_t* TakeFacts(const Problem& p, Scratch& scratch) {
  return scratch.Take<uint32_t>(2 * kFactTensors * p.B * p.Hkv);
}

cudaError_t ClearFacts(const Problem& p, uint32_t* facts, cudaStream_t stream) {
  return cudaMemsetAsync(facts, 0, 2 * kFactTensors * p.B * p.Hkv * sizeof(uint32_t), stream);
}

// The facts of one tensor. bfloat16 has the range of float32 and needs no magnitudes.
Facts FactsOf(const Problem& p, uint32_t* all, int tensor) {
  uint32_t* own = all + 2 * tensor * p.B * p.Hkv;
  return {IsBfloat16(p) ? nullptr : own, own + p.B * p.Hkv};
}

// Rounds q, k and v, and writes their factors and facts to a kernel's parameters.
template <class Params, class Tensors>
void ConvertInputs(const Problem& p, const Tensors& t, uint32_t* facts, Params* params, cudaStream_t stream) {
  const Scale scale = ScoreScaleOf(p);
  params->scoreScale = {1, scale.exponent};
  params->qFacts = FactsOf(p, facts, 0);
  params->kFacts = FactsOf(p, facts, 1);
  params->vFacts = FactsOf(p, facts, 2);
  LaunchConvert(
      p, params->mask,
      {ConvertQueries(p, t.q, params->q, params->qFacts, scale.factor, p.D),
       ConvertKeys(p, t.k, params->k, params->kFacts, p.D), ConvertKeys(p, t.v, params->v, params->vFacts, p.Dv)},
      stream);
}

ForwardParams ForwardParamsOf(const Problem& p, const Inputs16& in, const MaskScratch& mask, float* out, float* lse,
                              float* rowStats) {
  ForwardParams params = {};
  params.sizes = SizesOf(p);
  params.q = in.q;
  params.k = in.k;
  params.v = in.v;
  params.mask = MaskOf(p, mask);
  params.ranges = mask.ranges;
  params.counter = mask.counter;
  params.out = TensorIn(p, out, p.Sq, p.H, p.Dv);
  params.lse = lse;
  params.rowStats = reinterpret_cast<float2*>(rowStats);
  params.scoreScale = ScoreScaleOf(p);
  params.dropout = DropoutOf(p);
  return params;
}

// Whether the forward kernel on Hopper's own instructions runs a call.
bool UsesHopper(const Variant& variant, int parts) { return variant.large && variant.kD <= 128 && parts == 1; }

cudaError_t RunForward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const MaskScratch& mask,
                       const ForwardParams& params, cudaStream_t stream) {
  if (UsesHopper(variant, parts)) {
    LaunchRanges(p, mask, kHopperBlockQ, kHopperBlockK, stream);
    if (p.n == 0) {
      const cudaError_t error = cudaMemsetAsync(mask.counter, 0, sizeof(int), stream);
      if (error != cudaSuccess) return error;
    }
    return (bfloat16 ? LaunchHopperForwardBfloat16 : LaunchHopperForwardHalf)(variant.kD, params, stream);
  }
  LaunchForwardRanges(p, variant, parts, mask, stream);
  const auto launch = bfloat16 ? LaunchForwardBfloat16 : parts == 1 ? LaunchForwardHalf : LaunchForwardFloat32;
  return launch(variant, params, stream);
}

size_t LayOutForward(const Problem& p, void* base, Inputs16* in, MaskScratch* mask, uint32_t** facts) {
  Scratch scratch(base);
  *facts = TakeFacts(p, scratch);
  *mask = TakeMask(p, scratch);
  *in = TakeInputs(p, scratch);
  return scratch.bytes();
}

// Rows that the copy engine may read for a head: whole query blocks of every kernel.
int64_t RowsOfHead(const Problem& p) { return CeilDivide(p.Sq, 128) * 128; }

struct BackwardScratch {
  uint32_t* facts;
  MaskScratch mask;
  float* reference;
  float* weight;
  float* rowShift;
};

BackwardScratch TakeBackward(const Problem& p, Scratch& scratch) {
  BackwardScratch s;
  s.facts = TakeFacts(p, scratch);
  s.mask = TakeMask(p, scratch);
  s.reference = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  s.weight = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  s.rowShift = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  return s;
}

template <class T, class DOut>
void LaunchRows(const Problem& p, const float* out, const Tensor16& dOut, const Facts& dOutFacts, const float* rowStats,
                const float* dLse, const BackwardScratch& s, const Facts& rowFacts, cudaStream_t stream) {
  const RowsParams params = {SizesOf(p),
                             TensorIn(p, out, p.Sq, p.H, p.Dv),
                             dOut,
                             dOutFacts,
                             reinterpret_cast<const float2*>(rowStats),
                             dLse,
                             static_cast<int>(RowsOfHead(p)),
                             s.reference,
                             s.weight,
                             s.rowShift,
                             rowFacts,
                             s.mask.counter};
  const int64_t blocks = CeilDivide(p.B * p.H * RowsOfHead(p), kRowsThreads / 32);
  RowsKernel<T, DOut, kRowsThreads><<<static_cast<unsigned>(blocks), kRowsThreads, 0, stream>>>(params);
}

BackwardParams BackwardParamsOf(const Problem& p, const Inputs16& in, const Tensor16& dOut, const BackwardScratch& s,
                                float* dq, float* dk, float* dv) {
  BackwardParams params = {};
  params.sizes = SizesOf(p);
  params.q = in.q;
  params.k = in.k;
  params.v = in.v;
  params.dOut = dOut;
  params.mask = MaskOf(p, s.mask);
  params.ranges = s.mask.ranges;
  params.counter = s.mask.counter;
  params.rowsOfHead = static_cast<int>(RowsOfHead(p));
  params.reference = s.reference;
  params.weight = s.weight;
  params.rowShift = s.rowShift;
  params.dq = TensorIn(p, dq, p.Sq, p.H, p.D);
  params.dk = TensorIn(p, dk, p.Sk, p.Hkv, p.D);
  params.dv = TensorIn(p, dv, p.Sk, p.Hkv, p.Dv);
  params.scale = ScaleOf(p.scale);
  params.scoreScale = ScoreScaleOf(p);
  params.accumulateDq = !p.deterministic;
  params.dropout = DropoutOf(p);
  return params;
}

// Whether the kernels on Hopper's own instructions compute dk and dv, and dq too if not deterministic. The copy engine
// adds rows whose bytes are a multiple of 16.
bool UsesHopperBackward(const Problem& p, const Variant& variant, int parts) {
  return variant.large && parts == 1 && (p.deterministic || p.D % 4 == 0);
}

cudaError_t RunBackward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const MaskScratch& mask,
                        const BackwardParams& params, cudaStream_t stream) {
  if (p.deterministic) {
    LaunchDqRanges(p, variant, parts, mask, stream);
    const auto launch = bfloat16 ? LaunchDqBfloat16 : parts == 1 ? LaunchDqHalf : LaunchDqFloat32;
    const cudaError_t error = launch(variant, params, stream);
    if (error != cudaSuccess) return error;
  } else {
    const cudaError_t error = cudaMemsetAsync(params.dq.data, 0, p.B * p.H * p.Sq * p.D * sizeof(float), stream);
    if (error != cudaSuccess) return error;
  }
  const auto launch = bfloat16 ? LaunchBackwardBfloat16 : parts == 1 ? LaunchBackwardHalf : LaunchBackwardFloat32;
  if (!UsesHopperBackward(p, variant, parts)) return launch(variant, params, stream);
  const HopperBackwardHeads heads = HopperBackwardHeadsOf(p.D, p.Dv);
  const auto narrow = bfloat16 ? LaunchHopperBackwardBfloat16 : LaunchHopperBackwardHalf;
  const auto wide = bfloat16 ? LaunchHopperBackwardWideBfloat16 : LaunchHopperBackwardWideHalf;
  const cudaError_t error = (IsWide(heads) ? wide : narrow)(heads, params, stream);
  if (error != cudaSuccess || params.vFacts.notFinite == nullptr) return error;
  BackwardParams rest = params;
  rest.onlyNotFinite = true;
  return launch(variant, rest, stream);
}

size_t LayOutBackward(const Problem& p, void* base, Inputs16* in, Tensor16* dOut, BackwardScratch* s) {
  Scratch scratch(base);
  *s = TakeBackward(p, scratch);
  *in = TakeInputs(p, scratch);
  *dOut = TakeTensor16(scratch, PartsOf(p), p.B, p.H, p.Sq, p.Dv);
  return scratch.bytes();
}

}  // namespace

size_t ForwardScratchBytes(const Problem& p) {
  Inputs16 in;
  MaskScratch mask;
  uint32_t* facts;
  return LayOutForward(p, nullptr, &in, &mask, &facts);
}

Status Forward(const Problem& p, const ForwardTensors& t, void* scratch, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Inputs16 in;
  MaskScratch mask;
  uint32_t* facts;
  LayOutForward(p, scratch, &in, &mask, &facts);
  error = ClearFacts(p, facts, stream);
  if (error != cudaSuccess) return StatusOf(error);
  ForwardParams params = ForwardParamsOf(p, in, mask, t.out, t.lse, t.rowStats);
  LaunchMask(p, t.bounds, mask, stream);
  ConvertInputs(p, t, facts, &params, stream);
  return StatusOf(RunForward(p, variant, IsBfloat16(p), PartsOf(p), mask, params, stream));
}

size_t BackwardScratchBytes(const Problem& p) {
  Inputs16 in;
  Tensor16 dOut;
  BackwardScratch s;
  return LayOutBackward(p, nullptr, &in, &dOut, &s);
}

Status Backward(const Problem& p, const BackwardTensors& t, void* scratch, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Inputs16 in;
  Tensor16 dOut;
  BackwardScratch s;
  LayOutBackward(p, scratch, &in, &dOut, &s);
  error = ClearFacts(p, s.facts, stream);
  if (error != cudaSuccess) return StatusOf(error);
  BackwardParams params = BackwardParamsOf(p, in, dOut, s, t.dq, t.dk, t.dv);
  params.dOutFacts = FactsOf(p, s.facts, 3);
  params.rowFacts = FactsOf(p, s.facts, 4);
  LaunchMask(p, t.bounds, s.mask, stream);
  ConvertInputs(p, t, s.facts, &params, stream);
  LaunchConvert(p, params.mask, {ConvertQueries(p, t.dOut, dOut, params.dOutFacts, 1, p.Dv)}, stream);
  if (PartsOf(p) == 2) {
    const Tensor16 whole = Tensor16In(p, t.dOut, p.Sq, p.H, p.Dv);
    LaunchRows<__half, float>(p, t.out, whole, {}, t.rowStats, t.dLse, s, params.rowFacts, stream);
  } else if (IsBfloat16(p)) {
    LaunchRows<__nv_bfloat16, __nv_bfloat16>(p, t.out, dOut, {}, t.rowStats, t.dLse, s, params.rowFacts, stream);
  } else {
    LaunchRows<__half, __half>(p, t.out, dOut, params.dOutFacts, t.rowStats, t.dLse, s, params.rowFacts, stream);
  }
  return StatusOf(RunBackward(p, variant, IsBfloat16(p), PartsOf(p), s.mask, params, stream));
}

size_t Forward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeMask(p, scratch);
  return scratch.bytes();
}

Status Forward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                 float* out, float* lse, float* rowStats, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  const cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const MaskScratch mask = TakeMask(p, scratch);
  const ForwardParams params = ForwardParamsOf(p, GivenInputs(p, q, k, v), mask, out, lse, rowStats);
  LaunchMask(p, bounds, mask, stream);
  return StatusOf(RunForward(p, variant, bfloat16, 1, mask, params, stream));
}

size_t Backward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeBackward(p, scratch);
  return scratch.bytes();
}

Status Backward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                  const float* out, const float* rowStats, const void* dOut, const float* dLse, float* dq, float* dk,
                  float* dv, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  const cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const BackwardScratch s = TakeBackward(p, scratch);
  const Tensor16 dOut16 = Tensor16In(p, dOut, p.Sq, p.H, p.Dv);
  LaunchMask(p, bounds, s.mask, stream);
  if (bfloat16) {
    LaunchRows<__nv_bfloat16, __nv_bfloat16>(p, out, dOut16, {}, rowStats, dLse, s, {}, stream);
  } else {
    LaunchRows<__half, __half>(p, out, dOut16, {}, rowStats, dLse, s, {}, stream);
  }
  const BackwardParams params = BackwardParamsOf(p, GivenInputs(p, q, k, v), dOut16, s, dq, dk, dv);
  return StatusOf(RunBackward(p, variant, bfloat16, 1, s.mask, params, stream));
}

}  // namespace flashmask::cuda
