// The interface of the native kernels: sizes and raw pointers. Calling them needs no header of TensorFlow, Node or
// CUDA. docs/design.md has a glossary of the words.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flashmask {

// The precision of the operands of the matrix multiplications, which always accumulate in float32. On CPUs all but
// kBFloat16 and kFloat16 mean float32.
enum class Precision : int32_t { kAuto, kFloat32, kFloat16, kBFloat16 };

// Sizes and options of one call. The op in TypeScript has checked them.
struct Problem {
  int64_t B;    // batch size
  int64_t H;    // query heads
  int64_t Hkv;  // key and value heads; H is a multiple
  int64_t Sq;   // query length
  int64_t Sk;   // key length
  int64_t D;    // channels of a query and key head, 1 to 256
  int64_t Dv;   // channels of a value head, 1 to 256

  int64_t maskB;  // batches of the bounds: 1 (shared) or B
  int64_t Hm;     // heads of the bounds: 1, Hkv or H. Query head h reads bounds head h / (H / Hm)
  int64_t n;      // bounds per key column: 0, 1, 2 or 4
  bool causal;    // masks r < j - (Sk - Sq) too, and gives n = 1, 2 their meaning (docs/design.md section 3)

  bool bhsd;    // tensors are [B, heads, rows, channels], else [B, rows, heads, channels]
  float scale;  // factor of q·k before the softmax

  // Dropout: the pair (b, h, r, j) is dropped if word j & 3 of Philox4x32-10 with counter (j >> 2, r, b * H + h, 0) and
  // key (seed & 0xffffffff, seed >> 32) is below the threshold; other weights are multiplied by keepScale. A threshold
  // of 0 drops none.
  uint32_t dropoutThreshold;
  float keepScale;
  uint64_t seed;

  Precision precision;
  bool deterministic;  // gradients are bit-identical from run to run
};

// Inputs and outputs of FlashMaskAttention. All float32 but bounds, contiguous, in the layout of the problem.
struct ForwardTensors {
  const float* q;         // [B, Sq, H, D]
  const float* k;         // [B, Sk, Hkv, D]
  const float* v;         // [B, Sk, Hkv, Dv]
  const int32_t* bounds;  // [maskB, Hm, Sk, n]
  float* out;             // [B, Sq, H, Dv]; rows that see no key are 0
  float* lse;             // [B, H, Sq], natural log, before dropout; -infinity for rows that see no key
  // [B, H, Sq, 2]: the number subtracted from the row's scores (in the kernel's own unit), and the sum of the
  // exponentials of the differences; (any finite number, 0) for rows that see no key
  float* rowStats;
  // CUDA only: what cuda::MakePlan made of bounds, which are then not read; null: the call makes it
  void* plan = nullptr;
};

// Inputs and outputs of FlashMaskAttentionGrad.
struct BackwardTensors {
  const float* q;
  const float* k;
  const float* v;
  const int32_t* bounds;
  const float* out;
  const float* rowStats;  // [B, H, Sq, 2], as Forward gave it
  const float* dOut;      // [B, Sq, H, Dv]
  const float* dLse;      // [B, H, Sq]; null: zeros
  float* dq;              // [B, Sq, H, D]
  float* dk;              // [B, Sk, Hkv, D]
  float* dv;              // [B, Sk, Hkv, Dv]
  void* plan = nullptr;   // as in ForwardTensors
};

namespace cpu {

// Runs on `threads` threads (0: FLASHMASK_NUM_THREADS, else OMP_NUM_THREADS, else all cores the process may use).
// `scratch` has the size that ForwardScratchBytes or BackwardScratchBytes returns, and is aligned to 64 bytes.
size_t ForwardScratchBytes(const Problem& problem, int threads);
void Forward(const Problem& problem, const ForwardTensors& tensors, void* scratch, int threads);
size_t BackwardScratchBytes(const Problem& problem, int threads);
void Backward(const Problem& problem, const BackwardTensors& tensors, void* scratch, int threads);

// The instruction set that the kernels chose on this machine: "avx512", "avx2", "neon" or "generic".
const char* InstructionSet();

}  // namespace cpu

namespace cuda {

// A CUDA error, or success if `name` is null.
struct Status {
  const char* name;     // for example "cudaErrorMemoryAllocation"
  const char* message;  // the CUDA runtime's message
};

// The plan of a mask: what the kernels need of its bounds. It depends on Sq, Sk, the mask's sizes and causal
// alone, and serves all calls that have the same. Its memory is aligned to 256 bytes.
size_t PlanBytes(const Problem& problem);
Status MakePlan(const Problem& problem, const int32_t* bounds, void* plan, void* stream);

// Queue the kernels on `stream` (a cudaStream_t) of the current device; pointers are device pointers. `scratch` has the
// size that ForwardScratchBytes or BackwardScratchBytes returns, is aligned to 256 bytes, and must live until the work
// is done.
size_t ForwardScratchBytes(const Problem& problem);
Status Forward(const Problem& problem, const ForwardTensors& tensors, void* scratch, void* stream);
size_t BackwardScratchBytes(const Problem& problem);
Status Backward(const Problem& problem, const BackwardTensors& tensors, void* scratch, void* stream);

}  // namespace cuda

}  // namespace flashmask
