// The entry points of attention.h and attention16.h: scratch memory, conversions, and the order of the kernels.
#include <algorithm>
#include <initializer_list>

#include "../attention.h"
#include "attention16.h"
#include "convert.cuh"
#include "launch.h"
#include "tile_map.cuh"
#include "tiles.h"

namespace flashmask::cuda {
namespace {

constexpr int kRowsThreads = 256;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hands out parts of the scratch memory; with a null base it only counts bytes.
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

// Room for the 16-bit form of a float32 tensor: [parts, B, heads, rows, channels].
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

Status StatusOf(cudaError_t error) {
  if (error == cudaSuccess) return {nullptr, nullptr};
  return {cudaGetErrorName(error), cudaGetErrorString(error)};
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

// The mask's tile map, in scratch.
struct MaskScratch {
  int4* columns;
  int4* blocks;
  int2* ranges;
};

// The smallest blockQ of all kernels that use ranges.
constexpr int kLeastBlockQ = 32;

MaskScratch TakeMask(const Problem& p, Scratch& scratch) {
  if (p.n == 0) return {nullptr, nullptr, nullptr};
  const int64_t heads = p.maskB * p.Hm;
  MaskScratch mask;
  mask.columns = scratch.Take<int4>(heads * p.Sk);
  mask.blocks = scratch.Take<int4>(heads * CeilDivide(p.Sk, kMapColumns) * 2);
  mask.ranges = scratch.Take<int2>(heads * CeilDivide(p.Sq, kLeastBlockQ));
  return mask;
}

Mask MaskOf(const Problem& p, const MaskScratch& scratch) {
  return {scratch.columns,           scratch.blocks,         static_cast<int>(CeilDivide(p.Sk, kMapColumns)),
          static_cast<int>(p.maskB), static_cast<int>(p.Hm), p.causal};
}

// Fills in columns and blocks.
void LaunchColumns(const Problem& p, const int32_t* bounds, const MaskScratch& scratch, cudaStream_t stream) {
  if (p.n == 0) return;
  constexpr int kThreads = 128;
  const int mapBlocks = static_cast<int>(CeilDivide(p.Sk, kMapColumns));
  const dim3 grid(static_cast<unsigned>(CeilDivide(mapBlocks, kThreads / 32)), static_cast<unsigned>(p.maskB * p.Hm));
  ColumnsKernel<kThreads><<<grid, kThreads, 0, stream>>>(
      bounds, static_cast<int>(p.n), p.causal, static_cast<int>(p.Sk), mapBlocks, scratch.columns, scratch.blocks);
}

// Fills in the ranges of a kernel with these block sides.
void LaunchRanges(const Problem& p, const MaskScratch& scratch, int blockQ, int blockK, cudaStream_t stream) {
  if (p.n == 0) return;
  constexpr int kThreads = 128;
  const int queryBlocks = static_cast<int>(CeilDivide(p.Sq, blockQ));
  const dim3 grid(static_cast<unsigned>(CeilDivide(queryBlocks, kThreads / 32)), static_cast<unsigned>(p.maskB * p.Hm));
  RangesKernel<kThreads><<<grid, kThreads, 0, stream>>>(
      MaskOf(p, scratch), static_cast<int>(p.Sq), static_cast<int>(p.Sk), blockQ, blockK, queryBlocks, scratch.ranges);
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

// Rounds float32 tensors to 16 bits: one pass over numbers of ordinary size, a second over the others.
void LaunchConvert(const Problem& p, std::initializer_list<ConvertParams> tensors, cudaStream_t stream) {
  ConvertList list = {};
  std::copy(tensors.begin(), tensors.end(), list.tensors);
  int rows = 0;
  int heads = 0;
  for (const ConvertParams& tensor : tensors) {
    rows = std::max(rows, tensor.rows);
    heads = std::max(heads, tensor.heads);
  }
  const int B = static_cast<int>(p.B);
  const dim3 grid(static_cast<unsigned>(B * heads), static_cast<unsigned>(CeilDivide(rows, kConvertRows)),
                  static_cast<unsigned>(tensors.size()));
  if (IsBfloat16(p)) {
    ConvertKernel<__nv_bfloat16, 1, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list, B);
  } else if (PartsOf(p) == 1) {
    ConvertKernel<__half, 1, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list, B);
    ConvertKernel<__half, 1, ConvertStep::kScale><<<grid, kConvertThreads, 0, stream>>>(list, B);
  } else {
    ConvertKernel<__half, 2, ConvertStep::kRound><<<grid, kConvertThreads, 0, stream>>>(list, B);
    ConvertKernel<__half, 2, ConvertStep::kScale><<<grid, kConvertThreads, 0, stream>>>(list, B);
  }
}

ConvertParams ConvertOf(const Problem& p, const float* from, const Tensor16& to, Magnitudes magnitudes, int64_t rows,
                        int64_t heads, int64_t channels) {
  return {TensorIn(p, from, rows, heads, channels),
          to,
          magnitudes,
          nullptr,
          static_cast<int>(heads),
          static_cast<int>(heads / p.Hkv),
          static_cast<int>(rows)};
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

// All magnitudes of a call: of q, k, v, dOut and delta, B * Hkv of each.
constexpr int kMagnitudeTensors = 5;

// Clears them. bfloat16 has the range of float32 and needs none: then they are null.
cudaError_t ClearMagnitudes(const Problem& p, Magnitudes* magnitudes, cudaStream_t stream) {
  if (IsBfloat16(p)) {
    *magnitudes = nullptr;
    return cudaSuccess;
  }
  return cudaMemsetAsync(*magnitudes, 0, kMagnitudeTensors * p.B * p.Hkv * sizeof(uint32_t), stream);
}

// Those of one of the tensors.
Magnitudes MagnitudesOf(const Problem& p, Magnitudes all, int tensor) {
  return all == nullptr ? nullptr : all + tensor * p.B * p.Hkv;
}

// Rounds q, k and v, and tells a kernel's parameters their magnitudes.
template <class Params, class Tensors>
void ConvertInputs(const Problem& p, const Tensors& t, Magnitudes magnitudes, Params* params, cudaStream_t stream) {
  params->qMagnitudes = MagnitudesOf(p, magnitudes, 0);
  params->kMagnitudes = MagnitudesOf(p, magnitudes, 1);
  params->vMagnitudes = MagnitudesOf(p, magnitudes, 2);
  LaunchConvert(p,
                {ConvertOf(p, t.q, params->q, params->qMagnitudes, p.Sq, p.H, p.D),
                 ConvertOf(p, t.k, params->k, params->kMagnitudes, p.Sk, p.Hkv, p.D),
                 ConvertOf(p, t.v, params->v, params->vMagnitudes, p.Sk, p.Hkv, p.Dv)},
                stream);
}

ForwardParams ForwardParamsOf(const Problem& p, const Inputs16& in, const MaskScratch& mask, float* out, float* lse) {
  ForwardParams params = {};
  params.sizes = SizesOf(p);
  params.q = in.q;
  params.k = in.k;
  params.v = in.v;
  params.mask = MaskOf(p, mask);
  params.ranges = mask.ranges;
  params.out = TensorIn(p, out, p.Sq, p.H, p.Dv);
  params.lse = lse;
  params.scale = p.scale;
  params.dropout = DropoutOf(p);
  return params;
}

cudaError_t RunForward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const int32_t* bounds,
                       const MaskScratch& mask, const ForwardParams& params, cudaStream_t stream) {
  LaunchColumns(p, bounds, mask, stream);
  LaunchForwardRanges(p, variant, parts, mask, stream);
  const auto launch = bfloat16 ? LaunchForwardBfloat16 : parts == 1 ? LaunchForwardHalf : LaunchForwardSplit;
  return launch(variant, params, stream);
}

size_t LayOutForward(const Problem& p, void* base, Inputs16* in, MaskScratch* mask, Magnitudes* magnitudes) {
  Scratch scratch(base);
  *magnitudes = scratch.Take<uint32_t>(kMagnitudeTensors * p.B * p.Hkv);
  *mask = TakeMask(p, scratch);
  *in = TakeInputs(p, scratch);
  return scratch.bytes();
}

struct BackwardScratch {
  Magnitudes magnitudes;
  MaskScratch mask;
  float* lse2;
  float* delta;
};

BackwardScratch TakeBackward(const Problem& p, Scratch& scratch) {
  BackwardScratch s;
  s.magnitudes = scratch.Take<uint32_t>(kMagnitudeTensors * p.B * p.Hkv);
  s.mask = TakeMask(p, scratch);
  s.lse2 = scratch.Take<float>(p.B * p.H * p.Sq);
  s.delta = scratch.Take<float>(p.B * p.H * p.Sq);
  return s;
}

template <class DOut>
void LaunchRows(const Problem& p, const float* out, const Tensor16& dOut, Magnitudes dOutMagnitudes, const float* lse,
                const float* dLse, const BackwardScratch& s, Magnitudes deltaMagnitudes, cudaStream_t stream) {
  const RowsParams params = {
      SizesOf(p), TensorIn(p, out, p.Sq, p.H, p.Dv), dOut, dOutMagnitudes, lse, dLse, s.lse2, s.delta, deltaMagnitudes};
  const int64_t blocks = CeilDivide(p.B * p.H * p.Sq, kRowsThreads / 32);
  RowsKernel<DOut, kRowsThreads><<<static_cast<unsigned>(blocks), kRowsThreads, 0, stream>>>(params);
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
  params.lse2 = s.lse2;
  params.delta = s.delta;
  params.dq = TensorIn(p, dq, p.Sq, p.H, p.D);
  params.dk = TensorIn(p, dk, p.Sk, p.Hkv, p.D);
  params.dv = TensorIn(p, dv, p.Sk, p.Hkv, p.Dv);
  params.scale = p.scale;
  params.accumulateDq = !p.deterministic;
  params.dropout = DropoutOf(p);
  return params;
}

cudaError_t RunBackward(const Problem& p, const Variant& variant, bool bfloat16, int parts, const int32_t* bounds,
                        const MaskScratch& mask, const BackwardParams& params, cudaStream_t stream) {
  LaunchColumns(p, bounds, mask, stream);
  if (p.deterministic) {
    LaunchDqRanges(p, variant, parts, mask, stream);
    const auto launch = bfloat16 ? LaunchDqBfloat16 : parts == 1 ? LaunchDqHalf : LaunchDqSplit;
    const cudaError_t error = launch(variant, params, stream);
    if (error != cudaSuccess) return error;
  } else {
    const cudaError_t error = cudaMemsetAsync(params.dq.data, 0, p.B * p.H * p.Sq * p.D * sizeof(float), stream);
    if (error != cudaSuccess) return error;
  }
  const auto launch = bfloat16 ? LaunchBackwardBfloat16 : parts == 1 ? LaunchBackwardHalf : LaunchBackwardSplit;
  return launch(variant, params, stream);
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
  Magnitudes magnitudes;
  return LayOutForward(p, nullptr, &in, &mask, &magnitudes);
}

Status Forward(const Problem& p, const ForwardTensors& t, void* scratch, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Inputs16 in;
  MaskScratch mask;
  Magnitudes magnitudes;
  LayOutForward(p, scratch, &in, &mask, &magnitudes);
  error = ClearMagnitudes(p, &magnitudes, stream);
  if (error != cudaSuccess) return StatusOf(error);
  ForwardParams params = ForwardParamsOf(p, in, mask, t.out, t.lse);
  ConvertInputs(p, t, magnitudes, &params, stream);
  return StatusOf(RunForward(p, variant, IsBfloat16(p), PartsOf(p), t.bounds, mask, params, stream));
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
  error = ClearMagnitudes(p, &s.magnitudes, stream);
  if (error != cudaSuccess) return StatusOf(error);
  BackwardParams params = BackwardParamsOf(p, in, dOut, s, t.dq, t.dk, t.dv);
  params.dOutMagnitudes = MagnitudesOf(p, s.magnitudes, 3);
  params.deltaMagnitudes = MagnitudesOf(p, s.magnitudes, 4);
  ConvertInputs(p, t, s.magnitudes, &params, stream);
  ConvertParams dOutConvert = ConvertOf(p, t.dOut, dOut, params.dOutMagnitudes, p.Sq, p.H, p.Dv);
  dOutConvert.lse = t.lse;
  LaunchConvert(p, {dOutConvert}, stream);
  if (PartsOf(p) == 2) {
    const Tensor16 whole = Tensor16In(p, t.dOut, p.Sq, p.H, p.Dv);
    LaunchRows<float>(p, t.out, whole, nullptr, t.lse, t.dLse, s, params.deltaMagnitudes, stream);
  } else if (IsBfloat16(p)) {
    LaunchRows<__nv_bfloat16>(p, t.out, dOut, nullptr, t.lse, t.dLse, s, nullptr, stream);
  } else {
    LaunchRows<__half>(p, t.out, dOut, params.dOutMagnitudes, t.lse, t.dLse, s, params.deltaMagnitudes, stream);
  }
  return StatusOf(RunBackward(p, variant, IsBfloat16(p), PartsOf(p), t.bounds, s.mask, params, stream));
}

size_t Forward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeMask(p, scratch);
  return scratch.bytes();
}

Status Forward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                 float* out, float* lse, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  const cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const MaskScratch mask = TakeMask(p, scratch);
  const ForwardParams params = ForwardParamsOf(p, GivenInputs(p, q, k, v), mask, out, lse);
  return StatusOf(RunForward(p, variant, bfloat16, 1, bounds, mask, params, stream));
}

