// The native kernels behind C names, for Python's ctypes (flashmask_torch.py): benchmarks and checks without
// TensorFlow.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -shared -Xcompiler -fPIC native/test/cuda/c_api.cu
//       native/cuda/*.cu -o LIB.so
//   g++ -x c++ -std=c++17 -O3 -shared -fPIC -pthread -DFLASHMASK_CPU native/test/cuda/c_api.cu native/cpu/*.cc -o
//   LIB.so (those of the CPU)
//
// Every function takes a Problem as native/attention.h lays it out; flashmask_problem_bytes tells whether the caller's
// has its size.
#include "../../attention.h"

#if !defined(FLASHMASK_CPU) && __has_include("../../cuda/attention16.h")
#include "../../cuda/attention16.h"
#define FLASHMASK_SIXTEEN 1
#endif

#include <cstdio>

namespace {

using flashmask::BackwardTensors;
using flashmask::ForwardTensors;
using flashmask::Problem;

#ifdef FLASHMASK_CPU
namespace kernels {
size_t ForwardScratchBytes(const Problem& problem) { return flashmask::cpu::ForwardScratchBytes(problem, 0); }
size_t BackwardScratchBytes(const Problem& problem) { return flashmask::cpu::BackwardScratchBytes(problem, 0); }
flashmask::cuda::Status Forward(const Problem& problem, const ForwardTensors& tensors, void* scratch, void*) {
  flashmask::cpu::Forward(problem, tensors, scratch, 0);
  return {};
}
flashmask::cuda::Status Backward(const Problem& problem, const BackwardTensors& tensors, void* scratch, void*) {
  flashmask::cpu::Backward(problem, tensors, scratch, 0);
  return {};
}
size_t PlanBytes(const Problem&) { return 0; }
flashmask::cuda::Status MakePlan(const Problem&, const int32_t*, void*, void*) { return {}; }
}  // namespace kernels
#else
namespace kernels = flashmask::cuda;
#endif

// Null on success, else the error message, in a buffer that the next call of the thread overwrites.
const char* Message(const flashmask::cuda::Status& status) {
  thread_local char text[512];
  if (!status.name) return nullptr;
  std::snprintf(text, sizeof text, "%s: %s", status.name, status.message ? status.message : "");
  return text;
}

}  // namespace

extern "C" {

size_t flashmask_problem_bytes() { return sizeof(Problem); }

size_t flashmask_forward_scratch_bytes(const Problem* problem) { return kernels::ForwardScratchBytes(*problem); }

size_t flashmask_backward_scratch_bytes(const Problem* problem) { return kernels::BackwardScratchBytes(*problem); }

size_t flashmask_plan_bytes(const Problem* problem) { return kernels::PlanBytes(*problem); }

const char* flashmask_make_plan(const Problem* problem, const int32_t* bounds, void* plan, void* stream) {
  return Message(kernels::MakePlan(*problem, bounds, plan, stream));
}

// A plan of the bounds may be given; else it is null.
const char* flashmask_forward(const Problem* problem, const float* q, const float* k, const float* v,
                              const int32_t* bounds, void* plan, float* out, float* lse, float* row_stats,
                              void* scratch, void* stream) {
  const ForwardTensors tensors{q, k, v, bounds, out, lse, row_stats, plan};
  return Message(kernels::Forward(*problem, tensors, scratch, stream));
}

const char* flashmask_backward(const Problem* problem, const float* q, const float* k, const float* v,
                               const int32_t* bounds, void* plan, const float* out, const float* row_stats,
                               const float* d_out, const float* d_lse, float* dq, float* dk, float* dv, void* scratch,
                               void* stream) {
  const BackwardTensors tensors{q, k, v, bounds, out, row_stats, d_out, d_lse, dq, dk, dv, plan};
  return Message(kernels::Backward(*problem, tensors, scratch, stream));
}

#ifdef FLASHMASK_SIXTEEN

size_t flashmask_forward16_scratch_bytes(const Problem* problem) {
  return flashmask::cuda::Forward16ScratchBytes(*problem);
}

size_t flashmask_backward16_scratch_bytes(const Problem* problem) {
  return flashmask::cuda::Backward16ScratchBytes(*problem);
}

const char* flashmask_forward16(const Problem* problem, int bfloat16, const void* q, const void* k, const void* v,
                                const int32_t* bounds, float* out, float* lse, float* row_stats, void* scratch,
                                void* stream) {
  return Message(
      flashmask::cuda::Forward16(*problem, bfloat16 != 0, q, k, v, bounds, out, lse, row_stats, scratch, stream));
}

const char* flashmask_backward16(const Problem* problem, int bfloat16, const void* q, const void* k, const void* v,
                                 const int32_t* bounds, const float* out, const float* row_stats, const void* d_out,
                                 const float* d_lse, float* dq, float* dk, float* dv, void* scratch, void* stream) {
  return Message(flashmask::cuda::Backward16(*problem, bfloat16 != 0, q, k, v, bounds, out, row_stats, d_out, d_lse, dq,
                                             dk, dv, scratch, stream));
}

#endif

}  // extern "C"
