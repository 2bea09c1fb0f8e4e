// Checks on the emulator what the CUDA kernels make of plans that are not those of their calls. All kernels of a call
// take the mask from its plan: with that of another mask they compute attention under that one, forward and backward.
// And plans that contradict each other, are of other lengths or damaged give wrong results, but no kernel waits for
// ever or leaves its memory.
//
//   emulator_plan_check [CALLS] [SEED]
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "calls.h"
#include "emulated.h"

namespace {

constexpr Range kRange = {{1, 7, 33, 64, 129, 200, 290}, {1, 8, 63, 100, 129, 200, 290}, 2};

// Each pass gets a plan.
struct PlannedKernels {
  size_t ForwardScratchBytes(const Problem& p) { return flashmask::cuda::ForwardScratchBytes(p); }
  size_t BackwardScratchBytes(const Problem& p) { return flashmask::cuda::BackwardScratchBytes(p); }
  void Forward(const Problem& p, ForwardTensors t, void* scratch) {
    t.plan = forward;
    t.bounds = nullptr;
    ok = flashmask::cuda::Forward(p, t, scratch, nullptr).name == nullptr;
  }
  void Backward(const Problem& p, BackwardTensors t, void* scratch) {
    t.plan = backward;
    t.bounds = nullptr;
    ok = ok && flashmask::cuda::Backward(p, t, scratch, nullptr).name == nullptr;
  }
  bool& ok;
  void* forward;
  void* backward;
};

bool RunPlanned(Call* c, Scratch* forward, Scratch* backward) {
  bool ok = true;
  const bool intact = RunBy(PlannedKernels{ok, forward->data(), backward->data()}, c);
  return ok && intact;
}

// The plan of bounds, in memory that is large enough for `leastBytes`.
Scratch PlanOf(const Problem& p, const std::vector<int32_t>& bounds, size_t leastBytes = 0) {
  Scratch plan(std::max(flashmask::cuda::PlanBytes(p), leastBytes));
  flashmask::cuda::MakePlan(p, bounds.data(), plan.data(), nullptr);
  return plan;
}

Call DrawBounded() {
  Call c;
  do c = DrawCall(kRange);
  while (c.p.n == 0);
  c.p.precision = Choose({Precision::kAuto, Precision::kBFloat16});
  emulator::device = kHopper;
  return c;
}

bool FollowsPlan(Call c) {
  Call other = c;
  other.bounds = DrawBounds(c.p);
  Scratch plan = PlanOf(c.p, other.bounds);
  return Run(&other, 1) && RunPlanned(&c, &plan, &plan) && SameResults(c, other);
}

// A plan with other words from a random place on.
Scratch Damaged(const Call& c) {
  Scratch plan = PlanOf(c.p, c.bounds);
  const auto words = static_cast<uint32_t*>(plan.data());
  const auto count = static_cast<int64_t>(plan.size / sizeof(uint32_t));
  for (int64_t i = Draw(0, count - 1); i < count; ++i) words[i] = static_cast<uint32_t>(generator());
  return plan;
}

Scratch OfOtherLengths(const Call& c) {
  Problem p = c.p;
  p.Sq = Draw(1, 600);
  p.Sk = Draw(1, 600);
  return PlanOf(p, std::vector<int32_t>(static_cast<size_t>(p.maskB * p.Hm * p.Sk * p.n)),
                flashmask::cuda::PlanBytes(c.p));
}

// Runs a call in a process with a time limit. Gives whether it ended, within its memory.
bool Ends(Call c, Scratch forward, Scratch backward) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit seconds = {20, 20};
    setrlimit(RLIMIT_CPU, &seconds);
    _exit(RunPlanned(&c, &forward, &backward) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool Check() {
  Call c = DrawBounded();
  const bool follows = FollowsPlan(c);
  c.p.deterministic = false;
  const bool ends = Ends(c, PlanOf(c.p, c.bounds), PlanOf(c.p, DrawBounds(c.p))) && Ends(c, Damaged(c), Damaged(c)) &&
                    Ends(c, OfOtherLengths(c), OfOtherLengths(c));
  if (!follows || !ends) {
    std::printf("%s: %s\n", follows ? "does not end" : "does not follow its plan", Describe(c.p).c_str());
  }
  return follows && ends;
}

}  // namespace

int main(int count, char** arguments) { return CheckCalls(count, arguments, 20, Check); }
