// Calls of the CUDA kernels on the emulator, for the programs in this folder.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "../cuda/attention16.h"
#include "calls.h"
#include "emulator/machine.h"

namespace {

namespace emulator = flashmask::emulator;
using flashmask::Precision;

struct EmulatedKernels {
  size_t ForwardScratchBytes(const Problem& p) { return flashmask::cuda::ForwardScratchBytes(p); }
  size_t BackwardScratchBytes(const Problem& p) { return flashmask::cuda::BackwardScratchBytes(p); }
  void Forward(const Problem& p, ForwardTensors t, void* scratch) {
    if (planned) {
      t.plan = plan.data();
      ok = flashmask::cuda::MakePlan(p, t.bounds, t.plan, nullptr).name == nullptr;
      t.bounds = nullptr;
    }
    ok = ok && flashmask::cuda::Forward(p, t, scratch, nullptr).name == nullptr;
  }
  void Backward(const Problem& p, BackwardTensors t, void* scratch) {
    if (planned) {
      t.plan = plan.data();
      t.bounds = nullptr;
    }
    ok = ok && flashmask::cuda::Backward(p, t, scratch, nullptr).name == nullptr;
  }
  bool& ok;
  bool planned;  // whether both passes get the plan of the mask, made before
  Scratch plan;
};

// Runs a call, on an odd number of queries with a plan.
bool Run(Call* c, int) {
  bool ok = true;
  const Problem& p = c->p;
  Scratch plan(flashmask::cuda::PlanBytes(p));
  const bool intact = RunBy(EmulatedKernels{ok, p.n != 0 && p.Sq % 2 == 1, std::move(plan)}, c);
  return ok && intact;
}

using Halves = std::vector<uint16_t>;

Halves Rounded(const float* from, int64_t count, bool bfloat16) {
  Halves to(static_cast<size_t>(count));
  std::transform(from, from + count, to.begin(), bfloat16 ? emulator::Bfloat16Of : emulator::HalfOf);
  return to;
}

// The kernels on 16-bit tensors (native/cuda/attention16.h).
struct EmulatedKernels16 {
  size_t ForwardScratchBytes(const Problem& p) { return flashmask::cuda::Forward16ScratchBytes(p); }
  size_t BackwardScratchBytes(const Problem& p) { return flashmask::cuda::Backward16ScratchBytes(p); }

  void Forward(const Problem& p, const ForwardTensors& t, void* scratch) {
    q = Rounded(t.q, p.B * p.H * p.Sq * p.D, bfloat16);
    k = Rounded(t.k, p.B * p.Hkv * p.Sk * p.D, bfloat16);
    v = Rounded(t.v, p.B * p.Hkv * p.Sk * p.Dv, bfloat16);
    ok = flashmask::cuda::Forward16(p, bfloat16, q.data(), k.data(), v.data(), t.bounds, t.out, t.lse, t.rowStats,
                                    scratch, nullptr)
             .name == nullptr;
  }

  void Backward(const Problem& p, const BackwardTensors& t, void* scratch) {
    const Halves dOut = Rounded(t.dOut, p.B * p.H * p.Sq * p.Dv, bfloat16);
    ok = ok && flashmask::cuda::Backward16(p, bfloat16, q.data(), k.data(), v.data(), t.bounds, t.out, t.rowStats,
                                           dOut.data(), t.dLse, t.dq, t.dk, t.dv, scratch, nullptr)
                       .name == nullptr;
  }

  bool& ok;
  bool bfloat16;
  Halves q, k, v;
};

inline bool Run16(Call* c) {
  bool ok = true;
  const bool bfloat16 = c->p.precision == Precision::kBFloat16;
  const bool intact = RunBy(EmulatedKernels16{ok, bfloat16, {}, {}, {}}, c);
  return ok && intact;
}

// The main function of a program: checks as many calls as its first argument says, from the seed of the second.
template <class Check>
int CheckCalls(int count, char** arguments, int calls, Check check) {
  if (count > 1) calls = std::atoi(arguments[1]);
  const auto seed = static_cast<unsigned>(count > 2 ? std::atoi(arguments[2]) : 1);
  int wrong = 0;
  for (int i = 0; i < calls; ++i) {
    generator.seed(seed + static_cast<unsigned>(i));
    emulator::Begin(seed + static_cast<unsigned>(i));
    wrong += !check();
  }
  std::printf("%d calls, %d wrong\n", calls, wrong);
  return wrong == 0 ? 0 : 1;
}

// The GPUs that kernels differ for.
constexpr emulator::Device kHopper = {9, 6, 232448};
constexpr emulator::Device kBeforeHopper = {8, 3, 101376};

}  // namespace
