// The kernels on 16-bit tensors, as other frameworks have them: for benchmarks beside theirs. D and Dv are multiples of
// 8, q, k, v and dOut contiguous in the problem's layout; results are float32. Tensors are read as they are. So the
// scale, which is positive, rounds scores, which stay below 1e6, and what is masked is finite.
#pragma once

#include "../attention.h"

namespace flashmask::cuda {

size_t Forward16ScratchBytes(const Problem& problem);
Status Forward16(const Problem& problem, bool bfloat16, const void* q, const void* k, const void* v,
                 const int32_t* bounds, float* out, float* lse, float* rowStats, void* scratch, void* stream);
size_t Backward16ScratchBytes(const Problem& problem);
Status Backward16(const Problem& problem, bool bfloat16, const void* q, const void* k, const void* v,
                  const int32_t* bounds, const float* out, const float* rowStats, const void* dOut, const float* dLse,
                  float* dq, float* dk, float* dv, void* scratch, void* stream);

}  // namespace flashmask::cuda
