// The layers around the attention, and AdamW (layers.h). All are bound by memory: each number is read from it once and
// written once, four at a time where the addresses allow.
#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "../layers.h"
#include "host.h"
#include "start.h"

namespace flashmask::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;

// Whether rows of `width` numbers at these addresses can be read as vectors of four. Slices may begin anywhere.
bool Vectorizes(int64_t width, std::initializer_list<const void*> addresses) {
  return width % 4 == 0 && std::all_of(addresses.begin(), addresses.end(), [](const void* address) {
           return reinterpret_cast<uintptr_t>(address) % sizeof(float4) == 0;
         });
}

// One number or four, with the same operations.
struct One {
  static constexpr int kCount = 1;
  float a[1];
};
struct Four {
  static constexpr int kCount = 4;
  float a[4];
};

template <class V>
__device__ V Load(const float* from, int64_t i) {
  V v;
  if constexpr (V::kCount == 4) {
    const float4 b = reinterpret_cast<const float4*>(from)[i];
    v.a[0] = b.x;
    v.a[1] = b.y;
    v.a[2] = b.z;
    v.a[3] = b.w;
  } else {
    v.a[0] = from[i];
  }
  return v;
}

template <class V>
__device__ void Store(float* to, int64_t i, const V& v) {
  if constexpr (V::kCount == 4) {
    reinterpret_cast<float4*>(to)[i] = make_float4(v.a[0], v.a[1], v.a[2], v.a[3]);
  } else {
    to[i] = v.a[0];
  }
}

__device__ float WarpSum(float sum) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
  return sum;
}

// ---- RMSNorm: a warp a row ----

template <class V>
__global__ void RmsNormKernel(RmsNorm layer) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= layer.rows) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t vectors = layer.channels / V::kCount;
  const float* x = layer.x + row * layer.channels;
  float sum = 0;
  for (int64_t i = lane; i < vectors; i += kWarp) {
    const V v = Load<V>(x, i);
    for (int j = 0; j < V::kCount; j++) sum += v.a[j] * v.a[j];
  }
  const float inverse = 1.f / sqrtf(WarpSum(sum) / layer.channels + layer.epsilon);
  if (lane == 0) layer.inverse[row] = inverse;
  for (int64_t i = lane; i < vectors; i += kWarp) {
    V v = Load<V>(x, i);
    const V gamma = Load<V>(layer.gamma, i);
    for (int j = 0; j < V::kCount; j++) v.a[j] = v.a[j] * inverse * gamma.a[j];
    Store(layer.y + row * layer.channels, i, v);
  }
}

template <class V>
__global__ void RmsNormGradKernel(RmsNormGrad layer) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= layer.rows) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t vectors = layer.channels / V::kCount;
  const float* x = layer.x + row * layer.channels;
  const float* dy = layer.dy + row * layer.channels;
  const float inverse = layer.inverse[row];
  float sum = 0;
  for (int64_t i = lane; i < vectors; i += kWarp) {
    const V v = Load<V>(x, i);
    const V d = Load<V>(dy, i);
    const V gamma = Load<V>(layer.gamma, i);
    for (int j = 0; j < V::kCount; j++) sum += d.a[j] * gamma.a[j] * (v.a[j] * inverse);
  }
  const float mean = WarpSum(sum) / layer.channels;
  for (int64_t i = lane; i < vectors; i += kWarp) {
    V v = Load<V>(x, i);
    const V d = Load<V>(dy, i);
    const V gamma = Load<V>(layer.gamma, i);
    for (int j = 0; j < V::kCount; j++) {
      v.a[j] = (d.a[j] * gamma.a[j] - v.a[j] * inverse * mean) * inverse;
    }
    Store(layer.dx + row * layer.channels, i, v);
  }
}

// ---- The gradient by gamma: sums of columns, first over slices of rows, then over the slices ----

// Most slices: enough blocks for any GPU.
constexpr int64_t kMostSlices = 256;
// Rows that a block adds up at a time, by as many groups of kWarp columns.
constexpr int kGroups = kThreads / kWarp;

int64_t SlicesOf(int64_t rows) { return std::min(kMostSlices, CeilDivide(rows, kGroups)); }

