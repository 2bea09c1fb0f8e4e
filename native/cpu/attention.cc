// The entry points: plan, bounds map, and the kernels over all items.
#include "../attention.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "plan.h"

namespace flashmask {
namespace cpu {
namespace {

// Below this many multiply-adds, waking another thread takes longer than computing them.
constexpr double kSmallWork = 2e5;

int ThreadsFor(const Problem& p, int threads) {
  const double work = static_cast<double>(p.B) * p.H * p.Sq * p.Sk * (p.D + p.Dv);
  return work < kSmallWork ? 1 : ThreadCount(threads);
}

// Calls a kernel for each item.
template <typename AnyPlan>
void RunItems(const AnyPlan& plan, int64_t items, void (*kernel)(const AnyPlan&, int64_t, int)) {
  ParallelFor(plan.threads, items, [&](int64_t item, int thread) { kernel(plan, item, thread); });
}

// Adds `count` consecutive arrays to `sum`, always in their order.
void AddPartials(float* sum, const float* parts, int64_t count, int64_t floats, int threads) {
  constexpr int64_t kBlock = 16384;
  if (count == 0) return;
  ParallelFor(threads, CeilDiv(floats, kBlock), [&](int64_t item, int) {
    const int64_t begin = item * kBlock;
    const int64_t end = std::min(begin + kBlock, floats);
    for (int64_t part = 0; part < count; ++part) {
      const float* from = parts + part * floats;
      for (int64_t i = begin; i < end; ++i) sum[i] += from[i];
    }
  });
}

}  // namespace

size_t ForwardScratchBytes(const Problem& problem, int threads) {
  size_t bytes;
  PlanForward(problem, ThreadsFor(problem, threads), nullptr, &bytes);
  return bytes;
}

void Forward(const Problem& problem, const ForwardTensors& tensors, void* scratch, int threads) {
  size_t bytes;
  ForwardPlan plan = PlanForward(problem, ThreadsFor(problem, threads), scratch, &bytes);
  plan.tensors = tensors;
  plan.mask = BuildBoundsMap(problem, tensors.bounds, plan.maskMemory, plan.threads);
  const Kernels& kernels = SelectedKernels();
  RunItems(plan, plan.items, kernels.forward);
  if (plan.splits > 1) RunItems(plan, problem.B * problem.Hkv * plan.panels.count, kernels.combine);
}

size_t BackwardScratchBytes(const Problem& problem, int threads) {
  size_t bytes;
  PlanBackward(problem, ThreadsFor(problem, threads), nullptr, &bytes);
  return bytes;
}

void Backward(const Problem& problem, const BackwardTensors& tensors, void* scratch, int threads) {
  size_t bytes;
  BackwardPlan plan = PlanBackward(problem, ThreadsFor(problem, threads), scratch, &bytes);
  plan.tensors = tensors;
  plan.mask = BuildBoundsMap(problem, tensors.bounds, plan.maskMemory, plan.threads);
  const Kernels& kernels = SelectedKernels();
  const Problem& p = problem;
  const int64_t panels = p.B * p.Hkv * plan.panels.count;
  RunItems(plan, panels, kernels.rowShift);
  RunItems(plan, plan.items, kernels.backward);
  RunItems(plan, panels, kernels.addParts);
  AddPartials(tensors.dk, plan.dkPartials, plan.panelSplits - 1, p.B * p.Hkv * p.Sk * p.D, plan.threads);
  AddPartials(tensors.dv, plan.dvPartials, plan.panelSplits - 1, p.B * p.Hkv * p.Sk * p.Dv, plan.threads);
}

}  // namespace cpu
}  // namespace flashmask
