// The kernels on 16-bit tensors, the type that other frameworks use, for benchmarks against them. D and Dv are
// multiples of 8; q, k, v and dOut are contiguous in the layout of the problem; results are float32. The kernels read
// the tensors unconverted, so multiplying by the scale rounds the scores. The scale must be positive, scores must stay
// below 1e6, and masked numbers must be finite.
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