// Block (c, s): kWarp columns of the rows s, s + slices, ... of groups.
__global__ void GammaSlicesKernel(RmsNormGammaGrad layer, int64_t slices, float* sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  const int group = threadIdx.x / kWarp;
  static __shared__ float parts[kGroups][kWarp];
  float sum = 0;
  if (column < layer.channels) {
    for (int64_t row = blockIdx.y * kGroups + group; row < layer.rows; row += slices * kGroups) {
      const int64_t at = row * layer.channels + column;
      sum += layer.dy[at] * (layer.x[at] * layer.inverse[row]);
    }
  }
  parts[group][threadIdx.x % kWarp] = sum;
  __syncthreads();
  if (group != 0 || column >= layer.channels) return;
  for (int i = 1; i < kGroups; i++) sum += parts[i][threadIdx.x];
  sums[blockIdx.y * layer.channels + column] = sum;
}

__global__ void GammaKernel(const float* sums, int64_t slices, int64_t channels, float* dgamma) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= channels) return;
  float sum = 0;
  for (int64_t i = 0; i < slices; i++) sum += sums[i * channels + column];
  dgamma[column] = sum;
}

// ---- Rotation: a thread a pair of channels, or of four ----

template <class V>
__global__ void RotationKernel(Rotation layer) {
  const int64_t half = layer.headSize / 2 / V::kCount;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pair >= layer.tokens * layer.heads * half) return;
  const int64_t i = pair % half;
  const int64_t head = pair / half;
  const float* x = layer.x + head * layer.headSize;
  float* y = layer.y + head * layer.headSize;
  const int64_t table = head / layer.heads * layer.headSize;
  const V cos1 = Load<V>(layer.cosines + table, i);
  const V cos2 = Load<V>(layer.cosines + table, half + i);
  const V sin1 = Load<V>(layer.sines + table, i);
  const V sin2 = Load<V>(layer.sines + table, half + i);
  const float sign = layer.back ? -1.f : 1.f;
  V first = Load<V>(x, i);
  V second = Load<V>(x, half + i);
  for (int j = 0; j < V::kCount; j++) {
    const float a = first.a[j];
    const float b = second.a[j];
    first.a[j] = a * cos1.a[j] + b * (sign * sin1.a[j]);
    second.a[j] = b * cos2.a[j] + a * (sign * sin2.a[j]);
  }
  Store(y, i, first);
  Store(y, half + i, second);
}

// ---- Gated unit: a thread an element, or four ----

__device__ float Sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

template <class V>
__global__ void GatedUnitKernel(GatedUnit layer) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= layer.count / V::kCount) return;
  V gate = Load<V>(layer.gate, i);
  const V up = Load<V>(layer.up, i);
  for (int j = 0; j < V::kCount; j++) gate.a[j] = Sigmoid(gate.a[j]) * gate.a[j] * up.a[j];
  Store(layer.y, i, gate);
}

template <class V>
__global__ void GatedUnitGradKernel(GatedUnitGrad layer) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= layer.count / V::kCount) return;
  V gate = Load<V>(layer.gate, i);
  V up = Load<V>(layer.up, i);
  const V dy = Load<V>(layer.dy, i);
  for (int j = 0; j < V::kCount; j++) {
    const float sigmoid = Sigmoid(gate.a[j]);
    const float silu = gate.a[j] * sigmoid;
    // d silu / dx = sigmoid + silu (1 - sigmoid)
    gate.a[j] = dy.a[j] * up.a[j] * (sigmoid + silu * (1.f - sigmoid));
    up.a[j] = dy.a[j] * silu;
  }
  Store(layer.dgate, i, gate);
  Store(layer.dup, i, up);
}

// ---- AdamW: a thread an element, or four ----

template <class V>
__global__ void AdamWKernel(AdamW layer) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= layer.count / V::kCount) return;
  const float rest = 1.f - layer.beta1;
  const float shrink = *layer.shrink * rest;
  const float square = (1.f - layer.beta2) / (rest * rest);
  const float epsilon = layer.factors[0];
  const float rate = layer.factors[1];
  const float decay = layer.decays ? layer.factors[2] : 1.f;
  const V gradient = Load<V>(layer.gradient, i);
  V m = Load<V>(layer.m, i);
  V v = Load<V>(layer.v, i);
  V value = Load<V>(layer.value, i);
  for (int j = 0; j < V::kCount; j++) {
    const float part = gradient.a[j] * shrink;
    m.a[j] = m.a[j] * layer.beta1 + part;
    v.a[j] = v.a[j] * layer.beta2 + part * part * square;
    value.a[j] = value.a[j] * decay - m.a[j] / (sqrtf(v.a[j]) + epsilon) * rate;
  }
  Store(layer.newM, i, m);
  Store(layer.newV, i, v);
  Store(layer.newValue, i, value);
}

