// A call of one of our kernels by TensorFlow: its attributes, tensors and errors.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../attention.h"
#include "c_api.h"
#ifdef FLASHMASK_CUDA
#include "cuda_order.h"
#endif

namespace flashmask {
namespace tensorflow {

using Shape = std::vector<int64_t>;

// ---- Attributes ----

inline bool ReadBool(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  unsigned char value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrBool(construction, name, &value, status.get());
  return value != 0;
}

inline float ReadFloat(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  float value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrFloat(construction, name, &value, status.get());
  return value;
}

inline int64_t ReadInt(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  int64_t value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrInt64(construction, name, &value, status.get());
  return value;
}

inline std::string ReadString(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  int32_t length = -1;
  int32_t bytes = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrSize(construction, name, &length, &bytes, status.get());
  std::string value(bytes, '\0');
  if (status.ok()) api.OpKernelConstruction_GetAttrString(construction, name, &value[0], value.size(), status.get());
  return value;
}

// ---- Errors ----

// Becomes the status of the call.
struct Failure {
  Code code;
  std::string message;
};

inline std::string Text(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

inline void RequireShape(bool holds, const char* op, const char* rule, const Shape& got) {
  if (!holds) throw Failure{kInvalidArgument, std::string(op) + ": " + rule + ", got " + Text(got)};
}

// ---- Tensors ----

constexpr int kMostInputs = 9;

struct DeleteTensor {
  void operator()(Tensor* tensor) const { api.DeleteTensor(tensor); }
};
using OwnTensor = std::unique_ptr<Tensor, DeleteTensor>;

// The tensors of one call, released when it ends.
class Call {
 public:
  explicit Call(OpKernelContext* context) : context_(context) {}

  const void* Input(int index) {
    OwnTensor& tensor = inputs_.at(index);
    if (!tensor) {
      Tensor* got = nullptr;
      api.GetInput(context_, index, &got, status_.get());
      RequireOk();
      tensor.reset(got);
    }
    return api.TensorData(tensor.get());
  }

  DataType InputType(int index) {
    Input(index);
    return api.TensorType(inputs_[index].get());
  }

  Shape InputShape(int index) {
    Input(index);
    const Tensor* tensor = inputs_[index].get();
    Shape shape(api.NumDims(tensor));
    for (size_t i = 0; i < shape.size(); i++) shape[i] = api.Dim(tensor, static_cast<int>(i));
    return shape;
  }

  float* Output(int index, const Shape& shape) {
    size_t bytes = sizeof(float);
    for (const int64_t size : shape) bytes *= size;
    const int rank = static_cast<int>(shape.size());
    return static_cast<float*>(
        Keep(api.AllocateOutput(context_, index, kFloat, shape.data(), rank, bytes, status_.get())));
  }

  // Memory from TensorFlow's allocator on the device of the op, aligned to 64 bytes on CPUs and 256 on GPUs.
  void* Scratch(size_t bytes) {
    if (bytes == 0) return nullptr;
    const auto length = static_cast<int64_t>(bytes);
    AllocatorAttributes attributes = {offsetof(AllocatorAttributes, onHost) + 1, 0};
    return Keep(api.AllocateTemp(context_, kUint8, &length, 1, &attributes, status_.get()));
  }

  // Keeps the memory of all tensors of the call while the process runs.
  void Abandon() {
    for (OwnTensor& tensor : inputs_) tensor.release();
    for (OwnTensor& tensor : kept_) tensor.release();
  }

  void Fail(Code code, const std::string& message) {
    status_.Set(code, message);
    api.OpKernelContext_Failure(context_, status_.get());
  }

 private:
  void RequireOk() {
    if (!status_.ok()) throw Failure{status_.code(), status_.message()};
  }

  void* Keep(Tensor* tensor) {
    kept_.emplace_back(tensor);
    RequireOk();
    return api.TensorData(tensor);
  }

  OpKernelContext* context_;
  OwnStatus status_;
  std::array<OwnTensor, kMostInputs> inputs_;
  std::vector<OwnTensor> kept_;
};

// No exception may leave a function that TensorFlow calls.
template <typename Body>
void Guard(OpKernelContext* context, const char* op, Body body) {
  Call call(context);
  try {
    body(&call);
  } catch (const Failure& failure) {
    call.Fail(failure.code, failure.message);
  } catch (const std::bad_alloc&) {
    call.Fail(kResourceExhausted, std::string(op) + ": out of memory on the host");
  } catch (const std::exception& error) {
    call.Fail(kInternal, std::string(op) + ": " + error.what());
  }
}

#ifdef FLASHMASK_CUDA
inline void CheckOrder(const cuda::OrderedStream& ordered) {
  if (!ordered.error().empty()) throw Failure{kInternal, ordered.error()};
}

// Calls `queue` with the stream for the kernels of a call that reads the device memory `input`.
template <typename Queue>
void Launch(const void* input, Queue queue) {
  cuda::OrderedStream ordered(input);
  CheckOrder(ordered);
  const cuda::Status status = queue(ordered.stream());
  // Also after an error, because some of the kernels may be queued.
  ordered.Finish();
  if (status.name) {
    const bool memory = std::strcmp(status.name, "cudaErrorMemoryAllocation") == 0;
    throw Failure{memory ? kResourceExhausted : kInternal, std::string(status.name) + ": " + status.message};
  }
  CheckOrder(ordered);
}
#endif

// ---- Registration ----

using Compute = void (*)(void*, OpKernelContext*);

// What TensorFlow calls of a kernel.
struct Functions {
  void* (*create)(OpKernelConstruction*);
  Compute compute;
  void (*destroy)(void*);
};

// Registers a kernel. Returns an error message, or an empty string. `hostInput` is read on the host; null for none.
inline std::string RegisterKernel(const char* op, const char* device, const Functions& functions,
                                  const char* hostInput = nullptr) {
  KernelBuilder* builder = api.NewKernelBuilder(op, device, functions.create, functions.compute, functions.destroy);
  if (hostInput) api.KernelBuilder_HostMemory(builder, hostInput);
  const std::string name = std::string(op) + device;
  OwnStatus status;
  api.RegisterKernelBuilder(name.c_str(), builder, status.get());  // Takes the builder.
  return status.ok() ? "" : "TensorFlow must register the kernel " + name + ", got: " + status.message();
}

}  // namespace tensorflow
}  // namespace flashmask
