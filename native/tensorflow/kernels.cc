// TensorFlow's kernels of the attention. They read the attributes and tensors of a call and run the kernels of
// native/cpu or native/cuda.
#include <memory>
#include <string>

#include "../attention.h"
#include "call.h"
#include "ops.h"

namespace flashmask {
namespace tensorflow {

namespace {

// The attributes of the op. TensorFlow makes one kernel object per set of attributes, so they are read once.
struct Attributes {
  Problem problem = {};  // sizes and seed are set per call
  int threads = 0;
};

constexpr const char* kName = "FlashMaskAttention";
constexpr const char* kPlanName = "FlashMaskPlan";

// Indices of the inputs of both ops. The bounds may be a plan.
enum Input { kQ, kK, kV, kBounds, kSeed, kOut, kRowStats, kDOut, kDLse };
enum PlanInput { kPlanBounds, kPlanQueryLength };

// ---- Attributes ----

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

void Require(bool holds, const std::string& rule, const Shape& got) { RequireShape(holds, kName, rule.c_str(), got); }

void RequireForm(const char* op, const Problem& p, const Shape& got) {
  const bool form = p.n == 0 || p.n == 2 || p.n == (p.causal ? 1 : 4);
  RequireShape(form, op, "bounds must have 0, 1 or 2 numbers a key if causal, else 0, 2 or 4", got);
}

bool HasPlan(Call* call) { return call->InputType(kBounds) == kFloat; }

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
  Require(HasPlan(call) || bounds[2] == p.Sk, "bounds must have Sk keys", bounds);
  RequireForm(kName, p, bounds);
}

template <typename Device>
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
  p.n = bounds[HasPlan(call) ? 2 : 3];
  CheckProblem(call, p);
  if (HasPlan(call)) Device::CheckPlan(p, bounds);
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
  if (HasPlan(call)) {
    tensors.plan = const_cast<void*>(call->Input(kBounds));
  } else {
    tensors.bounds = static_cast<const int32_t*>(call->Input(kBounds));
  }
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
  static constexpr const char* kDevice = "CPU";

  static void CheckPlan(const Problem&, const Shape& plan) {
    Require(false, "on a CPU bounds must be int32: plans are for GPUs", plan);
  }
  static void Run(Call* call, const Problem& p, const ForwardTensors& tensors, int threads) {
    cpu::Forward(p, tensors, call->Scratch(cpu::ForwardScratchBytes(p, threads)), threads);
  }
  static void Run(Call* call, const Problem& p, const BackwardTensors& tensors, int threads) {
    cpu::Backward(p, tensors, call->Scratch(cpu::BackwardScratchBytes(p, threads)), threads);
  }
};

#ifdef FLASHMASK_CUDA
// The sizes of the bounds but for the keys, and then the words. Causal masks have one more, which tells plans apart.
Shape PlanShape(const Problem& p) {
  const int64_t words = cuda::PlanBytes(p) / sizeof(float);
  const int64_t parts = p.maskB * p.Hm * p.n;
  return {p.maskB, p.Hm, p.n, (words + parts - 1) / parts + (p.causal ? 1 : 0)};
}

struct Gpu {
  static constexpr const char* kDevice = "GPU";

  static void CheckPlan(const Problem& p, const Shape& plan) {
    Require(p.n > 0, "a plan must be one of bounds", plan);
    const Shape shape = PlanShape(p);
    Require(plan == shape, "the plan must be one for these lengths and causal, " + Text(shape), plan);
  }
  static void Run(Call* call, const Problem& p, const ForwardTensors& tensors, int) {
    void* scratch = call->Scratch(cuda::ForwardScratchBytes(p));
    Launch(tensors.q, [&](void* stream) { return cuda::Forward(p, tensors, scratch, stream); });
  }
  static void Run(Call* call, const Problem& p, const BackwardTensors& tensors, int) {
    void* scratch = call->Scratch(cuda::BackwardScratchBytes(p));
    Launch(tensors.q, [&](void* stream) { return cuda::Backward(p, tensors, scratch, stream); });
  }
};
#endif

// ---- What TensorFlow calls ----

template <typename Device>
void ComputeForward(void* kernel, OpKernelContext* context) {
  const auto& attributes = *static_cast<const Attributes*>(kernel);
  Guard(context, kName, [&](Call* call) {
    const Problem p = ProblemOf<Device>(call, attributes);
    Device::Run(call, p, ForwardTensorsOf(call, p), attributes.threads);
  });
}

template <typename Device>
void ComputeBackward(void* kernel, OpKernelContext* context) {
  const auto& attributes = *static_cast<const Attributes*>(kernel);
  Guard(context, kName, [&](Call* call) {
    const Problem p = ProblemOf<Device>(call, attributes);
    Device::Run(call, p, BackwardTensorsOf(call, p), attributes.threads);
  });
}

#ifdef FLASHMASK_CUDA
// ---- Plans ----

void* CreatePlan(OpKernelConstruction* construction) {
  const OwnStatus status;
  auto causal = std::make_unique<bool>(ReadBool(construction, "causal", status));
  if (status.ok()) return causal.release();
  api.OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void DeletePlan(void* causal) { delete static_cast<bool*>(causal); }

Problem PlanProblemOf(Call* call, bool causal) {
  const Shape bounds = call->InputShape(kPlanBounds);
  const Shape queryLength = call->InputShape(kPlanQueryLength);
  RequireShape(bounds.size() == 4, kPlanName, "bounds must have rank 4", bounds);
  RequireShape(queryLength.empty(), kPlanName, "query_length must be a number", queryLength);
  Problem p = {};
  p.causal = causal;
  p.maskB = bounds[0];
  p.Hm = bounds[1];
  p.Sk = bounds[2];
  p.n = bounds[3];
  p.Sq = *static_cast<const int32_t*>(call->Input(kPlanQueryLength));
  RequireForm(kPlanName, p, bounds);
  const bool some = p.n > 0 && p.maskB > 0 && p.Hm > 0 && p.Sk > 0;
  RequireShape(some, kPlanName, "there must be bounds", bounds);
  RequireShape(p.Sq > 0, kPlanName, "query_length must be positive", {p.Sq});
  return p;
}

void ComputePlan(void* causal, OpKernelContext* context) {
  Guard(context, kPlanName, [&](Call* call) {
    const Problem p = PlanProblemOf(call, *static_cast<const bool*>(causal));
    const auto* bounds = static_cast<const int32_t*>(call->Input(kPlanBounds));
    float* plan = call->Output(0, PlanShape(p));
    Launch(bounds, [&](void* stream) { return cuda::MakePlan(p, bounds, plan, stream); });
  });
}
#endif

template <typename Device>
std::string RegisterDevice() {
  const auto add = [](const char* op, Compute compute) {
    // The seed is read on the host while the work is queued.
    return RegisterKernel(op, Device::kDevice, {Create, compute, Delete}, "seed");
  };
  const std::string error = add("FlashMaskAttention", ComputeForward<Device>);
  return error.empty() ? add("FlashMaskAttentionGrad", ComputeBackward<Device>) : error;
}

}  // namespace

std::string RegisterKernels() {
  std::string error = RegisterDevice<Cpu>();
#ifdef FLASHMASK_CUDA
  if (error.empty()) error = RegisterDevice<Gpu>();
  if (error.empty())
    error = RegisterKernel(kPlanName, Gpu::kDevice, {CreatePlan, ComputePlan, DeletePlan}, "query_length");
#endif
  return error;
}

}  // namespace tensorflow
}  // namespace flashmask