size_t Backward16ScratchBytes(const Problem& p) {
  Scratch scratch(nullptr);
  TakeBackward(p, scratch);
  return scratch.bytes();
}

Status Backward16(const Problem& p, bool bfloat16, const void* q, const void* k, const void* v, const int32_t* bounds,
                  const float* out, const float* lse, const void* dOut, const float* dLse, float* dq, float* dk,
                  float* dv, void* base, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Variant variant;
  const cudaError_t error = VariantOf(p, &variant);
  if (error != cudaSuccess) return StatusOf(error);
  Scratch scratch(base);
  const BackwardScratch s = TakeBackward(p, scratch);
  const Tensor16 dOut16 = Tensor16In(p, dOut, p.Sq, p.H, p.Dv);
  if (bfloat16) {
    LaunchRows<__nv_bfloat16>(p, out, dOut16, nullptr, lse, dLse, s, nullptr, stream);
  } else {
    LaunchRows<__half>(p, out, dOut16, nullptr, lse, dLse, s, nullptr, stream);
  }
  const BackwardParams params = BackwardParamsOf(p, GivenInputs(p, q, k, v), dOut16, s, dq, dk, dv);
  return StatusOf(RunBackward(p, variant, bfloat16, 1, bounds, s.mask, params, stream));
}

}  // namespace flashmask::cuda
