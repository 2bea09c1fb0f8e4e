// Rounds float32 tensors to 16-bit numbers, one or two for each, and prepares what the backward kernels need to know of
// a row.
#pragma once

#include "exponents.cuh"
#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

struct ConvertParams {
  ConstTensor32 from;
  Tensor16 to;            // contiguous [B, heads, rows, channels]
  Magnitudes magnitudes;  // [B, key heads]; null: numbers are rounded as they are
  const float* lse;       // [B, heads, rows]: rows where it is minus infinity become zeros; null: none
  int heads;
  int group;  // heads that share a key head
  int rows;
};

// Tensors of one launch.
struct ConvertList {
  ConvertParams tensors[3];
};

// Eight channels of a row; channels that do not exist are 0.
__device__ inline void ReadChunk(float (&x)[8], const float* row, int channel, int channels) {
  if (channels % 4 == 0 && channel + 8 <= channels) {
    const float4 a = *reinterpret_cast<const float4*>(row + channel);
    const float4 b = *reinterpret_cast<const float4*>(row + channel + 4);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = channel + i < channels ? row[channel + i] : 0.f;
  }
}

// Writes eight channels, divided by a power of two, in kParts parts.
template <class T, int kParts>
__device__ inline void WriteChunk(const Tensor16& to, int64_t at, const float (&x)[8], float factor) {
  uint32_t words[4][kParts];
#pragma unroll
  for (int i = 0; i < 4; ++i) Split<T, kParts>(words[i], x[2 * i] * factor, x[2 * i + 1] * factor);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    T* data = static_cast<T*>(const_cast<void*>(to.data)) + part * to.part + at;
    *reinterpret_cast<uint4*>(data) = {words[0][part], words[1][part], words[2][part], words[3][part]};
  }
}

__device__ inline float WarpMax(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}

// Floats that are not negative are ordered like their bits. What is there already is read first: few find more.
__device__ inline void RaiseMagnitude(uint32_t* magnitude, float x) {
  const uint32_t bits = __float_as_uint(x);
  if (*reinterpret_cast<volatile uint32_t*>(magnitude) < bits) atomicMax(magnitude, bits);
}

constexpr int kConvertThreads = 256;
constexpr int kConvertRows = 64;

// kRound: rounds numbers as they are, and finds the largest. kScale: rounds again where the largest demands a power of
// two.
enum class ConvertStep { kRound, kScale };

// A thread block for each kConvertRows rows of one head: blockIdx.x = b * heads + h, y = block of rows, z = tensor.
template <class T, int kParts, ConvertStep kStep>
__global__ void __launch_bounds__(kConvertThreads) ConvertKernel(const __grid_constant__ ConvertList list, int batch) {
  const ConvertParams& p = list.tensors[blockIdx.z];
  const int batchHead = blockIdx.x;
  const int row0 = blockIdx.y * kConvertRows;
  if (row0 >= p.rows || batchHead >= batch * p.heads) return;
  const int b = batchHead / p.heads;
  const int h = batchHead % p.heads;
  uint32_t* magnitude = p.magnitudes == nullptr ? nullptr : p.magnitudes + batchHead / p.group;
  float factor = 1;
  if constexpr (kStep == ConvertStep::kScale) {
    const int exponent = magnitude == nullptr ? 0 : ExponentOf<kParts>(*magnitude);
    if (exponent == 0) return;
    factor = PowerOfTwo(-exponent);
  }
  const int chunks = p.to.channels / 8;
  const int count = min(kConvertRows, p.rows - row0) * chunks;
  const float* from = p.from.data + b * p.from.batch + h * p.from.head + row0 * p.from.row;
  const int64_t to = (static_cast<int64_t>(batchHead) * p.rows + row0) * p.to.channels;
  float largest = 0;
  for (int i = threadIdx.x; i < count; i += kConvertThreads) {
    float x[8];
    ReadChunk(x, from + i / chunks * p.from.row, i % chunks * 8, p.from.channels);
    if (p.lse != nullptr && p.lse[static_cast<int64_t>(batchHead) * p.rows + row0 + i / chunks] == -kInfinity) {
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = 0;
    }
    WriteChunk<T, kParts>(p.to, to + static_cast<int64_t>(i) * 8, x, factor);
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(x[j]));
  }
  if (kStep == ConvertStep::kRound && magnitude != nullptr) {
    largest = WarpMax(largest);
    if (threadIdx.x % kWarp == 0) RaiseMagnitude(magnitude, largest);
  }
}

struct RowsParams {
  Sizes sizes;
  ConstTensor32 out;
  // As the products read it (in float32 where they split it), so that delta cancels them: dS of a row with a single key
  // is 0.
  Tensor16 dOut;
  Magnitudes dOutMagnitudes;
  const float* lse;   // [B, H, Sq]
  const float* dLse;  // [B, H, Sq]; null: zeros
  float* lse2;
  float* delta;
  Magnitudes deltaMagnitudes;  // null: not asked for
};

// lse2 and delta of each row, a warp for each: see BackwardParams. DOut is the type of dO, scaled if it is __half.
template <class DOut, int kThreads>
__global__ void __launch_bounds__(kThreads) RowsKernel(const __grid_constant__ RowsParams p) {
  const int H = p.sizes.H;
  const int Sq = p.sizes.Sq;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= static_cast<int64_t>(p.sizes.B) * H * Sq) return;
  const int row = index % Sq;
  const int h = index / Sq % H;
  const int b = index / Sq / H;
  const float* out = p.out.data + b * p.out.batch + h * p.out.head + row * p.out.row;
  const DOut* dOut = static_cast<const DOut*>(p.dOut.data) + b * p.dOut.batch + h * p.dOut.head + row * p.dOut.row;
  const int keyBatchHead = b * p.sizes.Hkv + h / (H / p.sizes.Hkv);
  const float lse = p.lse[index];
  const bool seesKeys = lse != -kInfinity;
  float sum = 0;
  if (seesKeys) {
    for (int channel = threadIdx.x % kWarp; channel < p.out.channels; channel += kWarp) {
      sum = fmaf(out[channel], static_cast<float>(dOut[channel]), sum);
    }
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  if (threadIdx.x % kWarp != 0) return;
  // A row that sees no key has weights of exactly 0, whatever gradient comes in.
  const float dLse = p.dLse == nullptr ? 0.f : p.dLse[index];
  const float unit = PowerOfTwo(ExponentOf<1>(p.dOutMagnitudes, keyBatchHead));
  const float delta = seesKeys ? sum * unit - dLse : 0.f;
  p.lse2[index] = seesKeys ? lse * kLog2E : kInfinity;
  p.delta[index] = delta;
  if (p.deltaMagnitudes != nullptr) {
    RaiseMagnitude(&p.deltaMagnitudes[keyBatchHead], fabsf(delta));
  }
}

}  // namespace flashmask::cuda
