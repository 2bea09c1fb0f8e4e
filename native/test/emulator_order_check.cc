// Shows that the emulator notices what is missing: leaves out one instruction that orders others at a time, at each
// place of the kernels, and counts the places where a result then changes or the kernel fails. Not all places can be
// noticed: some barriers guard against what a short call does not do.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>

#include "calls.h"
#include "emulated.h"

namespace {

using emulator::Order;

constexpr const char* kNames[] = {"__syncthreads", "__syncwarp",  "WaitCopies", "WaitParity",
                                  "WaitProducts",  "WaitBulkRead", "FenceAsync"};

// The kernels that have most of the instructions: those on Hopper, and those before with and without atomics.
struct Variant {
  emulator::Device device;
  int64_t D;
  Precision precision;
  bool deterministic;
};
const Variant kVariants[] = {{kHopper, 64, Precision::kAuto, false},
                             {kHopper, 128, Precision::kBFloat16, false},
                             {kHopper, 64, Precision::kFloat32, false},
                             {kBeforeHopper, 64, Precision::kAuto, true}};

Call CallOf(const Variant& variant) {
  generator.seed(1);
  Call c = {};
  Problem& p = c.p;
  p = {1, 2, 1, 290, 290, variant.D, variant.D, 1, 1, 2, true, true, 0.125f, 0, 1.0f, 0, variant.precision,
       variant.deterministic};
  c.q = Noise(p.H * p.Sq * p.D);
  c.k = Noise(p.Hkv * p.Sk * p.D);
  c.v = Noise(p.Hkv * p.Sk * p.Dv);
  c.dOut = Noise(p.H * p.Sq * p.Dv);
  c.dLse = Noise(p.H * p.Sq);
  c.bounds = DrawBounds(p);
  return c;
}

// Whether a call fails, changes a result, breaks down or does not end. It has a process of its own.
bool Notices(const Call& right, Order order, int place) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    Call c = right;
    emulator::Begin(1, order, place);
    const bool same = Run(&c, 1) && SameResults(c, right);
    _exit(same ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

}  // namespace

int main() {
  int noticed[emulator::kOrders] = {};
  int places[emulator::kOrders] = {};
  for (const Variant& variant : kVariants) {
    emulator::device = variant.device;
    Call c = CallOf(variant);
    emulator::Begin(1);
    if (!Run(&c, 1)) return 1;
    int own[emulator::kOrders];
    for (int order = 0; order < emulator::kOrders; ++order) own[order] = emulator::PlacesOf(static_cast<Order>(order));
    for (int order = 0; order < emulator::kOrders; ++order) {
      places[order] += own[order];
      for (int place = 0; place < own[order]; ++place) noticed[order] += Notices(c, static_cast<Order>(order), place);
    }
  }
  for (int order = 0; order < emulator::kOrders; ++order) {
    std::printf("%s: %d of %d places noticed\n", kNames[order], noticed[order], places[order]);
  }
}
