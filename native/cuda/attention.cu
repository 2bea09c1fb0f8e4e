// The entry points of attention.h and attention16.h: scratch memory, conversions, and the order of the kernels.
#include <algorithm>
#include <type_traits>

#include "../attention.h"
#include "attention16.h"
#include "convert.cuh"
#include "few_rows.h"
#include "hopper_backward.h"
#include "hopper_forward.h"
#include "host.h"
#include "launch.h"
#include "plan.h"
#include "problem.h"
#include "scratch.h"
#include "start.h"
#include "tiles.h"

namespace flashmask::cuda {
namespace {

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

const int2* ForwardRanges(const Plan& plan, const Variant& v, int parts) {
  return OfVariant(v, parts, [&](auto tiles) {
    using Tile = typename decltype(tiles)::Forward;
    return RangesOf(plan, Tile::kBlockQ, Tile::kBlockK);
  });
}

const int2* DqRanges(const Plan& plan, const Variant& v, int parts) {
  return OfVariant(v, parts, [&](auto tiles) {
    using Tile = typename decltype(tiles)::Dq;
    return RangesOf(plan, Tile::kBlockQ, Tile::kBlockK);
  });
}

// Thread blocks for a head of a tensor in the second pass, if that seldom has anything to do.
constexpr unsigned kScaleBlocks = 16;

template <class T, int kParts>
cudaError_t LaunchConvertOf(const ConvertList& list, dim3 grid, bool sm90, cudaStream_t stream) {
  const auto round = ConvertKernel<T, kParts, ConvertStep::kRound>;
  const cudaError_t error = Start(round, {grid, kConvertThreads, 0, stream, sm90}, list);
  if (error != cudaSuccess || std::is_same_v<T, __nv_bfloat16>) return error;
  if (kParts == 1) grid.y = std::min(grid.y, kScaleBlocks);
  const auto scale = ConvertKernel<T, kParts, ConvertStep::kScale>;
  return Start(scale, {grid, kConvertThreads, 0, stream, sm90}, list);
}

// Rounds float32 tensors to 16 bits, in two passes: one for numbers of ordinary size, one for the others.
cudaError_t LaunchConvert(const Problem& p, const ConvertList& list, bool sm90, cudaStream_t stream) {
  int rows = 0;
  int heads = 0;
  for (int i = 0; i < list.count; ++i) {
    rows = std::max(rows, list.tensors[i].rows);
    heads = std::max(heads, list.tensors[i].heads);
  }
  constexpr int64_t kMostBlocks = 65535;  // of a grid's y; a thread block takes more rows then
  const auto rowBlocks = static_cast<unsigned>(std::min(CeilDivide(rows, kConvertRows), kMostBlocks));
  const dim3 grid(static_cast<unsigned>(p.B * heads), rowBlocks, static_cast<unsigned>(list.count));
  if (IsBfloat16(p)) return LaunchConvertOf<__nv_bfloat16, 1>(list, grid, sm90, stream);
  return PartsOf(p) == 1 ? LaunchConvertOf<__half, 1>(list, grid, sm90, stream)
                         : LaunchConvertOf<__half, 2>(list, grid, sm90, stream);
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

// What a call begins with as zeros: the counter of the work that is taken, and the facts of q, k, v, dOut and the rows,
// two words each for B * Hkv heads.
struct Zeros {
  int* counter;
  uint32_t* facts;
  int words;  // of both
};

constexpr int kFactTensors = 5;

Zeros TakeZeros(const Problem& p, Scratch& scratch) {
  const int64_t words = 1 + 2 * kFactTensors * p.B * p.Hkv;
  int* counter = scratch.Take<int>(words);
  uint32_t* facts = counter == nullptr ? nullptr : reinterpret_cast<uint32_t*>(counter + 1);
  return {counter, facts, static_cast<int>(words)};
}

cudaError_t Clear(const Zeros& zeros, cudaStream_t stream) {
  const ClearParams params = {zeros.counter, zeros.words};
  const auto blocks = static_cast<unsigned>(CeilDivide(zeros.words, kClearThreads));
  return Start(ClearKernel, {blocks, kClearThreads, 0, stream}, params);
}

// The facts of one tensor. bfloat16 has the range of float32 and needs no magnitudes.
Facts FactsOf(const Problem& p, const Zeros& zeros, int tensor) {
  uint32_t* own = zeros.facts + 2 * tensor * p.B * p.Hkv;
  return {IsBfloat16(p) ? nullptr : own, own + p.B * p.Hkv};
}

// The conversion of q, k and v. Writes their factors and facts to a kernel's parameters.
template <class Params, class Tensors>
ConvertList InputsToConvert(const Problem& p, const Tensors& t, const Zeros& zeros, Params* params) {
  const Scale scale = ScoreScaleOf(p);
  params->scoreScale = {1, scale.exponent};
  params->qFacts = FactsOf(p, zeros, 0);
  params->kFacts = FactsOf(p, zeros, 1);
  params->vFacts = FactsOf(p, zeros, 2);
  return {SizesOf(p),
          params->mask,
          3,
          {ConvertQueries(p, t.q, params->q, params->qFacts, scale.factor, p.D),
           ConvertKeys(p, t.k, params->k, params->kFacts, p.D), ConvertKeys(p, t.v, params->v, params->vFacts, p.Dv)}};
}

ForwardParams ForwardParamsOf(const Problem& p, const Inputs16& in, const Plan& plan, int* counter, float* out,
                              float* lse, float* rowStats) {
  ForwardParams params = {};
  params.sizes = SizesOf(p);
  params.q = in.q;
  params.k = in.k;
  params.v = in.v;
  params.mask = MaskOf(p, plan);
  params.counter = counter;
  params.out = TensorIn(p, out, p.Sq, p.H, p.Dv);
  params.lse = lse;
  params.rowStats = reinterpret_cast<float2*>(rowStats);
  params.scoreScale = ScoreScaleOf(p);
  params.dropout = DropoutOf(p);
  return params;
}

// Whether the forward kernels on Hopper's own instructions run a call.
bool UsesHopperForward(const Variant& variant, int parts) {
  return variant.large && (parts == 1 || variant.kD <= kHopperSplitChannels);
}

cudaError_t RunForward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const Plan& plan,
                       ForwardParams params, cudaStream_t stream) {
  if (UsesHopperForward(variant, parts)) {
    const HopperHeads heads = HopperHeadsOf(p.D, p.Dv, parts);
    params.ranges = RangesOf(plan, kHopperBlockQ, heads.blockK);
    const auto launch = bfloat16     ? LaunchHopperForwardBfloat16
                        : parts == 1 ? LaunchHopperForwardHalf
                                     : LaunchHopperForwardFloat32;
    return launch(heads, params, stream);
  }
  params.ranges = ForwardRanges(plan, variant, parts);
  const auto launch = bfloat16 ? LaunchForwardBfloat16 : parts == 1 ? LaunchForwardHalf : LaunchForwardFloat32;
  return launch(variant, params, stream);
}

struct ForwardScratch {
  Zeros zeros;
  Plan plan;
  Inputs16 in;
};

size_t LayOutForward(const Problem& p, void* plan, void* base, ForwardScratch* s) {
  Scratch scratch(base);
  s->zeros = TakeZeros(p, scratch);
  s->plan = TakePlanOf(p, plan, scratch);
  s->in = TakeInputs(p, scratch);
  return scratch.bytes();
}

// Rows that the copy engine may read for a head: whole query blocks of every kernel.
int64_t RowsOfHead(const Problem& p) { return CeilDivide(p.Sq, 128) * 128; }

// Whether the kernels on Hopper's own instructions run a call. The copy engine adds rows whose bytes are a multiple of
// 16.
bool UsesHopperBackward(const Problem& p, const Variant& variant, int parts) {
  const bool fits = parts == 1 || (variant.kD <= 128 && !p.deterministic);
  return variant.large && fits && p.D % 4 == 0;
}

struct BackwardScratch {
  Zeros zeros;
  Plan plan;
  float* reference;
  float* weight;
  float* rowShift;
  int* order;  // null if any will do
};

int64_t MarksOf(const Problem& p) { return p.B * p.H * RowsOfHead(p) / kRowsOfMark; }

BackwardScratch TakeBackward(const Problem& p, void* plan, Scratch& scratch) {
  BackwardScratch s;
  s.zeros = TakeZeros(p, scratch);
  s.plan = TakePlanOf(p, plan, scratch);
  s.reference = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  s.weight = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  s.rowShift = scratch.Take<float>(p.B * p.H * RowsOfHead(p));
  s.order = p.deterministic ? scratch.Take<int>(MarksOf(p)) : nullptr;
  return s;
}

BackwardParams BackwardParamsOf(const Problem& p, bool hopper, const Inputs16& in, const Tensor16& dOut,
                                const BackwardScratch& s, float* dq, float* dk, float* dv) {
  BackwardParams params = {};
  params.sizes = SizesOf(p);
  params.q = in.q;
  params.k = in.k;
  params.v = in.v;
  params.dOut = dOut;
  params.mask = MaskOf(p, s.plan);
  params.counter = s.zeros.counter;
  params.rowsOfHead = static_cast<int>(RowsOfHead(p));
  params.reference = s.reference;
  params.weight = s.weight;
  params.rowShift = s.rowShift;
  params.dq = TensorIn(p, dq, p.Sq, p.H, p.D);
  params.dk = TensorIn(p, dk, p.Sk, p.Hkv, p.D);
  params.dv = TensorIn(p, dv, p.Sk, p.Hkv, p.Dv);
  params.scale = ScaleOf(p.scale);
  params.scoreScale = ScoreScaleOf(p);
  params.accumulateDq = hopper || !p.deterministic;
  params.order = hopper ? s.order : nullptr;
  params.dropout = DropoutOf(p);
  return params;
}

cudaError_t ClearMarks(const Problem& p, const BackwardParams& params, cudaStream_t stream) {
  if (params.order == nullptr) return cudaSuccess;
  return cudaMemsetAsync(params.order, 0, MarksOf(p) * sizeof(int), stream);
}

RowsParams RowsParamsOf(const Problem& p, const float* out, const Tensor16& dOut, const float* rowStats,
                        const float* dLse, const BackwardScratch& s, const BackwardParams& backward) {
  RowsParams params = {};
  params.sizes = SizesOf(p);
  params.out = TensorIn(p, out, p.Sq, p.H, p.Dv);
  params.dOut = dOut;
  params.rowStats = reinterpret_cast<const float2*>(rowStats);
  params.dLse = dLse;
  params.rowsOfHead = backward.rowsOfHead;
  params.reference = s.reference;
  params.weight = s.weight;
  params.rowShift = s.rowShift;
  params.counter = s.zeros.counter;
  if (backward.accumulateDq) params.dq = backward.dq;
  return params;
}

template <class T, class DOut>
cudaError_t LaunchRows(const RowsParams& params, bool sm90, cudaStream_t stream) {
  const int64_t rows = int64_t{params.sizes.B} * params.sizes.H * params.rowsOfHead;
  const dim3 blocks(static_cast<unsigned>(rows / kRowsOfBlock));
  return Start(RowsKernel<T, DOut>, {blocks, kRowsThreads, 0, stream, sm90}, params);
}

cudaError_t RunHopperBackward(const Problem& p, bool bfloat16, int parts, const BackwardParams& params,
                              cudaStream_t stream) {
  const HopperBackwardHeads heads = HopperBackwardHeadsOf(p.D, p.Dv);
  const auto narrow = bfloat16     ? LaunchHopperBackwardBfloat16
                      : parts == 1 ? LaunchHopperBackwardHalf
                                   : LaunchHopperBackwardFloat32;
  const auto wide = bfloat16 ? LaunchHopperBackwardWideBfloat16 : LaunchHopperBackwardWideHalf;
  return (IsWide(heads) ? wide : narrow)(heads, params, stream);
}

cudaError_t RunBackward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const Plan& plan,
                        BackwardParams params, cudaStream_t stream) {
  if (UsesHopperBackward(p, variant, parts)) {
    const cudaError_t error = RunHopperBackward(p, bfloat16, parts, params, stream);
    if (error != cudaSuccess || params.vFacts.notFinite == nullptr) return error;
    params.onlyNotFinite = true;
  }
  if (p.deterministic) {
    params.accumulateDq = false;
    params.ranges = DqRanges(plan, variant, parts);
    const auto launch = bfloat16 ? LaunchDqBfloat16 : parts == 1 ? LaunchDqHalf : LaunchDqFloat32;
    const cudaError_t error = launch(variant, params, stream);
    if (error != cudaSuccess) return error;
  }
  const auto launch = bfloat16 ? LaunchBackwardBfloat16 : parts == 1 ? LaunchBackwardHalf : LaunchBackwardFloat32;
  return launch(variant, params, stream);
}

// The results of a forward that the backward computes again.
struct ForwardAgain {
  float* out;
  float* lse;
  float* rowStats;
};

ForwardAgain TakeForwardAgain(const Problem& p, Scratch& scratch) {
  const int64_t rows = p.B * p.H * p.Sq;
  return {scratch.Take<float>(rows * p.Dv), scratch.Take<float>(rows), scratch.Take<float>(2 * rows)};
}

size_t LayOutBackward(const Problem& p, void* plan, void* base, Inputs16* in, Tensor16* dOut, BackwardScratch* s,
                      ForwardAgain* again) {
  Scratch scratch(base);
  *s = TakeBackward(p, plan, scratch);
  *in = TakeInputs(p, scratch);
  *dOut = TakeTensor16(scratch, PartsOf(p), p.B, p.H, p.Sq, p.Dv);
  *again = HasFewRows(p) ? TakeForwardAgain(p, scratch) : ForwardAgain{};
  return scratch.bytes();
}

// The forward of few rows rounds scores otherwise than the backward kernels, whose weights of a row would then not add
// up to 1. So these get the results of the forward that reads what they read.
cudaError_t RunForwardAgain(const Problem& p, const Variant& variant, const Inputs16& in, const BackwardScratch& s,
                            const BackwardParams& backward, const ForwardAgain& again, cudaStream_t stream) {
  ForwardParams params = ForwardParamsOf(p, in, s.plan, s.zeros.counter, again.out, again.lse, again.rowStats);
  params.scoreScale = backward.scoreScale;
  params.qFacts = backward.qFacts;
  params.kFacts = backward.kFacts;
  params.vFacts = backward.vFacts;
  return RunForward(p, variant, IsBfloat16(p), PartsOf(p), s.plan, params, stream);
}

}  // namespace

