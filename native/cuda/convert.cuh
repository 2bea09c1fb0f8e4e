// Rounds float32 tensors to one or two 16-bit numbers per float, and computes what the backward kernels need per row.
#pragma once

#include "exponents.cuh"
#include "mask.cuh"
#include "overlap.cuh"
#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

struct ConvertParams {
  ConstTensor32 from;
  Tensor16 to;   // contiguous [B, heads, rows, channels]
  Facts facts;   // output; without magnitudes, numbers are rounded unscaled
  float factor;  // numbers are multiplied by this first; at most 1
  bool isKeys;   // whether rows are keys; otherwise they are queries
  int heads;
  int group;  // heads that share a key head
  int rows;
};

// The tensors of one launch.
struct ConvertList {
  Sizes sizes;
  Mask mask;
  int count;
  ConvertParams tensors[4];
};

// Whether some visible pair uses this row of a tensor. If none does, the row becomes zeros, so that its numbers have no
// influence.
__device__ inline bool IsConnected(const ConvertList& list, const ConvertParams& p, int b, int h, int row) {
  const Sizes& s = list.sizes;
  if (!p.isKeys) return SeesKeys(list.mask, MaskHeadOf(list.mask, b, h, s.H), s, row);
  const int group = s.H / s.Hkv;
  for (int queryHead = h * group; queryHead < (h + 1) * group; ++queryHead) {
    if (FirstSeeing(list.mask, MaskHeadOf(list.mask, b, queryHead, s.H), s, row, 0) < s.Sq) return true;
  }
  return false;
}

// Reads eight channels of a row; channels past the end are 0.
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

// Writes eight channels, divided by a power of two, as kParts numbers each.
template <class T, int kParts>
__device__ inline void WriteChunk(const Tensor16& to, int64_t at, const float (&x)[8], float factor) {
  uint32_t words[4][kParts];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Split<T, kParts>(words[i], x[2 * i] * factor, x[2 * i + 1] * factor);
    if constexpr (kParts == 2) words[i][1] &= FiniteMask<T>(words[i][0]);  // rounding leaves nothing of an infinity
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    T* data = static_cast<T*>(const_cast<void*>(to.data)) + part * to.part + at;
    *reinterpret_cast<uint4*>(data) = {words[0][part], words[1][part], words[2][part], words[3][part]};
  }
}

// Non-negative floats are ordered like their bits. The current value is read first, because few numbers exceed it.
__device__ inline void RaiseMagnitude(uint32_t* magnitude, float x) {
  const uint32_t bits = __float_as_uint(x);
  if (*reinterpret_cast<volatile uint32_t*>(magnitude) < bits) atomicMax(magnitude, bits);
}

// Adds what the threads of a block know of a head's numbers to its facts, once: accesses of many to one address queue
// up. All threads call it.
template <int kThreads>
__device__ inline void AddFacts(const Facts& facts, int keyBatchHead, float largest, bool finite) {
  static __shared__ float ofWarps[kThreads / kWarp];
  const bool allFinite = __syncthreads_and(finite) != 0;
  largest = WarpMax(largest);
  if (threadIdx.x % kWarp == 0) ofWarps[threadIdx.x / kWarp] = largest;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const float other : ofWarps) largest = fmaxf(largest, other);
  if (!allFinite && facts.notFinite != nullptr) facts.notFinite[keyBatchHead] = 1;
  if (facts.magnitudes != nullptr) RaiseMagnitude(&facts.magnitudes[keyBatchHead], largest);
}

// Numbers of at least this magnitude count as not finite (Facts): infinities, and in unscaled tensors also numbers
// whose products may overflow.
template <class T>
constexpr float kNotFiniteFrom = kInfinity;
template <>
inline constexpr float kNotFiniteFrom<__nv_bfloat16> = 0x1p50f;

// Clears what a call begins with as zeros.
struct ClearParams {
  int* words;
  int count;
};

constexpr int kClearThreads = 256;

__global__ void ClearKernel(const __grid_constant__ ClearParams p) {
  LetNextKernelStart();
  const int word = blockIdx.x * kClearThreads + threadIdx.x;
  if (word < p.count) p.words[word] = 0;
}

constexpr int kConvertThreads = 256;
constexpr int kConvertRows = 64;

// kRound rounds the numbers unscaled and finds the largest. kScale rounds again if the largest requires a power of two.
// Both write zeros to rows that no visible pair uses.
enum class ConvertStep { kRound, kScale };

