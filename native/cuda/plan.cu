// The memory of the plan of a mask, and the order of the kernels that make it.
#include <algorithm>

#include "bounds_map.cuh"
#include "plan.cuh"
#include "plan.h"
#include "start.h"

namespace flashmask::cuda {
namespace {

constexpr int kThreads = 128;

int BlocksOf(int64_t length, int size) { return static_cast<int>(CeilDivide(length, size)); }

dim3 GridOf(int warps, const Mask& mask) {
  return {static_cast<unsigned>(CeilDivide(warps, kThreads / 32)), static_cast<unsigned>(mask.maskB * mask.Hm)};
}

}  // namespace

Plan TakePlan(const Problem& p, Scratch& scratch) {
  Plan plan = {};
  const int64_t heads = p.maskB * p.Hm;
  plan.spans = scratch.Take<int4>(heads * p.Sk);
  plan.boundsMap = scratch.Take<int4>(heads * BlocksOf(p.Sk, kMapBlock) * 2);
  plan.seeing = scratch.Take<uint8_t>(heads * p.Sq);
  for (int i = 0; i < kRangesOfPlan; ++i) {
    const auto [blockQ, blockK] = kRangeTiles[i];
    const int blocks = BlocksOf(p.Sq, blockQ);
    plan.ranges[i] = {blockQ, blockK, blocks, scratch.Take<int2>(heads * blocks)};
  }
  return plan;
}

Mask MaskOf(const Problem& p, const Plan& plan) {
  return {plan.spans,
          plan.boundsMap,
          plan.seeing,
          BlocksOf(p.Sk, kMapBlock),
          static_cast<int>(p.maskB),
          static_cast<int>(p.Hm),
          p.causal};
}

cudaError_t LaunchPlan(const Problem& p, const int32_t* bounds, const Plan& plan, cudaStream_t stream) {
  const Mask mask = MaskOf(p, plan);
  const PlanParams params = {mask, {0, 0, 0, static_cast<int>(p.Sq), static_cast<int>(p.Sk)}, plan};
  cudaError_t error =
      Start(BoundsMapKernel<kThreads>, {GridOf(mask.mapBlocks, mask), kThreads, 0, stream}, bounds,
            static_cast<int>(p.n), p.causal, params.sizes.Sk, mask.mapBlocks, plan.spans, plan.boundsMap);
  if (error != cudaSuccess) return error;
  int warps = params.sizes.Sq;
  for (const TileRanges& tiles : plan.ranges) warps += tiles.blocks;
  return Start(PlanKernel<kThreads>, {GridOf(warps, mask), kThreads, 0, stream}, params);
}

Plan TakePlanOf(const Problem& p, void* given, Scratch& scratch) {
  if (p.n == 0) return {};
  Scratch own(given);
  return TakePlan(p, given == nullptr ? scratch : own);
}

cudaError_t MakePlanOf(const Problem& p, const int32_t* bounds, void* given, const Plan& plan, cudaStream_t stream) {
  return p.n != 0 && given == nullptr ? LaunchPlan(p, bounds, plan, stream) : cudaSuccess;
}

const int2* RangesOf(const Plan& plan, int blockQ, int blockK) {
  const auto* end = plan.ranges + kRangesOfPlan;
  const auto* found =
      std::find_if(plan.ranges, end, [&](const TileRanges& x) { return x.blockQ == blockQ && x.blockK == blockK; });
  return found == end ? nullptr : found->ranges;
}

}  // namespace flashmask::cuda
