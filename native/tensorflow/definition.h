// The definition of an op for TensorFlow: names, types, and the shapes of its outputs.
#pragma once

#include <string>
#include <vector>

#include "c_api.h"

namespace flashmask {
namespace tensorflow {

// Reads and builds shapes for a shape function. After the first failure the status holds the error and nothing more is
// done.
class Shapes {
 public:
  Shapes(ShapeInferenceContext* context, Status* status) : context_(context), status_(status) {}
  ~Shapes() {
    for (ShapeHandle* handle : made_) api.DeleteShapeHandle(handle);
  }

  ShapeHandle* Input(int index) {
    ShapeHandle* shape = Make();
    if (ok()) api.ShapeInferenceContextGetInput(context_, index, shape, status_);
    return shape;
  }

  ShapeHandle* Input(int index, int64_t rank) {
    ShapeHandle* shape = Input(index);
    if (ok()) api.ShapeInferenceContextWithRank(context_, shape, rank, shape, status_);
    return shape;
  }

  ShapeHandle* Slice(ShapeHandle* shape, int64_t start, int64_t end) {
    ShapeHandle* slice = Make();
    if (ok()) api.ShapeInferenceContextSubshape(context_, shape, start, end, slice, status_);
    return slice;
  }

  ShapeHandle* Concatenate(ShapeHandle* a, ShapeHandle* b) {
    ShapeHandle* both = Make();
    if (ok()) api.ShapeInferenceContextConcatenateShapes(context_, a, b, both, status_);
    return both;
  }

  // A shape with one axis.
  ShapeHandle* Vector(size_t size) {
    made_.push_back(api.ShapeInferenceContextVectorFromSize(context_, size));
    return made_.back();
  }

  ShapeHandle* Unknown() { return Vector(static_cast<size_t>(-1)); }

  void SetOutput(int index, ShapeHandle* shape) {
    if (ok()) api.ShapeInferenceContextSetOutput(context_, index, shape, status_);
  }

 private:
  bool ok() const { return api.GetCode(status_) == kOk; }

  ShapeHandle* Make() {
    made_.push_back(api.NewShapeHandle());
    return made_.back();
  }

  ShapeInferenceContext* context_;
  Status* status_;
  std::vector<ShapeHandle*> made_;
};

using Specs = std::vector<const char*>;

struct Definition {
  const char* name;
  Specs inputs;   // "name: type"
  Specs outputs;  // "name: type"
  Specs attrs;    // "name: type = default"
  void (*shapes)(ShapeInferenceContext*, Status*);
  bool stateful = false;  // calls are neither joined nor left out
};

// Registers an op. Returns an error message, or an empty string.
inline std::string RegisterOp(const Definition& op) {
  OpDefinitionBuilder* builder = api.NewOpDefinitionBuilder(op.name);
  for (const char* input : op.inputs) api.OpDefinitionBuilderAddInput(builder, input);
  for (const char* output : op.outputs) api.OpDefinitionBuilderAddOutput(builder, output);
  for (const char* attr : op.attrs) api.OpDefinitionBuilderAddAttr(builder, attr);
  api.OpDefinitionBuilderSetShapeInferenceFunction(builder, op.shapes);
  if (op.stateful) api.OpDefinitionBuilderSetIsStateful(builder, true);
  OwnStatus status;
  api.RegisterOpDefinition(builder, status.get());  // Frees the builder.
  return status.ok() ? "" : "TensorFlow must register the op " + std::string(op.name) + ", got: " + status.message();
}

// Registers ops, up to the first error. Returns its message, or an empty string.
template <size_t kCount>
std::string RegisterOps(const Definition (&ops)[kCount]) {
  for (const Definition& op : ops) {
    const std::string error = RegisterOp(op);
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace tensorflow
}  // namespace flashmask