// Converts kConvertRows rows of a head, as a thread block, and adds to what its thread knows of the numbers.
template <class T, int kParts>
__device__ inline void ConvertRows(const ConvertList& list, const ConvertParams& p, int batchHead, int row0,
                                   float factor, float* largest, bool* finite) {
  const int b = batchHead / p.heads;
  const int h = batchHead % p.heads;
  static __shared__ bool connected[kConvertRows];
  const int ownRow = row0 + threadIdx.x;
  if (threadIdx.x < kConvertRows && ownRow < p.rows) connected[threadIdx.x] = IsConnected(list, p, b, h, ownRow);
  __syncthreads();
  const int chunks = p.to.channels / 8;
  const int count = min(kConvertRows, p.rows - row0) * chunks;
  const float* from = p.from.data + b * p.from.batch + h * p.from.head + row0 * p.from.row;
  const int64_t to = (static_cast<int64_t>(batchHead) * p.rows + row0) * p.to.channels;
  for (int i = threadIdx.x; i < count; i += kConvertThreads) {
    float x[8];
    ReadChunk(x, from + i / chunks * p.from.row, i % chunks * 8, p.from.channels);
    const bool isConnected = connected[i / chunks];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      x[j] = isConnected ? x[j] * p.factor : 0.f;
      const float magnitude = fabsf(x[j]);
      if (magnitude < kInfinity) *largest = fmaxf(*largest, magnitude);
      *finite &= magnitude < kNotFiniteFrom<T>;
    }
    WriteChunk<T, kParts>(p.to, to + static_cast<int64_t>(i) * 8, x, factor);
  }
}

// A thread block converts blocks of kConvertRows rows of one head: blockIdx.x = b * heads + h, y = the first block of
// rows of every gridDim.y, z = tensor.
template <class T, int kParts, ConvertStep kStep>
__global__ void __launch_bounds__(kConvertThreads) ConvertKernel(const __grid_constant__ ConvertList list) {
  LetNextKernelStart();
  // The kernel before has cleared the facts, or written them.
  if constexpr (kStep == ConvertStep::kScale) WaitForKernelBefore();
  const ConvertParams& p = list.tensors[blockIdx.z];
  const int batchHead = blockIdx.x;
  if (batchHead >= list.sizes.B * p.heads) return;
  const int keyBatchHead = batchHead / p.group;
  float factor = 1;
  if constexpr (kStep == ConvertStep::kScale) {
    const int exponent = ExponentOf<kParts>(p.facts, keyBatchHead);
    if (exponent == 0) return;
    factor = PowerOfTwo(-exponent);
  }
  float largest = 0;
  bool finite = true;
  for (int row0 = blockIdx.y * kConvertRows; row0 < p.rows; row0 += gridDim.y * kConvertRows) {
    ConvertRows<T, kParts>(list, p, batchHead, row0, factor, &largest, &finite);
    __syncthreads();
  }
  if constexpr (kStep == ConvertStep::kRound) {
    WaitForKernelBefore();
    AddFacts<kConvertThreads>(p.facts, keyBatchHead, largest, finite);
  }
}

struct RowsParams {
  Sizes sizes;
  ConstTensor32 out;
  // The numbers that the products read (in float32 if they split them), so that delta cancels them: dS of a row with a
  // single key is 0.
  Tensor16 dOut;
  Facts dOutFacts;
  const float2* rowStats;  // [B, H, Sq]
  const float* dLse;       // [B, H, Sq]; null: zeros
  int rowsOfHead;
  float* reference;
  float* weight;
  float* rowShift;
  Facts rowFacts;  // output
  int* counter;    // output: 0
  Tensor32 dq;     // output: zeros, to which gradients are added; data null: not that
};

constexpr int kRowsThreads = 256;
constexpr int kLanesOfRow = 8;
constexpr int kRowsOfBlock = kRowsThreads / kLanesOfRow;  // divides rowsOfHead

// Reads eight channels of a row of 16-bit numbers, whose channels are a multiple of eight.
template <class DOut>
__device__ inline void ReadChunk(float (&x)[8], const DOut* row, int channel, int) {
  const uint4 words = *reinterpret_cast<const uint4*>(row + channel);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(reinterpret_cast<const DOut*>(&words)[i]);
}

