// The Node addon. `register()` registers the ops with the loaded TensorFlow, `info()` describes the build and the
// machine. distributed.cc has the functions of process groups.
#include <node_api.h>

#include <string>

#include "../attention.h"
#include "../cpu/parallel.h"
#include "../tensorflow/cuda_driver.h"
#include "../tensorflow/ops.h"
#include "distributed.h"
#include "js.h"

// Given by scripts/build_native.mjs.
#ifndef FLASHMASK_VERSION
#define FLASHMASK_VERSION "unknown"
#endif
#ifndef FLASHMASK_CUDA_VERSION
#define FLASHMASK_CUDA_VERSION ""
#endif
#ifndef FLASHMASK_CUDA_ARCHS
#define FLASHMASK_CUDA_ARCHS ""
#endif

namespace {

using flashmask::node::Export;
using flashmask::node::ExportDistributed;
using flashmask::node::Js;

std::string CudaVersionText(int version) {
  return version == 0 ? "" : std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// "80,90,90-ptx" as an array.
napi_value Archs(const Js& js) {
  napi_value archs = js.Array();
  const std::string all = FLASHMASK_CUDA_ARCHS;
  for (size_t start = 0; start < all.size();) {
    const size_t comma = all.find(',', start);
    const size_t end = comma == std::string::npos ? all.size() : comma;
    js.Push(archs, js.String(all.substr(start, end - start)));
    start = end + 1;
  }
  return archs;
}

napi_value CudaInfo(const Js& js) {
  napi_value cuda = js.Object();
  const std::string built = FLASHMASK_CUDA_VERSION;
  js.Set(cuda, "built", js.Bool(!built.empty()));
  js.Set(cuda, "runtime", js.StringOrNull(built));
  js.Set(cuda, "archs", Archs(js));
  return cuda;
}

napi_value DeviceList(const Js& js) {
  napi_value devices = js.Array();
  for (const flashmask::cuda::DeviceInfo& device : flashmask::cuda::Devices()) {
    napi_value entry = js.Object();
    js.Set(entry, "name", js.String(device.name));
    js.Set(entry, "computeCapability", js.String(std::to_string(device.major) + "." + std::to_string(device.minor)));
    js.Push(devices, entry);
  }
  return devices;
}

// {version, cuda: {built, runtime, archs}, driver, devices: [{name, computeCapability}], instructionSet, threads}
napi_value Info(napi_env env, napi_callback_info) {
  const Js js(env);
  napi_value info = js.Object();
  js.Set(info, "version", js.String(FLASHMASK_VERSION));
  js.Set(info, "cuda", CudaInfo(js));
  js.Set(info, "driver", js.StringOrNull(CudaVersionText(flashmask::cuda::DriverVersion())));
  js.Set(info, "devices", DeviceList(js));
  js.Set(info, "instructionSet", js.String(flashmask::cpu::InstructionSet()));
  js.Set(info, "threads", js.Number(flashmask::cpu::ThreadCount(0)));
  return info;
}

napi_value Register(napi_env env, napi_callback_info) {
  const std::string error = flashmask::tensorflow::Register();
  if (!error.empty()) napi_throw_error(env, nullptr, error.c_str());
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  Export(env, exports, "register", Register);
  Export(env, exports, "info", Info);
  ExportDistributed(env, exports);
  return exports;
}
