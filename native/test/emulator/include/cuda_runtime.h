// The part of the CUDA runtime and of CUDA's C++ that the kernels use, on the emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../machine.h"

#define __global__
#define __device__
#define __host__
// Thread blocks run one after another, so shared memory may be static. Kernels say `static __shared__` because the
// `extern` of dynamic shared memory leaves no place for a `static` here.
#define __shared__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __CUDA_ARCH_FEAT_SM90_ALL
#define CUDART_VERSION 13000

// ---- Types ----

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using dim3 = flashmask::emulator::Extent;

// The thread that runs.
inline flashmask::emulator::Extent& threadIdx = flashmask::emulator::place.thread;
inline flashmask::emulator::Extent& blockIdx = flashmask::emulator::place.block;
inline flashmask::emulator::Extent& gridDim = flashmask::emulator::place.grid;

// ---- Functions of one thread ----

using std::max;
using std::min;

template <class T>
T __ldg(const T* from) {
  return *from;
}

template <class T>
T atomicAdd(T* at, T x) {
  const T old = *at;
  *at += x;
  return old;
}

template <class T>
T atomicMax(T* at, T x) {
  const T old = *at;
  *at = std::max(old, x);
  return old;
}

inline float __int_as_float(int x) {
  float y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline int __float_as_int(float x) {
  int y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline int __vimax3_s32(int a, int b, int c) { return std::max(std::max(a, b), c); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }

// The upper half of two words, the lower one first, shifted left by at most 32 bits.
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : static_cast<unsigned>((uint64_t{high} << 32 | low) << shift >> 32);
}

// The bytes of two words, the lower one first, that the digits of `selector` name.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t both = uint64_t{high} << 32 | low;
  unsigned bytes = 0;
  for (int i = 0; i < 4; ++i) bytes |= static_cast<unsigned>(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return bytes;
}

// These are never joined to one operation with one rounding.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

// The sum rounded up. The second term of the exact sum tells whether it was rounded down.
inline float __fadd_ru(float a, float b) {
  const float sum = a + b;
  const float part = sum - a;
  const float rest = (a - (sum - part)) + (b - part);
  return rest > 0 ? std::nextafter(sum, HUGE_VALF) : sum;
}

[[noreturn]] inline void __trap() { flashmask::emulator::Fail("a kernel of another architecture runs"); }

// ---- Functions of a thread block or a warp ----

inline void __syncthreads() { flashmask::emulator::SyncThreads(0, flashmask::emulator::kAllThreads); }
inline int __syncthreads_or(int x) { return flashmask::emulator::SyncThreadsOr(x != 0); }
inline int __syncthreads_and(int x) { return !flashmask::emulator::SyncThreadsOr(x == 0); }
inline void __syncwarp() { flashmask::emulator::SyncWarp(); }

template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return flashmask::emulator::FromLane(x, lane);
}

template <class T>
T __shfl_xor_sync(unsigned, T x, int lanes) {
  return flashmask::emulator::FromLane(x, static_cast<int>(threadIdx.x % flashmask::emulator::kLanes) ^ lanes);
}

inline unsigned __ballot_sync(unsigned, bool x) { return flashmask::emulator::Ballot(x); }
inline bool __any_sync(unsigned, bool x) { return flashmask::emulator::Ballot(x) != 0; }
inline bool __all_sync(unsigned, bool x) { return ~flashmask::emulator::Ballot(x) == 0; }

template <class T>
T __reduce_min_sync(unsigned, T x) {
  return flashmask::emulator::Reduce(x, [](T a, T b) { return std::min(a, b); });
}

template <class T>
T __reduce_max_sync(unsigned, T x) {
  return flashmask::emulator::Reduce(x, [](T a, T b) { return std::max(a, b); });
}

template <class T>
T __reduce_add_sync(unsigned, T x) {
  return flashmask::emulator::Reduce(x, [](T a, T b) { return a + b; });
}

// ---- The runtime ----

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
constexpr unsigned long long cudaEnableDefault = 0;
using cudaStream_t = struct CUstream_st*;

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** found, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= flashmask::emulator::device.sharedBytes ? cudaSuccess : cudaErrorInvalidValue;
}

enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
struct cudaLaunchAttributeValue {
  struct {
    unsigned x, y, z;
  } clusterDim;
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

template <class... Params, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               const Arguments&... arguments) {
  unsigned blocksOfCluster = 1;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) blocksOfCluster = attribute.val.clusterDim.x;
  }
  flashmask::emulator::Run(
      config->gridDim, config->blockDim.x, config->dynamicSmemBytes, [&] { kernel(arguments...); }, blocksOfCluster);
  return cudaGetLastError();
}
