// Calls of few rows: scratch memory, and how many thread blocks share the keys.
#include <algorithm>

#include "few_rows.h"
#include "plan.h"
#include "problem.h"
#include "scratch.h"

namespace flashmask::cuda {
namespace {

// Thread blocks that share the keys of a head: enough to fill any GPU, each with keys enough to be worth its start.
// The number depends on the problem alone, and so do the results.
int FewRowsSplits(const Problem& p) {
  constexpr int64_t kBlocks = 1024;
  constexpr int64_t kLeastKeys = 128;
  return static_cast<int>(std::min(CeilDivide(kBlocks, p.B * p.Hkv), CeilDivide(p.Sk, kLeastKeys)));
}

struct FewRowsScratch {
  Plan plan;
  float* partialOut;
  float2* partialStats;
};

size_t LayOutFewRows(const Problem& p, void* plan, void* base, FewRowsScratch* s) {
  Scratch scratch(base);
  const int64_t rows = p.B * p.H * p.Sq * FewRowsSplits(p);
  s->plan = TakePlanOf(p, plan, scratch);
  s->partialOut = scratch.Take<float>(rows * CeilDivide(p.Dv, 4) * 4);
  s->partialStats = scratch.Take<float2>(rows);
  return scratch.bytes();
}

}  // namespace

bool HasFewRows(const Problem& p) {
  return p.H / p.Hkv * p.Sq <= (p.precision == Precision::kFloat32 ? kFewRowsExact : kFewRows);
}

size_t FewRowsScratchBytes(const Problem& p) {
  FewRowsScratch s;
  return LayOutFewRows(p, nullptr, nullptr, &s);
}

cudaError_t RunFewRows(const Problem& p, int kD, const ForwardTensors& t, void* base, cudaStream_t stream) {
  FewRowsScratch s;
  LayOutFewRows(p, t.plan, base, &s);
  const cudaError_t error = MakePlanOf(p, t.bounds, t.plan, s.plan, stream);
  if (error != cudaSuccess) return error;
  FewRowsParams params = {};
  params.sizes = SizesOf(p);
  params.q = TensorIn(p, t.q, p.Sq, p.H, p.D);
  params.k = TensorIn(p, t.k, p.Sk, p.Hkv, p.D);
  params.v = TensorIn(p, t.v, p.Sk, p.Hkv, p.Dv);
  params.mask = MaskOf(p, s.plan);
  params.out = TensorIn(p, t.out, p.Sq, p.H, p.Dv);
  params.lse = t.lse;
  params.rowStats = reinterpret_cast<float2*>(t.rowStats);
  params.scoreScale = ScoreScaleOf(p);
  params.dropout = DropoutOf(p);
  params.mayRound = p.precision != Precision::kFloat32;
  params.splits = FewRowsSplits(p);
  params.partialOut = s.partialOut;
  params.partialStats = s.partialStats;
  return LaunchFewRows(kD, params, stream);
}

}  // namespace flashmask::cuda