// Writes zeros to eight channels of a row, but not past the end.
__device__ inline void ClearChunk(float* row, int channel, int channels) {
  if (channels % 4 == 0 && channel + 8 <= channels) {
    float4* to = reinterpret_cast<float4*>(row + channel);
    to[0] = to[1] = {0, 0, 0, 0};
  } else {
    for (int i = channel; i < min(channel + 8, channels); ++i) row[i] = 0;
  }
}

// What a lane adds to the sum of out · dO over a row.
template <class DOut>
__device__ inline float PartOfProduct(const RowsParams& p, int b, int h, int row) {
  const float* out = p.out.data + b * p.out.batch + h * p.out.head + row * p.out.row;
  const DOut* dOut = static_cast<const DOut*>(p.dOut.data) + b * p.dOut.batch + h * p.dOut.head + row * p.dOut.row;
  float sum = 0;
  for (int channel = threadIdx.x % kLanesOfRow * 8; channel < p.out.channels; channel += kLanesOfRow * 8) {
    float x[8], y[8];
    ReadChunk(x, out, channel, p.out.channels);
    ReadChunk(y, dOut, channel, p.out.channels);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(x[i], y[i], sum);
  }
  return sum;
}

__device__ inline float SumOfRow(float x) {
#pragma unroll
  for (int lanes = kLanesOfRow / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

__device__ inline void ClearDq(const RowsParams& p, int b, int h, int row) {
  if (p.dq.data == nullptr) return;
  float* dq = p.dq.data + b * p.dq.batch + h * p.dq.head + row * p.dq.row;
  for (int channel = threadIdx.x % kLanesOfRow * 8; channel < p.dq.channels; channel += kLanesOfRow * 8) {
    ClearChunk(dq, channel, p.dq.channels);
  }
}

// Computes the row fields of BackwardParams of one row, by kLanesOfRow lanes. T is the type that the products read;
// DOut is the type of dO here, scaled if it is __half. All lanes of a warp call it, past the last row too.
template <class T, class DOut>
__device__ inline void ComputeRow(const RowsParams& p, int batchHead, int row, float* largest, bool* finite) {
  const int H = p.sizes.H;
  const int Sq = p.sizes.Sq;
  const int h = batchHead % H;
  const int b = batchHead / H;
  const int keyBatchHead = b * p.sizes.Hkv + h / (H / p.sizes.Hkv);
  const int64_t queryRow = static_cast<int64_t>(batchHead) * Sq + row;
  const bool inside = row < Sq;
  if (inside) ClearDq(p, b, h, row);
  // A row that sees no key has weights of exactly 0, whatever its incoming gradient.
  const float2 stats = inside ? p.rowStats[queryRow] : float2{0, 0};
  const bool seesKeys = stats.y != 0;
  const float sum = SumOfRow(seesKeys ? PartOfProduct<DOut>(p, b, h, row) : 0.f);
  const float dLse = p.dLse == nullptr || !seesKeys ? 0.f : p.dLse[queryRow];
  const float unit = PowerOfTwo(ExponentOf<1>(p.dOutFacts, keyBatchHead));
  const float rowShift = seesKeys ? sum * unit - dLse : 0.f;
  if (threadIdx.x % kLanesOfRow == 0) {
    const int64_t index = static_cast<int64_t>(batchHead) * p.rowsOfHead + row;
    p.reference[index] = seesKeys ? stats.x : 0.f;
    p.weight[index] = seesKeys ? PowerOfTwo(kBackwardWeightShift<T>) / stats.y : 0.f;
    p.rowShift[index] = rowShift;
  }
  const float magnitude = fabsf(rowShift);
  *finite &= magnitude < kNotFiniteFrom<T> && stats.y < kInfinity;
  if (magnitude < kInfinity) *largest = fmaxf(*largest, magnitude);
}

// A thread block per kRowsOfBlock rows of one head.
template <class T, class DOut>
__global__ void __launch_bounds__(kRowsThreads) RowsKernel(const __grid_constant__ RowsParams p) {
  WaitForKernelBefore();
  LetNextKernelStart();
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.counter = 0;
  const int blocksOfHead = p.rowsOfHead / kRowsOfBlock;
  const int batchHead = blockIdx.x / blocksOfHead;
  const int row = blockIdx.x % blocksOfHead * kRowsOfBlock + threadIdx.x / kLanesOfRow;
  float largest = 0;
  bool finite = true;
  ComputeRow<T, DOut>(p, batchHead, row, &largest, &finite);
  AddFacts<kRowsThreads>(p.rowFacts, batchHead / (p.sizes.H / p.sizes.Hkv), largest, finite);
}

}  // namespace flashmask::cuda