size_t PlanBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakePlanOf(p, nullptr, scratch);
  return scratch.bytes();
}

Status MakePlan(const Problem& p, const int32_t* bounds, void* plan, void* stream) {
  Scratch scratch(plan);
  const Plan made = TakePlanOf(p, nullptr, scratch);
  const auto cudaStream = static_cast<cudaStream_t>(stream);
  // A plan of other lengths may have the same size. Zeros keep a call that is given one within its tensors.
  const cudaError_t error = cudaMemsetAsync(plan, 0, scratch.bytes(), cudaStream);
  return StatusOf(error != cudaSuccess ? error : MakePlanOf(p, bounds, nullptr, made, cudaStream));
}

size_t ForwardScratchBytes(const Problem& p) {
  if (HasFewRows(p)) return FewRowsScratchBytes(p);
  ForwardScratch s;
  return LayOutForward(p, nullptr, nullptr, &s);
}

Status Forward(const Problem& p, const ForwardTensors& t, void* scratch, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  if (HasFewRows(p)) return StatusOf(RunFewRows(p, variant.kD, t, scratch, stream));
  ForwardScratch s;
  LayOutForward(p, t.plan, scratch, &s);
  ForwardParams params = ForwardParamsOf(p, s.in, s.plan, s.zeros.counter, t.out, t.lse, t.rowStats);
  error = MakePlanOf(p, t.bounds, t.plan, s.plan, stream);
  if (error == cudaSuccess) error = Clear(s.zeros, stream);
  const ConvertList list = InputsToConvert(p, t, s.zeros, &params);
  if (error == cudaSuccess) error = LaunchConvert(p, list, variant.large, stream);
  if (error != cudaSuccess) return StatusOf(error);
  return StatusOf(RunForward(p, variant, IsBfloat16(p), PartsOf(p), s.plan, params, stream));
}

