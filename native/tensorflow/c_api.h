// The few functions of TensorFlow's stable C API that the ops need. They are declared here and looked up at run time in
// the libtensorflow that the process has loaded. The addon is neither compiled nor linked against TensorFlow, so one
// binary works with every 2.x.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flashmask {
namespace tensorflow {

// Opaque to callers of the C API. Only pointers to them are ever used.
struct Status;
struct Tensor;
struct Buffer;
struct Graph;
struct OpDefinitionBuilder;
struct ShapeInferenceContext;
struct ShapeHandle;
struct KernelBuilder;
struct OpKernelConstruction;
struct OpKernelContext;

// Values of TF_Code and TF_DataType. They come from protocol buffers and so never change.
enum Code : int { kOk = 0, kInvalidArgument = 3, kNotFound = 5, kResourceExhausted = 8, kInternal = 13 };
enum DataType : int { kFloat = 1, kInt32 = 3, kUint8 = 4 };

// TF_AllocatorAttributes. The first member is the size of the struct that the caller knows.
struct AllocatorAttributes {
  size_t structSize;
  unsigned char onHost;
};

// X(result, name without TF_, parameters), as in tensorflow/c/{tf_status,tf_tensor,ops,kernels,c_api}.h of
// TensorFlow 2.9 to 2.21.
#define FLASHMASK_TF_FUNCTIONS(X)                                                                                     \
  X(const char*, Version, ())                                                                                         \
  X(Status*, NewStatus, ())                                                                                           \
  X(void, DeleteStatus, (Status*))                                                                                    \
  X(void, SetStatus, (Status*, Code, const char*))                                                                    \
  X(Code, GetCode, (const Status*))                                                                                   \
  X(const char*, Message, (const Status*))                                                                            \
  X(void, DeleteTensor, (Tensor*))                                                                                    \
  X(DataType, TensorType, (const Tensor*))                                                                            \
  X(int, NumDims, (const Tensor*))                                                                                    \
  X(int64_t, Dim, (const Tensor*, int))                                                                               \
  X(void*, TensorData, (const Tensor*))                                                                               \
  X(Graph*, NewGraph, ())                                                                                             \
  X(void, DeleteGraph, (Graph*))                                                                                      \
  X(Buffer*, NewBuffer, ())                                                                                           \
  X(void, DeleteBuffer, (Buffer*))                                                                                    \
  X(void, GraphGetOpDef, (Graph*, const char*, Buffer*, Status*))                                                     \
  X(OpDefinitionBuilder*, NewOpDefinitionBuilder, (const char*))                                                      \
  X(void, RegisterOpDefinition, (OpDefinitionBuilder*, Status*))                                                      \
  X(void, OpDefinitionBuilderAddAttr, (OpDefinitionBuilder*, const char*))                                            \
  X(void, OpDefinitionBuilderAddInput, (OpDefinitionBuilder*, const char*))                                           \
  X(void, OpDefinitionBuilderAddOutput, (OpDefinitionBuilder*, const char*))                                          \
  X(void, OpDefinitionBuilderSetIsStateful, (OpDefinitionBuilder*, bool))                                             \
  X(void, OpDefinitionBuilderSetShapeInferenceFunction,                                                               \
    (OpDefinitionBuilder*, void (*)(ShapeInferenceContext*, Status*)))                                                \
  X(ShapeHandle*, NewShapeHandle, ())                                                                                 \
  X(void, DeleteShapeHandle, (ShapeHandle*))                                                                          \
  X(void, ShapeInferenceContextGetInput, (ShapeInferenceContext*, int, ShapeHandle*, Status*))                        \
  X(void, ShapeInferenceContextSetOutput, (ShapeInferenceContext*, int, ShapeHandle*, Status*))                       \
  X(void, ShapeInferenceContextWithRank, (ShapeInferenceContext*, ShapeHandle*, int64_t, ShapeHandle*, Status*))      \
  X(void, ShapeInferenceContextSubshape,                                                                              \
    (ShapeInferenceContext*, ShapeHandle*, int64_t, int64_t, ShapeHandle*, Status*))                                  \
  X(void, ShapeInferenceContextConcatenateShapes,                                                                     \
    (ShapeInferenceContext*, ShapeHandle*, ShapeHandle*, ShapeHandle*, Status*))                                      \
  X(ShapeHandle*, ShapeInferenceContextVectorFromSize, (ShapeInferenceContext*, size_t))                              \
  X(KernelBuilder*, NewKernelBuilder,                                                                                 \
    (const char*, const char*, void* (*)(OpKernelConstruction*), void (*)(void*, OpKernelContext*), void (*)(void*))) \
  X(void, KernelBuilder_HostMemory, (KernelBuilder*, const char*))                                                    \
  X(void, RegisterKernelBuilder, (const char*, KernelBuilder*, Status*))                                              \
  X(void, OpKernelConstruction_Failure, (OpKernelConstruction*, Status*))                                             \
  X(void, OpKernelConstruction_GetAttrSize, (OpKernelConstruction*, const char*, int32_t*, int32_t*, Status*))        \
  X(void, OpKernelConstruction_GetAttrInt64, (OpKernelConstruction*, const char*, int64_t*, Status*))                 \
  X(void, OpKernelConstruction_GetAttrFloat, (OpKernelConstruction*, const char*, float*, Status*))                   \
  X(void, OpKernelConstruction_GetAttrBool, (OpKernelConstruction*, const char*, unsigned char*, Status*))            \
  X(void, OpKernelConstruction_GetAttrString, (OpKernelConstruction*, const char*, char*, size_t, Status*))           \
  X(void, OpKernelContext_Failure, (OpKernelContext*, Status*))                                                       \
  X(void, GetInput, (OpKernelContext*, int, Tensor**, Status*))                                                       \
  X(Tensor*, AllocateOutput, (OpKernelContext*, int, DataType, const int64_t*, int, size_t, Status*))                 \
  X(Tensor*, AllocateTemp, (OpKernelContext*, DataType, const int64_t*, int, AllocatorAttributes*, Status*))

// Pointers to those functions: api.NewStatus is TF_NewStatus.
struct Api {
#define FLASHMASK_TF_MEMBER(result, name, parameters) result(*name) parameters = nullptr;
  FLASHMASK_TF_FUNCTIONS(FLASHMASK_TF_MEMBER)
#undef FLASHMASK_TF_MEMBER
};

// The functions of the loaded libtensorflow. Valid after LoadApi has succeeded.
extern Api api;

// Finds the functions. Returns an error message, or an empty string.
std::string LoadApi();

// The path of a TensorFlow library that the process has loaded, or an empty string.
std::string LoadedTensorFlow();

// Owns a TF_Status.
class OwnStatus {
 public:
  OwnStatus() : status_(api.NewStatus()) {}
  ~OwnStatus() { api.DeleteStatus(status_); }
  OwnStatus(const OwnStatus&) = delete;
  OwnStatus& operator=(const OwnStatus&) = delete;

  Status* get() const { return status_; }
  bool ok() const { return api.GetCode(status_) == kOk; }
  Code code() const { return api.GetCode(status_); }
  std::string message() const { return api.Message(status_); }
  void Set(Code code, const std::string& message) { api.SetStatus(status_, code, message.c_str()); }

 private:
  Status* status_;
};

}  // namespace tensorflow
}  // namespace flashmask
