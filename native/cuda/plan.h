// The plan of a mask: all that the kernels need of its bounds. It is made once, and serves every call on the mask with
// the same lengths, forward and backward, whatever the head size, precision and device.
#pragma once

#include "params.h"
#include "scratch.h"

namespace flashmask::cuda {

// The tiles for which a plan has ranges: those of the kernels that walk over key blocks.
constexpr int kRangeTiles[][2] = {{128, 128}, {128, 96}, {128, 64}, {64, 64}, {64, 32}, {32, 32}};
constexpr int kRangesOfPlan = sizeof(kRangeTiles) / sizeof(kRangeTiles[0]);

// The ranges of a kernel with these tiles.
struct TileRanges {
  int blockQ, blockK;
  int blocks;    // query blocks
  int2* ranges;  // [maskB, Hm, blocks]: first live key block and the end of them
};

struct Plan {
  int4* spans;
  int4* boundsMap;
  uint8_t* seeing;
  TileRanges ranges[kRangesOfPlan];
};

// Takes the memory of the plan of a problem with bounds.
Plan TakePlan(const Problem& problem, Scratch& scratch);

Mask MaskOf(const Problem& problem, const Plan& plan);

// Queues the kernels that make the plan.
cudaError_t LaunchPlan(const Problem& problem, const int32_t* bounds, const Plan& plan, cudaStream_t stream);

// The plan that a call is given, or room in scratch for one; none without bounds.
Plan TakePlanOf(const Problem& problem, void* given, Scratch& scratch);

// Makes the plan unless the call is given one.
cudaError_t MakePlanOf(const Problem& problem, const int32_t* bounds, void* given, const Plan& plan,
                       cudaStream_t stream);

// The ranges for these tiles; null if the plan has none.
const int2* RangesOf(const Plan& plan, int blockQ, int blockK);

}  // namespace flashmask::cuda
