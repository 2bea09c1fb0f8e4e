// The memory of the plan of a mask, and the order of the kernels that make it.
#include <algorithm>

#include "bounds_map.cuh"
#include "plan.cuh"
#include "plan.h"

namespace flashmask::cuda {
namespace {

constexpr int kThreads = 128;

int BlocksOf(int64_t length, int size) { return static_cast<int>(CeilDivide(length, size)); }

template <int kOrders>
void TakeOrders(WorkOrder (&orders)[kOrders], const int (&sizes)[kOrders], int64_t heads, int64_t length,
                Scratch& scratch) {
  for (int i = 0; i < kOrders; ++i) {
    const int blocks = BlocksOf(length, sizes[i]);
    orders[i] = {sizes[i], blocks, scratch.Take<int>(heads * blocks), scratch.Take<int>(heads * blocks)};
  }
}

template <int kOrders>
const int* OrderOf(const WorkOrder (&orders)[kOrders], int size) {
  const auto* found = std::find_if(orders, orders + kOrders, [&](const WorkOrder& x) { return x.size == size; });
  return found == orders + kOrders ? nullptr : found->order;
}

// Warps of PlanKernel and OrderKernel for a head.
template <class List>
int BlocksOfAll(const List& list) {
  int blocks = 0;
  for (const auto& one : list) blocks += one.blocks;
  return blocks;
}

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
  plan.keyHeads = static_cast<int>(std::min(p.Hm, p.Hkv));
  TakeOrders(plan.rows, kOrderedRows, heads, p.Sq, scratch);
  TakeOrders(plan.keys, kOrderedKeys, p.maskB * plan.keyHeads, p.Sk, scratch);
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

void LaunchPlan(const Problem& p, const int32_t* bounds, const Plan& plan, cudaStream_t stream) {
  const Mask mask = MaskOf(p, plan);
  const PlanParams params = {mask, {0, 0, 0, static_cast<int>(p.Sq), static_cast<int>(p.Sk)}, plan};
  BoundsMapKernel<kThreads><<<GridOf(mask.mapBlocks, mask), kThreads, 0, stream>>>(
      bounds, static_cast<int>(p.n), p.causal, params.sizes.Sk, mask.mapBlocks, plan.spans, plan.boundsMap);
  const int orders = BlocksOfAll(plan.rows) + BlocksOfAll(plan.keys);
  const int all = params.sizes.Sq + BlocksOfAll(plan.ranges) + orders;
  PlanKernel<kThreads><<<GridOf(all, mask), kThreads, 0, stream>>>(params);
  OrderKernel<kThreads><<<GridOf(orders, mask), kThreads, 0, stream>>>(params);
}

const int2* RangesOf(const Plan& plan, int blockQ, int blockK) {
  const auto* end = plan.ranges + kRangesOfPlan;
  const auto* found =
      std::find_if(plan.ranges, end, [&](const TileRanges& x) { return x.blockQ == blockQ && x.blockK == blockK; });
  return found == end ? nullptr : found->ranges;
}

const int* RowOrderOf(const Plan& plan, int blockQ) { return OrderOf(plan.rows, blockQ); }
const int* KeyOrderOf(const Plan& plan, int blockK) { return OrderOf(plan.keys, blockK); }

}  // namespace flashmask::cuda