// Launches one thread for each item, by the kernel for vectors or that for single numbers.
template <class Layer>
Status LaunchItems(void (*kernel)(Layer), const Layer& layer, int64_t threads, void* stream) {
  const auto blocks = static_cast<unsigned>(CeilDivide(threads, kThreads));
  return StatusOf(Start(kernel, {blocks, kThreads, 0, static_cast<cudaStream_t>(stream)}, layer));
}

}  // namespace

Status Run(const RmsNorm& layer, void* stream) {
  const bool four = Vectorizes(layer.channels, {layer.x, layer.gamma, layer.y});
  return LaunchItems(four ? RmsNormKernel<Four> : RmsNormKernel<One>, layer, layer.rows * kWarp, stream);
}

Status Run(const RmsNormGrad& layer, void* stream) {
  const bool four = Vectorizes(layer.channels, {layer.x, layer.gamma, layer.dy, layer.dx});
  return LaunchItems(four ? RmsNormGradKernel<Four> : RmsNormGradKernel<One>, layer, layer.rows * kWarp, stream);
}

size_t ScratchBytes(const RmsNormGammaGrad& layer) {
  return sizeof(float) * static_cast<size_t>(SlicesOf(layer.rows) * layer.channels);
}

Status Run(const RmsNormGammaGrad& layer, void* scratch, void* stream) {
  const int64_t slices = SlicesOf(layer.rows);
  const auto sums = static_cast<float*>(scratch);
  const auto cudaStream = static_cast<cudaStream_t>(stream);
  const dim3 grid(static_cast<unsigned>(CeilDivide(layer.channels, kWarp)), static_cast<unsigned>(slices));
  const cudaError_t error = Start(GammaSlicesKernel, {grid, kThreads, 0, cudaStream}, layer, slices, sums);
  if (error != cudaSuccess) return StatusOf(error);
  const auto blocks = static_cast<unsigned>(CeilDivide(layer.channels, kThreads));
  return StatusOf(Start(GammaKernel, {blocks, kThreads, 0, cudaStream}, sums, slices, layer.channels, layer.dgamma));
}

Status Run(const Rotation& layer, void* stream) {
  const bool four = Vectorizes(layer.headSize / 2, {layer.x, layer.cosines, layer.sines, layer.y});
  const int64_t pairs = layer.tokens * layer.heads * layer.headSize / 2;
  return four ? LaunchItems(RotationKernel<Four>, layer, pairs / 4, stream)
              : LaunchItems(RotationKernel<One>, layer, pairs, stream);
}

Status Run(const GatedUnit& layer, void* stream) {
  const bool four = Vectorizes(layer.count, {layer.gate, layer.up, layer.y});
  return four ? LaunchItems(GatedUnitKernel<Four>, layer, layer.count / 4, stream)
              : LaunchItems(GatedUnitKernel<One>, layer, layer.count, stream);
}

Status Run(const GatedUnitGrad& layer, void* stream) {
  const bool four = Vectorizes(layer.count, {layer.gate, layer.up, layer.dy, layer.dgate, layer.dup});
  return four ? LaunchItems(GatedUnitGradKernel<Four>, layer, layer.count / 4, stream)
              : LaunchItems(GatedUnitGradKernel<One>, layer, layer.count, stream);
}

Status Run(const AdamW& layer, void* stream) {
  const bool four =
      Vectorizes(layer.count, {layer.gradient, layer.m, layer.v, layer.value, layer.newM, layer.newV, layer.newValue});
  return four ? LaunchItems(AdamWKernel<Four>, layer, layer.count / 4, stream)
              : LaunchItems(AdamWKernel<One>, layer, layer.count, stream);
}

}  // namespace flashmask::cuda
