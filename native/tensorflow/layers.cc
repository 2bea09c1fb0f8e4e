// The ops of the layers, and TensorFlow's kernels for them.
#include "../layers.h"

#include <initializer_list>
#include <string>

#include "call.h"
#include "definition.h"
#include "ops.h"

namespace flashmask {
namespace tensorflow {

namespace {

constexpr const char* kName = "FlashMask layers";

// ---- Shapes of outputs ----

void LikeFirst(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  shapes.SetOutput(0, shapes.Input(0, 2));
}

void LikeFirstTwice(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  for (int i = 0; i < 2; i++) shapes.SetOutput(i, shapes.Input(0, 2));
}

void LikeInputs(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  for (int i = 0; i < 3; i++) shapes.SetOutput(i, shapes.Input(i + 1));
}

void NormShapes(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  ShapeHandle* x = shapes.Input(0, 2);
  shapes.SetOutput(0, x);
  shapes.SetOutput(1, shapes.Concatenate(shapes.Slice(x, 0, 1), shapes.Vector(1)));
}

void GammaShapes(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  shapes.SetOutput(0, shapes.Slice(shapes.Input(0, 2), 1, 2));
}

const Specs kAttrs = {"epsilon: float = 0", "back: bool = false", "threads: int >= 0 = 0"};
const Specs kY = {"y: float"};

const Definition kOps[] = {
    {"FlashMaskRmsNorm", {"x: float", "gamma: float"}, {"y: float", "inverse: float"}, kAttrs, NormShapes},
    {"FlashMaskRmsNormGrad",
     {"x: float", "gamma: float", "inverse: float", "dy: float"},
     {"dx: float"},
     kAttrs,
     LikeFirst},
    {"FlashMaskRmsNormGammaGrad", {"x: float", "inverse: float", "dy: float"}, {"dgamma: float"}, kAttrs, GammaShapes},
    {"FlashMaskRotate", {"x: float", "cosines: float", "sines: float"}, kY, kAttrs, LikeFirst},
    {"FlashMaskGatedUnit", {"gate: float", "up: float"}, kY, kAttrs, LikeFirst},
    {"FlashMaskGatedUnitGrad",
     {"gate: float", "up: float", "dy: float"},
     {"dgate: float", "dup: float"},
     kAttrs,
     LikeFirstTwice},
    {"FlashMaskAdamW",
     {"gradient: float", "m: float", "v: float", "value: float", "shrink: float", "factors: float"},
     {"new_m: float", "new_v: float", "new_value: float"},
     {"beta1: float", "beta2: float", "decays: bool", "threads: int >= 0 = 0"},
     LikeInputs},
};

// ---- Calls ----

struct Attributes {
  float epsilon = 0;
  bool back = false;
  float beta1 = 0;
  float beta2 = 0;
  bool decays = false;
  int threads = 0;
};

// The kernel's attributes; null after an error.
void* Created(OpKernelConstruction* construction, const Attributes& attributes, const OwnStatus& status) {
  if (status.ok()) return new Attributes(attributes);
  api.OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void* CreateLayer(OpKernelConstruction* construction) {
  const OwnStatus status;
  Attributes attributes;
  attributes.epsilon = ReadFloat(construction, "epsilon", status);
  attributes.back = ReadBool(construction, "back", status);
  attributes.threads = static_cast<int>(ReadInt(construction, "threads", status));
  return Created(construction, attributes, status);
}

void* CreateAdamW(OpKernelConstruction* construction) {
  const OwnStatus status;
  Attributes attributes;
  attributes.beta1 = ReadFloat(construction, "beta1", status);
  attributes.beta2 = ReadFloat(construction, "beta2", status);
  attributes.decays = ReadBool(construction, "decays", status);
  attributes.threads = static_cast<int>(ReadInt(construction, "threads", status));
  return Created(construction, attributes, status);
}

void Delete(void* attributes) { delete static_cast<Attributes*>(attributes); }

void Require(bool holds, const char* rule, const Shape& got) { RequireShape(holds, kName, rule, got); }

const float* FloatsOf(Call* call, int index) { return static_cast<const float*>(call->Input(index)); }

// The shape [N, C] of the first input, which others have too.
Shape MatrixOf(Call* call, std::initializer_list<int> equals) {
  const Shape shape = call->InputShape(0);
  Require(shape.size() == 2 && shape[0] > 0 && shape[1] > 0, "the first input must be a matrix", shape);
  for (const int i : equals) Require(call->InputShape(i) == shape, "inputs must fit", call->InputShape(i));
  return shape;
}

void RequireGamma(Call* call, int index, const Shape& x) {
  Require(call->InputShape(index) == Shape{x[1]}, "gamma must have a number a channel", call->InputShape(index));
}

void RequireInverse(Call* call, int index, const Shape& x) {
  Require(call->InputShape(index) == Shape{x[0], 1}, "inverse must have a number a row", call->InputShape(index));
}

void Read(Call* call, const Attributes& attributes, RmsNorm* layer) {
  const Shape x = MatrixOf(call, {});
  RequireGamma(call, 1, x);
  *layer = {x[0],
            x[1],
            attributes.epsilon,
            FloatsOf(call, 0),
            FloatsOf(call, 1),
            call->Output(0, x),
            call->Output(1, {x[0], 1})};
}

void Read(Call* call, const Attributes&, RmsNormGrad* layer) {
  const Shape x = MatrixOf(call, {3});
  RequireGamma(call, 1, x);
  RequireInverse(call, 2, x);
  *layer = {x[0], x[1], FloatsOf(call, 0), FloatsOf(call, 1), FloatsOf(call, 2), FloatsOf(call, 3), call->Output(0, x)};
}

void Read(Call* call, const Attributes&, RmsNormGammaGrad* layer) {
  const Shape x = MatrixOf(call, {2});
  RequireInverse(call, 1, x);
  *layer = {x[0], x[1], FloatsOf(call, 0), FloatsOf(call, 1), FloatsOf(call, 2), call->Output(0, {x[1]})};
}

void Read(Call* call, const Attributes& attributes, Rotation* layer) {
  const Shape x = MatrixOf(call, {});
  const Shape table = call->InputShape(1);
  Require(table.size() == 3 && table[0] == x[0] && table[1] == 1, "cosines must be [N, 1, headSize]", table);
  Require(call->InputShape(2) == table, "sines must fit cosines", call->InputShape(2));
  const int64_t headSize = table[2];
  Require(headSize > 0 && headSize % 2 == 0 && x[1] % headSize == 0, "channels must be heads of even size", x);
  *layer = {x[0],
            x[1] / headSize,
            headSize,
            attributes.back,
            FloatsOf(call, 0),
            FloatsOf(call, 1),
            FloatsOf(call, 2),
            call->Output(0, x)};
}

void Read(Call* call, const Attributes&, GatedUnit* layer) {
  const Shape gate = MatrixOf(call, {1});
  *layer = {gate[0] * gate[1], FloatsOf(call, 0), FloatsOf(call, 1), call->Output(0, gate)};
}

void Read(Call* call, const Attributes&, GatedUnitGrad* layer) {
  const Shape gate = MatrixOf(call, {1, 2});
  *layer = {gate[0] * gate[1], FloatsOf(call, 0),     FloatsOf(call, 1),
            FloatsOf(call, 2), call->Output(0, gate), call->Output(1, gate)};
}

int64_t SizeOf(const Shape& shape) {
  int64_t size = 1;
  for (const int64_t axis : shape) size *= axis;
  return size;
}

void Read(Call* call, const Attributes& attributes, AdamW* layer) {
  const Shape shape = call->InputShape(0);
  for (const int i : {1, 2, 3}) Require(call->InputShape(i) == shape, "inputs must fit", call->InputShape(i));
  Require(SizeOf(call->InputShape(4)) == 1, "shrink must be one number", call->InputShape(4));
  Require(call->InputShape(5) == Shape{3}, "factors must be three numbers", call->InputShape(5));
  *layer = {SizeOf(shape),          attributes.beta1,       attributes.beta2,      attributes.decays, FloatsOf(call, 0),
            FloatsOf(call, 1),      FloatsOf(call, 2),      FloatsOf(call, 3),     FloatsOf(call, 4), FloatsOf(call, 5),
            call->Output(0, shape), call->Output(1, shape), call->Output(2, shape)};
}

// ---- Devices ----

struct Cpu {
  static constexpr const char* kDevice = "CPU";

  template <class Layer>
  static void Run(Call*, const Layer& layer, int threads) {
    cpu::Run(layer, threads);
  }
};

#ifdef FLASHMASK_CUDA
struct Gpu {
  static constexpr const char* kDevice = "GPU";

  template <class Layer>
  static void Run(Call* call, const Layer& layer, int) {
    Launch(call->Input(0), [&](void* stream) { return cuda::Run(layer, stream); });
  }
  static void Run(Call* call, const RmsNormGammaGrad& layer, int) {
    void* scratch = call->Scratch(cuda::ScratchBytes(layer));
    Launch(layer.x, [&](void* stream) { return cuda::Run(layer, scratch, stream); });
  }
};
#endif

template <class Layer, class Device>
void ComputeLayer(void* kernel, OpKernelContext* context) {
  Guard(context, kName, [&](Call* call) {
    const auto& attributes = *static_cast<const Attributes*>(kernel);
    Layer layer;
    Read(call, attributes, &layer);
    Device::Run(call, layer, attributes.threads);
  });
}

template <class Device>
std::string RegisterDevice() {
  const struct {
    const char* op;
    Functions functions;
  } kernels[] = {
      {"FlashMaskRmsNorm", {CreateLayer, ComputeLayer<RmsNorm, Device>, Delete}},
      {"FlashMaskRmsNormGrad", {CreateLayer, ComputeLayer<RmsNormGrad, Device>, Delete}},
      {"FlashMaskRmsNormGammaGrad", {CreateLayer, ComputeLayer<RmsNormGammaGrad, Device>, Delete}},
      {"FlashMaskRotate", {CreateLayer, ComputeLayer<Rotation, Device>, Delete}},
      {"FlashMaskGatedUnit", {CreateLayer, ComputeLayer<GatedUnit, Device>, Delete}},
      {"FlashMaskGatedUnitGrad", {CreateLayer, ComputeLayer<GatedUnitGrad, Device>, Delete}},
      {"FlashMaskAdamW", {CreateAdamW, ComputeLayer<AdamW, Device>, Delete}},
  };
  for (const auto& [op, functions] : kernels) {
    const std::string error = RegisterKernel(op, Device::kDevice, functions);
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace

std::string RegisterLayers() {
  std::string error = RegisterOps(kOps);
  if (error.empty()) error = RegisterDevice<Cpu>();
#ifdef FLASHMASK_CUDA
  if (error.empty()) error = RegisterDevice<Gpu>();
#endif
  return error;
}

}  // namespace tensorflow
}  // namespace flashmask