size_t BackwardScratchBytes(const Problem& p) {
  Inputs16 in;
  Tensor16 dOut;
  BackwardScratch s;
  ForwardAgain again;
  return LayOutBackward(p, nullptr, nullptr, &in, &dOut, &s, &again);
}

Status Backward(const Problem& p, const BackwardTensors& t, void* scratch, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Inputs16 in;
  Tensor16 dOut;
  BackwardScratch s;
  ForwardAgain again;
  LayOutBackward(p, t.plan, scratch, &in, &dOut, &s, &again);
  const bool hopper = UsesHopperBackward(p, variant, PartsOf(p));
  BackwardParams params = BackwardParamsOf(p, hopper, in, dOut, s, t.dq, t.dk, t.dv);
  params.dOutFacts = FactsOf(p, s.zeros, 3);
  params.rowFacts = FactsOf(p, s.zeros, 4);
  error = MakePlanOf(p, t.bounds, t.plan, s.plan, stream);
  if (error == cudaSuccess) error = ClearMarks(p, params, stream);
  if (error == cudaSuccess) error = Clear(s.zeros, stream);
  ConvertList list = InputsToConvert(p, t, s.zeros, &params);
  list.tensors[list.count++] = ConvertQueries(p, t.dOut, dOut, params.dOutFacts, 1, p.Dv);
  if (error == cudaSuccess) error = LaunchConvert(p, list, variant.large, stream);
  const bool computesAgain = HasFewRows(p);
  if (error == cudaSuccess && computesAgain) error = RunForwardAgain(p, variant, in, s, params, again, stream);
  if (error != cudaSuccess) return StatusOf(error);
  RowsParams rows = RowsParamsOf(p, computesAgain ? again.out : t.out, dOut,
                                 computesAgain ? again.rowStats : t.rowStats, t.dLse, s, params);
  rows.rowFacts = params.rowFacts;
  if (PartsOf(p) == 2) {
    rows.dOut = Tensor16In(p, t.dOut, p.Sq, p.H, p.Dv);
    error = LaunchRows<__half, float>(rows, variant.large, stream);
  } else if (IsBfloat16(p)) {
    error = LaunchRows<__nv_bfloat16, __nv_bfloat16>(rows, variant.large, stream);
  } else {
    rows.dOutFacts = params.dOutFacts;
    error = LaunchRows<__half, __half>(rows, variant.large, stream);
  }
  if (error != cudaSuccess) return StatusOf(error);
  return StatusOf(RunBackward(p, variant, IsBfloat16(p), PartsOf(p), s.plan, params, stream));
}

