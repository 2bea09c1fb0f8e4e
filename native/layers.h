// The interface of the kernels of the layers around the attention, and of AdamW (src/layers/kernel.ts). All tensors are
// float32 and contiguous. N is the number of tokens, C that of channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace flashmask {

struct RmsNorm {
  int64_t rows, channels;
  float epsilon;
  const float* x;      // [N, C]
  const float* gamma;  // [C]
  float* y;            // [N, C]
  float* inverse;      // [N, 1]: 1 / sqrt(mean(x²) + epsilon)
};

struct RmsNormGrad {
  int64_t rows, channels;
  const float *x, *gamma, *inverse, *dy;
  float* dx;
};

struct RmsNormGammaGrad {
  int64_t rows, channels;
  const float *x, *inverse, *dy;
  float* dgamma;
};

// Rotates channels i and i + headSize / 2 of each head together. The sines of the first half are negative.
struct Rotation {
  int64_t tokens, heads, headSize;
  bool back;  // the other way
  const float *x, *cosines, *sines;
  float* y;
};

// y = gate · sigmoid(gate) · up
struct GatedUnit {
  int64_t count;
  const float *gate, *up;
  float* y;
};

struct GatedUnitGrad {
  int64_t count;
  const float *gate, *up, *dy;
  float *dgate, *dup;
};

// A step of AdamW: src/layers/adamw.ts has the formulas.
struct AdamW {
  int64_t count;
  float beta1, beta2;
  bool decays;
  const float *gradient, *m, *v, *value;
  const float* shrink;   // one number
  const float* factors;  // three
  float *newM, *newV, *newValue;
};

namespace cpu {

// Run on `threads` threads, as those of attention.h do.
void Run(const RmsNorm& layer, int threads);
void Run(const RmsNormGrad& layer, int threads);
void Run(const RmsNormGammaGrad& layer, int threads);
void Run(const Rotation& layer, int threads);
void Run(const GatedUnit& layer, int threads);
void Run(const GatedUnitGrad& layer, int threads);
void Run(const AdamW& layer, int threads);

}  // namespace cpu

namespace cuda {

// Queue the kernels on `stream` (a cudaStream_t), as those of attention.h do.
Status Run(const RmsNorm& layer, void* stream);
Status Run(const RmsNormGrad& layer, void* stream);
Status Run(const Rotation& layer, void* stream);
Status Run(const GatedUnit& layer, void* stream);
Status Run(const GatedUnitGrad& layer, void* stream);
Status Run(const AdamW& layer, void* stream);

// `scratch` has the size that ScratchBytes returns. The sum has the same order in each run.
size_t ScratchBytes(const RmsNormGammaGrad& layer);
Status Run(const RmsNormGammaGrad& layer, void* scratch, void* stream);

}  // namespace cuda

}  // namespace flashmask
