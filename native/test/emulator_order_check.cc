// Shows that the emulator notices what is missing: leaves out one instruction that orders others at a time, at each
// place of the kernels, and counts the places where a result then changes or the kernel fails. Not all places can be
// noticed: some barriers guard against what a short call does not do, and lanes of a warp rarely drift apart so far
// that __syncwarp matters.
//
//   emulator_order_check [VARIANTS]    of the first so many of kVariants
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <numeric>

#include "calls.h"
#include "emulated.h"

namespace {

using emulator::Order;

constexpr const char* kNames[] = {"__syncthreads", "__syncwarp",   "WaitCopies", "WaitParity",
                                  "WaitProducts",  "WaitBulkRead", "FenceAsync", "WaitMark"};

// The kernels that have most of the instructions: those on Hopper, and those before with and without atomics.
struct Variant {
  emulator::Device device;
  int64_t D;
  Precision precision;
  bool deterministic;
};
const Variant kVariants[] = {
    {kHopper, 192, Precision::kBFloat16, true}, {kBeforeHopper, 64, Precision::kAuto, true},
    {kHopper, 128, Precision::kAuto, true},     {kHopper, 64, Precision::kBFloat16, false},
    {kHopper, 64, Precision::kFloat32, false},  {kBeforeHopper, 64, Precision::kBFloat16, false}};

// With one of these seeds thread blocks come to most places in another order if nothing orders them.
constexpr uint64_t kSeeds = 4;

Call CallOf(const Variant& variant) {
  generator.seed(1);
  Call c = {};
  Problem& p = c.p;
  p.B = p.Hkv = p.maskB = p.Hm = 1;
  p.H = p.n = 2;
  p.Sq = p.Sk = 290;
  p.D = p.Dv = variant.D;
  p.causal = p.bhsd = true;
  p.scale = 0.125f;
  p.keepScale = 1;
  p.precision = variant.precision;
  p.deterministic = variant.deterministic;
  c.q = Noise(p.H * p.Sq * p.D);
  c.k = Noise(p.Hkv * p.Sk * p.D);
  c.v = Noise(p.Hkv * p.Sk * p.Dv);
  c.dOut = Noise(p.H * p.Sq * p.Dv);
  c.dLse = Noise(p.H * p.Sq);
  c.bounds = DrawBounds(p);
  return c;
}

// Whether results are the same, but for the order in which dq is added up unless it is fixed.
bool AreSame(const Call& c, const Call& right) {
  Call aligned = c;
  float largest = 0;
  for (const float x : right.dq) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < right.dq.size() && !right.p.deterministic; ++i) {
    if (std::fabs(c.dq[i] - right.dq[i]) <= 1e-5f * largest) aligned.dq[i] = right.dq[i];
  }
  return SameResults(aligned, right);
}

// Starts a process that runs a call without an instruction. It ends well only if no result changes.
pid_t StartWithout(const Call& right, Order order, int place, uint64_t seed) {
  const pid_t child = fork();
  if (child != 0) return child;
  const rlimit seconds = {2, 2};
  setrlimit(RLIMIT_CPU, &seconds);
  Call c = right;
  emulator::Begin(seed, order, place);
  _exit(Run(&c, 1) && AreSame(c, right) ? 0 : 1);
}

// At how many of the places it is noticed that the instruction is missing. More seeds are asked only as long as that is
// at no more than half of the places.
int CountNoticed(const Call& right, Order order, int places) {
  std::vector<int> left(places);
  std::iota(left.begin(), left.end(), 0);
  for (uint64_t seed = 0; seed < kSeeds && 2 * static_cast<int>(left.size()) >= places; ++seed) {
    std::vector<std::pair<pid_t, int>> children;
    for (const int place : left) children.emplace_back(StartWithout(right, order, place, seed), place);
    left.clear();
    for (const auto& [child, place] : children) {
      int status = 0;
      waitpid(child, &status, 0);
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) left.push_back(place);
    }
  }
  return places - static_cast<int>(left.size());
}

}  // namespace

int main(int count, char** arguments) {
  const int variants = count > 1 ? std::atoi(arguments[1]) : static_cast<int>(std::size(kVariants));
  int noticed[emulator::kOrders] = {};
  int places[emulator::kOrders] = {};
  for (int i = 0; i < variants; ++i) {
    const Variant& variant = kVariants[i];
    emulator::device = variant.device;
    Call c = CallOf(variant);
    emulator::Begin(0);
    if (!Run(&c, 1)) return 1;
    int own[emulator::kOrders];
    for (int order = 0; order < emulator::kOrders; ++order) own[order] = emulator::PlacesOf(static_cast<Order>(order));
    for (int order = 0; order < emulator::kOrders; ++order) {
      places[order] += own[order];
      noticed[order] += CountNoticed(c, static_cast<Order>(order), own[order]);
    }
  }
  for (int order = 0; order < emulator::kOrders; ++order) {
    std::printf("%s: %d of %d places noticed\n", kNames[order], noticed[order], places[order]);
  }
}