size_t Forward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeZeros(p, scratch);
  TakePlanOf(p, nullptr, scratch);
  return scratch.bytes();
}

Status Forward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                 float* out, float* lse, float* rowStats, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const Zeros zeros = TakeZeros(p, scratch);
  const Plan plan = TakePlanOf(p, nullptr, scratch);
  error = MakePlanOf(p, bounds, nullptr, plan, stream);
  if (error == cudaSuccess) error = Clear(zeros, stream);
  if (error != cudaSuccess) return StatusOf(error);
  const ForwardParams params = ForwardParamsOf(p, GivenInputs(p, q, k, v), plan, zeros.counter, out, lse, rowStats);
  return StatusOf(RunForward(p, variant, bfloat16, 1, plan, params, stream));
}

size_t Backward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeBackward(p, nullptr, scratch);
  return scratch.bytes();
}

Status Backward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                  const float* out, const float* rowStats, const void* dOut, const float* dLse, float* dq, float* dk,
                  float* dv, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const BackwardScratch s = TakeBackward(p, nullptr, scratch);
  const Tensor16 dOut16 = Tensor16In(p, dOut, p.Sq, p.H, p.Dv);
  const bool hopper = UsesHopperBackward(p, variant, 1);
  const BackwardParams params = BackwardParamsOf(p, hopper, GivenInputs(p, q, k, v), dOut16, s, dq, dk, dv);
  error = MakePlanOf(p, bounds, nullptr, s.plan, stream);
  if (error == cudaSuccess) error = ClearMarks(p, params, stream);
  if (error != cudaSuccess) return StatusOf(error);
  const RowsParams rows = RowsParamsOf(p, out, dOut16, rowStats, dLse, s, params);
  error = bfloat16 ? LaunchRows<__nv_bfloat16, __nv_bfloat16>(rows, variant.large, stream)
                   : LaunchRows<__half, __half>(rows, variant.large, stream);
  if (error != cudaSuccess) return StatusOf(error);
  return StatusOf(RunBackward(p, variant, bfloat16, 1, s.plan, params, stream));
}

}  // namespace flashmask::cuda
