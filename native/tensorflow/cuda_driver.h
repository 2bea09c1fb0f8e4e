// The few functions of the CUDA driver that cuda_order.cc and the doctor need. They are looked up at run time, so that
// the addon also loads on machines without CUDA.
#pragma once

#include <string>
#include <vector>

namespace flashmask {
namespace cuda {

// The driver's types that these functions take. They are part of its stable binary interface.
using Result = int;
using Device = int;
using Context = struct ContextOpaque*;
using Stream = struct StreamOpaque*;
using Event = struct EventOpaque*;

constexpr Result kSuccess = 0;
constexpr Result kNotSupported = 801;
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kPointerDeviceOrdinal = 9;

// X(name in `Driver`, exported name, parameters); all return a Result.
#define FLASHMASK_DRIVER_FUNCTIONS(X)                                   \
  X(Init, cuInit, (unsigned))                                           \
  X(DriverGetVersion, cuDriverGetVersion, (int*))                       \
  X(DeviceGetCount, cuDeviceGetCount, (int*))                           \
  X(DeviceGet, cuDeviceGet, (Device*, int))                             \
  X(DeviceGetName, cuDeviceGetName, (char*, int, Device))               \
  X(DeviceGetAttribute, cuDeviceGetAttribute, (int*, int, Device))      \
  X(PrimaryContextRetain, cuDevicePrimaryCtxRetain, (Context*, Device)) \
  X(ContextGetCurrent, cuCtxGetCurrent, (Context*))                     \
  X(ContextGetDevice, cuCtxGetDevice, (Device*))                        \
  X(ContextPushCurrent, cuCtxPushCurrent_v2, (Context))                 \
  X(ContextPopCurrent, cuCtxPopCurrent_v2, (Context*))                  \
  X(ContextSynchronize, cuCtxSynchronize, ())                           \
  X(StreamCreate, cuStreamCreate, (Stream*, unsigned))                  \
  X(StreamSynchronize, cuStreamSynchronize, (Stream))                   \
  X(StreamWaitEvent, cuStreamWaitEvent, (Stream, Event, unsigned))      \
  X(EventCreate, cuEventCreate, (Event*, unsigned))                     \
  X(EventRecord, cuEventRecord, (Event, Stream))                        \
  X(PointerGetAttribute, cuPointerGetAttribute, (void*, int, size_t))   \
  X(GetErrorName, cuGetErrorName, (Result, const char**))               \
  X(GetErrorString, cuGetErrorString, (Result, const char**))

struct Driver {
#define FLASHMASK_DRIVER_MEMBER(name, symbol, parameters) Result(*name) parameters = nullptr;
  FLASHMASK_DRIVER_FUNCTIONS(FLASHMASK_DRIVER_MEMBER)
#undef FLASHMASK_DRIVER_MEMBER
  // Exists since the driver of CUDA 12.5 (555); else null.
  Result (*ContextRecordEvent)(Context, Event) = nullptr;
  Result (*ContextWaitEvent)(Context, Event) = nullptr;
};

// The driver, searched once; null if there is none.
const Driver* FindDriver();

// "CUDA_ERROR_NAME: message of the driver".
std::string Describe(const Driver& driver, Result result);

struct DeviceInfo {
  std::string name;
  int major;
  int minor;
};

// The CUDA version of the driver (for example 13000; 0 without a driver), and the GPUs that the process may use.
int DriverVersion();
std::vector<DeviceInfo> Devices();

}  // namespace cuda
}  // namespace flashmask
