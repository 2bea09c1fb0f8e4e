#include "cuda_driver.h"

#include <dlfcn.h>

namespace flashmask {
namespace cuda {

namespace {

template <typename Function>
bool Find(void* library, const char* symbol, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  return *function != nullptr;
}

const Driver* Load() {
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!library) return nullptr;
  static Driver driver;
  bool complete = true;
#define FLASHMASK_DRIVER_FIND(name, symbol, parameters) complete = Find(library, #symbol, &driver.name) && complete;
  FLASHMASK_DRIVER_FUNCTIONS(FLASHMASK_DRIVER_FIND)
#undef FLASHMASK_DRIVER_FIND
  Find(library, "cuCtxRecordEvent", &driver.ContextRecordEvent);
  Find(library, "cuCtxWaitEvent", &driver.ContextWaitEvent);
  return complete && driver.Init(0) == kSuccess ? &driver : nullptr;
}

}  // namespace

const Driver* FindDriver() {
  static const Driver* const driver = Load();
  return driver;
}

std::string Describe(const Driver& driver, Result result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.GetErrorName(result, &name);
  driver.GetErrorString(result, &text);
  return std::string(name ? name : "CUDA error " + std::to_string(result)) + ": " + (text ? text : "unknown");
}

int DriverVersion() {
  const Driver* driver = FindDriver();
  int version = 0;
  return driver && driver->DriverGetVersion(&version) == kSuccess ? version : 0;
}

std::vector<DeviceInfo> Devices() {
  std::vector<DeviceInfo> devices;
  const Driver* driver = FindDriver();
  int count = 0;
  if (!driver || driver->DeviceGetCount(&count) != kSuccess) return devices;
  for (int i = 0; i < count; i++) {
    Device device = 0;
    char name[256] = "";
    DeviceInfo info = {"", 0, 0};
    if (driver->DeviceGet(&device, i) != kSuccess) continue;
    if (driver->DeviceGetName(name, sizeof(name), device) == kSuccess) info.name = name;
    driver->DeviceGetAttribute(&info.major, kComputeCapabilityMajor, device);
    driver->DeviceGetAttribute(&info.minor, kComputeCapabilityMinor, device);
    devices.push_back(info);
  }
  return devices;
}

}  // namespace cuda
}  // namespace flashmask
