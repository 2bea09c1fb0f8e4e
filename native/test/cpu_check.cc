// Checks the CPU kernels against plain loops in double precision, on random problems. test/native/cpu_check.test.ts
// builds and runs it; test/op/kernels.test.ts judges accuracy. This finds errors without Node or TensorFlow, and works
// with sanitizers and emulators:
//
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -static native/cpu/*.cc native/test/cpu_check.cc -o check
//   qemu-aarch64 ./check 30
#include "calls.h"
#include "connected.h"
#include "truth.h"

namespace {

constexpr Range kRange = {
    {1, 2, 7, 15, 16, 33, 48, 49, 64, 65, 97, 200, 700}, {1, 3, 8, 63, 64, 65, 100, 129, 300, 1100}, 4};

struct CpuKernels {
  int threads;
  size_t ForwardScratchBytes(const Problem& p) { return flashmask::cpu::ForwardScratchBytes(p, threads); }
  size_t BackwardScratchBytes(const Problem& p) { return flashmask::cpu::BackwardScratchBytes(p, threads); }
  void Forward(const Problem& p, const ForwardTensors& t, void* scratch) {
    flashmask::cpu::Forward(p, t, scratch, threads);
  }
  void Backward(const Problem& p, const BackwardTensors& t, void* scratch) {
    flashmask::cpu::Backward(p, t, scratch, threads);
  }
};

bool Run(Call* c, int threads) { return RunBy(CpuKernels{threads}, c); }

// Float32 rounds dP and delta, which may nearly cancel: with one key their difference is 0, of terms as large as 50.
constexpr double kTolerance = 2e-5;

// Largest error over the largest value, or infinity where an exact value is wrong.
double ErrorOf(const Floats& actual, const std::vector<double>& expected) {
  double error = 0, largest = 1;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isinf(expected[i]) || expected[i] == 0) {
      if (!(actual[i] == expected[i]) && (std::isinf(expected[i]) || !(std::fabs(actual[i]) < 1e-6))) return INFINITY;
      continue;
    }
    if (!std::isfinite(actual[i])) return INFINITY;
    largest = std::max(largest, std::fabs(expected[i]));
    error = std::max(error, std::fabs(actual[i] - expected[i]));
  }
  return error / largest;
}

bool Check(Call* c) {
  const bool intact = Run(c, 1);
  const Dense<double> t = DenseResults<double>(*c, [](double x) { return x; });
  const double errors[] = {ErrorOf(c->out, t.out), ErrorOf(c->lse, t.lse), ErrorOf(c->dq, t.dq), ErrorOf(c->dk, t.dk),
                           ErrorOf(c->dv, t.dv)};
  Call again = *c;
  const bool intactAgain = Run(&again, 3);
  const bool same = SameResults(*c, again);
  bool right = same && intact && intactAgain;
  for (double error : errors) right = right && error < kTolerance;
  if (!right) {
    std::printf(
        "wrong: %s\n  errors of out %g lse %g dq %g dk %g dv %g, same bits on three threads: %d, scratch intact: %d "
        "%d\n",
        Describe(c->p).c_str(), errors[0], errors[1], errors[2], errors[3], errors[4], same, intact, intactAgain);
  }
  return right;
}

// Equal keys have equal weights, whatever their scores, so the gradient of each value is an equal share of dOut.
bool CheckLargeScores() {
  bool right = true;
  for (const float score : {1e2f, 1e3f, 1e5f, 1e6f, 1e7f, 1e8f, 1e9f, 3e38f, -1e9f, -3e38f}) {
    for (const int64_t rows : {1, 60}) {
      for (const int64_t keys : {1, 2, 64, 128}) {
        Call c = {};
        c.p = {1, 1, 1, rows, keys, 1, 1, 1, 1, 0, false, false, 1.0f, 0, 1.0f, 0, {}, true};
        c.q.assign(static_cast<size_t>(rows), score);
        c.k.assign(static_cast<size_t>(keys), 1.0f);
        c.v = c.k;
        c.dOut.assign(c.q.size(), 1.0f);
        c.dLse.assign(c.q.size(), 0.0f);
        Run(&c, 1);
        const float expected = static_cast<float>(rows) / static_cast<float>(keys);
        for (const float dv : c.dv) right = right && dv == expected;
        for (const float lse : c.lse) right = right && std::fabs(lse - score) <= std::fabs(score) * 1e-7f + 5.0f;
        if (!right) {
          std::printf("wrong: dv %g, lse %g of %d equal keys, %d rows, score %g\n", double(c.dv[0]), double(c.lse[0]),
                      int(keys), int(rows), double(score));
          return false;
        }
      }
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int problems = count > 1 ? std::atoi(arguments[1]) : 200;
  int wrong = 0;
  for (int i = 0; i < problems; ++i) {
    Call call = DrawCall(kRange);
    wrong += !Check(&call);
    wrong += !CheckPoisoned(call, {Draw(0, 2) != 0, true, {std::nanf(""), INFINITY, -INFINITY, 3e38f, -3e38f}});
  }
  wrong += !CheckLargeScores();
  std::printf("%s: %d problems, %d wrong\n", flashmask::cpu::InstructionSet(), problems, wrong);
  return wrong == 0 ? 0 : 1;
}
