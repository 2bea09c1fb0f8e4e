// TensorFlow's kernels. They read the attributes and tensors of a call and run the kernels of native/cpu or
// native/cuda.
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
#include "ops.h"
#ifdef FLASHMASK_CUDA
#include "cuda_order.h"
#endif

namespace flashmask {
namespace tensorflow {

namespace {

using Shape = std::vector<int64_t>;

// The attributes of the op. TensorFlow makes one kernel object per set of attributes, so they are read once.
struct Attributes {
  Problem problem = {};  // sizes and seed are set per call
  int threads = 0;
};

// Indices of the inputs of both ops.
enum Input { kQ, kK, kV, kBounds, kSeed, kOut, kRowStats, kDOut, kDLse };

// ---- Attributes ----

bool ReadBool(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  unsigned char value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrBool(construction, name, &value, status.get());
  return value != 0;
}

float ReadFloat(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  float value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrFloat(construction, name, &value, status.get());
  return value;
}

int64_t ReadInt(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  int64_t value = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrInt64(construction, name, &value, status.get());
  return value;
}

std::string ReadString(OpKernelConstruction* construction, const char* name, const OwnStatus& status) {
  int32_t length = -1;
  int32_t bytes = 0;
  if (status.ok()) api.OpKernelConstruction_GetAttrSize(construction, name, &length, &bytes, status.get());
  std::string value(bytes, '\0');
  if (status.ok()) api.OpKernelConstruction_GetAttrString(construction, name, &value[0], value.size(), status.get());
  return value;
}

Precision PrecisionOf(const std::string& name) {
  if (name == "float32") return Precision::kFloat32;
  if (name == "float16") return Precision::kFloat16;
  return name == "bfloat16" ? Precision::kBFloat16 : Precision::kAuto;
}

void* Create(OpKernelConstruction* construction) {
  const OwnStatus status;
  auto attributes = std::make_unique<Attributes>();
  Problem& p = attributes->problem;
  p.causal = ReadBool(construction, "causal", status);
  p.scale = ReadFloat(construction, "scale", status);
  p.bhsd = ReadString(construction, "layout", status) == "bhsd";
  // dropout is below 1, so the threshold is below 2^32.
  p.dropoutThreshold = static_cast<uint32_t>(ReadInt(construction, "dropout_threshold", status));
  p.keepScale = ReadFloat(construction, "keep_scale", status);
  p.precision = PrecisionOf(ReadString(construction, "precision", status));
  p.deterministic = ReadBool(construction, "deterministic", status);
  attributes->threads = static_cast<int>(ReadInt(construction, "threads", status));
  if (status.ok()) return attributes.release();
  api.OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void Delete(void* attributes) { delete static_cast<Attributes*>(attributes); }

// ---- A call ----

// Thrown within this file only; becomes the status of the call.
struct Failure {
  Code code;
  std::string message;
};

struct DeleteTensor {
  void operator()(Tensor* tensor) const { api.DeleteTensor(tensor); }
};
using OwnTensor = std::unique_ptr<Tensor, DeleteTensor>;

std::string Text(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

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
  std::array<OwnTensor, kDLse + 1> inputs_;
  std::vector<OwnTensor> kept_;
};

void Require(bool holds, const char* rule, const Shape& got) {
  if (!holds) throw Failure{kInvalidArgument, "FlashMaskAttention: " + std::string(rule) + ", got " + Text(got)};
}

// The op in TypeScript has already checked the call and throws clear errors. This check is for other callers: no kernel
// may read or write outside its tensors.
void CheckProblem(Call* call, const Problem& p) {
  const Shape k = p.bhsd ? Shape{p.B, p.Hkv, p.Sk, p.D} : Shape{p.B, p.Sk, p.Hkv, p.D};
  const Shape v = p.bhsd ? Shape{p.B, p.Hkv, p.Sk, p.Dv} : Shape{p.B, p.Sk, p.Hkv, p.Dv};
  const Shape bounds = call->InputShape(kBounds);
  Require(call->InputShape(kK) == k, "k must fit q", call->InputShape(kK));
  Require(call->InputShape(kV) == v, "v must fit q and k", call->InputShape(kV));
  Require(p.B > 0 && p.Sq > 0 && p.Sk > 0, "there must be rows and keys", k);
  Require(p.Hkv > 0 && p.H > 0 && p.H % p.Hkv == 0, "H must be a multiple of Hkv", {p.H, p.Hkv});
  Require(p.D > 0 && p.D <= 256 && p.Dv > 0 && p.Dv <= 256, "D and Dv must be from 1 to 256", {p.D, p.Dv});
  Require(p.maskB == 1 || p.maskB == p.B, "bounds must have 1 or B batches", bounds);
  Require(p.Hm == 1 || p.Hm == p.Hkv || p.Hm == p.H, "bounds must have 1, Hkv or H heads", bounds);
  Require(bounds[2] == p.Sk, "bounds must have Sk keys", bounds);
  const bool form = p.n == 0 || p.n == 2 || p.n == (p.causal ? 1 : 4);
  Require(form, "bounds must have 0, 1 or 2 numbers a key if causal, else 0, 2 or 4", bounds);
}

Problem ProblemOf(Call* call, const Attributes& attributes) {
  for (const int i : {kQ, kK, kV, kBounds}) {
    Require(call->InputShape(i).size() == 4, "q, k, v and bounds must have rank 4", call->InputShape(i));
  }
  Require(call->InputShape(kSeed) == Shape{2}, "seed must have two numbers", call->InputShape(kSeed));
  Problem p = attributes.problem;
  const Shape q = call->InputShape(kQ);
  const Shape k = call->InputShape(kK);
  const Shape bounds = call->InputShape(kBounds);
  const int row = p.bhsd ? 2 : 1;
  const int head = p.bhsd ? 1 : 2;
  p.B = q[0];
  p.H = q[head];
  p.Hkv = k[head];
  p.Sq = q[row];
  p.Sk = k[row];
  p.D = q[3];
  p.Dv = call->InputShape(kV)[3];
  p.maskB = bounds[0];
  p.Hm = bounds[1];
  p.n = bounds[3];
  CheckProblem(call, p);
  const auto* words = static_cast<const uint32_t*>(call->Input(kSeed));
  p.seed = words[0] | static_cast<uint64_t>(words[1]) << 32;
  return p;
}

Shape OutShape(const Problem& p) { return p.bhsd ? Shape{p.B, p.H, p.Sq, p.Dv} : Shape{p.B, p.Sq, p.H, p.Dv}; }

// Fills in q, k, v and bounds of ForwardTensors or BackwardTensors.
template <typename Tensors>
Tensors InputsOf(Call* call) {
  Tensors tensors = {};
  tensors.q = static_cast<const float*>(call->Input(kQ));
  tensors.k = static_cast<const float*>(call->Input(kK));
  tensors.v = static_cast<const float*>(call->Input(kV));
  tensors.bounds = static_cast<const int32_t*>(call->Input(kBounds));
  return tensors;
}

ForwardTensors ForwardTensorsOf(Call* call, const Problem& p) {
  auto tensors = InputsOf<ForwardTensors>(call);
  tensors.out = call->Output(0, OutShape(p));
  tensors.lse = call->Output(1, {p.B, p.H, p.Sq});
  tensors.rowStats = call->Output(2, {p.B, p.H, p.Sq, 2});
  return tensors;
}

BackwardTensors BackwardTensorsOf(Call* call, const Problem& p) {
  const Shape rows = {p.B, p.H, p.Sq};
  for (const int i : {kOut, kDOut})
    Require(call->InputShape(i) == OutShape(p), "out must fit q and v", call->InputShape(i));
  // An empty d_lse means zeros, because gradients seldom come through lse.
  const bool noDLse = call->InputShape(kDLse) == Shape{0};
  const Shape rowStats = call->InputShape(kRowStats);
  Require(rowStats == Shape{p.B, p.H, p.Sq, 2}, "row_stats must be [B, H, Sq, 2]", rowStats);
  Require(noDLse || call->InputShape(kDLse) == rows, "d_lse must be [B, H, Sq] or empty", call->InputShape(kDLse));
  auto tensors = InputsOf<BackwardTensors>(call);
  tensors.out = static_cast<const float*>(call->Input(kOut));
  tensors.rowStats = static_cast<const float*>(call->Input(kRowStats));
  tensors.dOut = static_cast<const float*>(call->Input(kDOut));
  tensors.dLse = noDLse ? nullptr : static_cast<const float*>(call->Input(kDLse));
  tensors.dq = call->Output(0, call->InputShape(kQ));
  tensors.dk = call->Output(1, call->InputShape(kK));
  tensors.dv = call->Output(2, call->InputShape(kV));
  return tensors;
}

// ---- Devices ----

struct Cpu {
  static constexpr const char* kName = "CPU";

  static void Run(Call* call, const Problem& p, const ForwardTensors& tensors, int threads) {
    cpu::Forward(p, tensors, call->Scratch(cpu::ForwardScratchBytes(p, threads)), threads);
  }
  static void Run(Call* call, const Problem& p, const BackwardTensors& tensors, int threads) {
    cpu::Backward(p, tensors, call->Scratch(cpu::BackwardScratchBytes(p, threads)), threads);
  }
};

#ifdef FLASHMASK_CUDA
struct Gpu {
  static constexpr const char* kName = "GPU";

  static void Run(Call* call, const Problem& p, const ForwardTensors& tensors, int) {
    void* scratch = call->Scratch(cuda::ForwardScratchBytes(p));
    Launch(tensors.q, [&](void* stream) { return cuda::Forward(p, tensors, scratch, stream); });
  }
  static void Run(Call* call, const Problem& p, const BackwardTensors& tensors, int) {
    void* scratch = call->Scratch(cuda::BackwardScratchBytes(p));
    Launch(tensors.q, [&](void* stream) { return cuda::Backward(p, tensors, scratch, stream); });
  }

 private:
  template <typename Queue>
  static void Launch(const void* q, Queue queue) {
    cuda::OrderedStream ordered(q);
    Check(ordered);
    const cuda::Status status = queue(ordered.stream());
    // Also after an error, because some of the kernels may be queued.
    ordered.Finish();
    if (status.name) {
      const bool memory = std::strcmp(status.name, "cudaErrorMemoryAllocation") == 0;
      throw Failure{memory ? kResourceExhausted : kInternal, std::string(status.name) + ": " + status.message};
    }
    Check(ordered);
  }

  static void Check(const cuda::OrderedStream& ordered) {
    if (!ordered.error().empty()) throw Failure{kInternal, ordered.error()};
  }
};
#endif

// ---- What TensorFlow calls ----

// No exception may leave a function that TensorFlow calls.
template <typename Body>
void Guard(OpKernelContext* context, Body body) {
  Call call(context);
  try {
    body(&call);
  } catch (const Failure& failure) {
    call.Fail(failure.code, failure.message);
  } catch (const std::bad_alloc&) {
    call.Fail(kResourceExhausted, "FlashMaskAttention: out of memory on the host");
  } catch (const std::exception& error) {
    call.Fail(kInternal, "FlashMaskAttention: " + std::string(error.what()));
  }
}

template <typename Device>
void ComputeForward(void* kernel, OpKernelContext* context) {
  const auto& attributes = *static_cast<const Attributes*>(kernel);
  Guard(context, [&](Call* call) {
    const Problem p = ProblemOf(call, attributes);
    Device::Run(call, p, ForwardTensorsOf(call, p), attributes.threads);
  });
}

template <typename Device>
void ComputeBackward(void* kernel, OpKernelContext* context) {
  const auto& attributes = *static_cast<const Attributes*>(kernel);
  Guard(context, [&](Call* call) {
    const Problem p = ProblemOf(call, attributes);
    Device::Run(call, p, BackwardTensorsOf(call, p), attributes.threads);
  });
}

std::string RegisterKernel(const char* op, const char* device, void (*compute)(void*, OpKernelContext*)) {
  KernelBuilder* builder = api.NewKernelBuilder(op, device, Create, compute, Delete);
  // The seed is read on the host while the work is queued.
  api.KernelBuilder_HostMemory(builder, "seed");
  const std::string name = std::string(op) + device;
  OwnStatus status;
  api.RegisterKernelBuilder(name.c_str(), builder, status.get());  // Takes the builder.
  return status.ok() ? "" : "TensorFlow must register the kernel " + name + ", got: " + status.message();
}

template <typename Device>
std::string RegisterDevice() {
  const std::string error = RegisterKernel("FlashMaskAttention", Device::kName, ComputeForward<Device>);
  return error.empty() ? RegisterKernel("FlashMaskAttentionGrad", Device::kName, ComputeBackward<Device>) : error;
}

}  // namespace

std::string RegisterKernels() {
  std::string error = RegisterDevice<Cpu>();
#ifdef FLASHMASK_CUDA
  if (error.empty()) error = RegisterDevice<Gpu>();
#endif
  return error;
}

}  // namespace tensorflow
}  // namespace flashmask
