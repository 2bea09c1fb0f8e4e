#include "ops.h"

#include <mutex>
#include <string>

#include "definition.h"

namespace flashmask {
namespace tensorflow {

namespace {

const char* const kForward = "FlashMaskAttention";
const char* const kBackward = "FlashMaskAttentionGrad";
const char* const kPlan = "FlashMaskPlan";

// The attributes do not change from call to call. The seed does, and TensorFlow keeps a kernel for every set of
// attributes that it has seen, so the seed is an input. `mask` is the type of what stands for the mask: int32 for its
// bounds, float for their plan.
const Specs kAttrs = {
    "mask: {int32, float} = DT_INT32",
    "causal: bool",
    "scale: float",
    "layout: {'bshd', 'bhsd'} = 'bshd'",
    "dropout_threshold: int >= 0 = 0",
    "keep_scale: float = 1.0",
    "precision: {'auto', 'float32', 'float16', 'bfloat16'} = 'auto'",
    "deterministic: bool = false",
    "threads: int >= 0 = 0",
};

// out has the axes of q, but the channels of v. lse and row_stats may have heads and rows in another order than q: that
// depends on the layout, which the C API does not give to shape functions.
void ForwardShapes(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  ShapeHandle* q = shapes.Input(0, 4);
  shapes.Input(1, 4);
  ShapeHandle* v = shapes.Input(2, 4);
  shapes.Input(3, 4);
  shapes.Input(4, 1);
  shapes.SetOutput(0, shapes.Concatenate(shapes.Slice(q, 0, 3), shapes.Slice(v, 3, 4)));
  ShapeHandle* lse = shapes.Concatenate(shapes.Slice(q, 0, 1), shapes.Concatenate(shapes.Unknown(), shapes.Unknown()));
  shapes.SetOutput(1, lse);
  shapes.SetOutput(2, shapes.Concatenate(lse, shapes.Vector(2)));
}

void BackwardShapes(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  for (int i = 0; i < 3; i++) shapes.SetOutput(i, shapes.Input(i, 4));
}

// A plan has the sizes of its bounds but for the keys, and then its words.
void PlanShapes(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  ShapeHandle* bounds = shapes.Input(0, 4);
  shapes.Input(1, 0);
  ShapeHandle* form = shapes.Concatenate(shapes.Slice(bounds, 3, 4), shapes.Unknown());
  shapes.SetOutput(0, shapes.Concatenate(shapes.Slice(bounds, 0, 2), form));
}

// Whether TensorFlow knows the op. Another copy of the addon may have registered it, and a second registration ends the
// process.
bool IsRegistered(const char* name) {
  OwnStatus status;
  Graph* graph = api.NewGraph();
  Buffer* definition = api.NewBuffer();
  api.GraphGetOpDef(graph, name, definition, status.get());
  api.DeleteBuffer(definition);
  api.DeleteGraph(graph);
  return status.ok();
}

std::string RegisterAll() {
  if (IsRegistered(kBackward)) {
    return IsRegistered(kPlan) ? "" : "another version of tfjs-flashmask has registered its operations before";
  }
  const Specs qkv = {"q: float", "k: float", "v: float", "bounds: mask", "seed: int32"};
  Specs all = qkv;
  for (const char* more : {"out: float", "row_stats: float", "d_out: float", "d_lse: float"}) all.push_back(more);
  std::string error =
      RegisterOp({kForward, qkv, {"out: float", "lse: float", "row_stats: float"}, kAttrs, ForwardShapes});
  if (error.empty())
    error = RegisterOp({kBackward, all, {"dq: float", "dk: float", "dv: float"}, kAttrs, BackwardShapes});
  if (error.empty())
    error =
        RegisterOp({kPlan, {"bounds: int32", "query_length: int32"}, {"plan: float"}, {"causal: bool"}, PlanShapes});
  if (error.empty()) error = RegisterKernels();
  if (error.empty()) error = RegisterLayers();
  return error.empty() ? RegisterCollectives() : error;
}

}  // namespace

std::string Register() {
  // Each worker of a process loads the addon; the lock is for two that load it at once.
  static std::mutex mutex;
  static bool tried = false;
  static std::string error;
  const std::lock_guard<std::mutex> lock(mutex);
  if (tried) return error;
  // Tries nothing before libtensorflow is loaded, so a later call may succeed.
  const std::string missing = LoadApi();
  if (!missing.empty()) return missing;
  tried = true;
  error = RegisterAll();
  return error;
}

}  // namespace tensorflow
}  // namespace flashmask
