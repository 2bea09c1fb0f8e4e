// The forward of few queries against many keys, as in decoding. It reads float32 tensors as they are: rounding the keys
// first would read and write them once more, and with few rows reading is nearly all of the work.
#pragma once

#include "../attention.h"
#include "params.h"

namespace flashmask::cuda {

// The most rows of a key head: of products that may round to TF32, and of those in float32. The rows of a key head are
// the queries of all its query heads.
constexpr int kFewRows = 32;
constexpr int kFewRowsExact = 16;

struct FewRowsParams {
  Sizes sizes;
  ConstTensor32 q, k, v;
  Mask mask;
  Tensor32 out;
  float* lse;        // [B, H, Sq]
  float2* rowStats;  // [B, H, Sq], as in ForwardParams
  Scale scoreScale;  // scale · log2(e); q is multiplied by the factor
  Dropout dropout;
  bool mayRound;  // whether products may read TF32 instead of float32
  int splits;     // thread blocks that share the keys of a head
  // The results of each thread block: [B, Hkv, splits, rows of a key head, channels of v rounded up to 4], not yet
  // divided by the sums, and [B, Hkv, splits, rows of a key head].
  float* partialOut;
  float2* partialStats;
};

// Whether these kernels compute a forward from float32 tensors.
bool HasFewRows(const Problem& problem);

// The forward of such a call, in the interface of attention.h.
size_t FewRowsScratchBytes(const Problem& problem);
cudaError_t RunFewRows(const Problem& problem, int kD, const ForwardTensors& tensors, void* scratch,
                       cudaStream_t stream);

// kD is 64, 128 or 256, and at least the channels of k and v.
cudaError_t LaunchFewRows(int kD, const FewRowsParams& params, cudaStream_t stream);

}  // namespace flashmask::cuda
