// Checks the CPU kernels against plain loops in double precision, on random problems. test/native/cpu_check.test.ts
// builds and runs it; test/op/kernels.test.ts judges accuracy. This finds errors without Node or TensorFlow, and works
// with sanitizers and emulators:
//
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -static native/cpu/*.cc native/test/cpu_check.cc -o check
//   qemu-aarch64 ./check 30
#include "../philox.h"
#include "calls.h"
#include "connected.h"

namespace {

// Float32 rounds dP and delta, which may nearly cancel: with one key their difference is 0, of terms as large as 50.
constexpr double kTolerance = 2e-5;

// Results and the sums of absolute values that they add up.
struct Truth {
  std::vector<double> out, lse, dq, dk, dv;
};

struct Head {
  const Call& c;
  int64_t b, h, hkv;
};

// One row of attention and its gradients, in double precision.
void TrueRow(const Head& head, int64_t r, Truth* t) {
  const Call& c = head.c;
  const Problem& p = c.p;
  const size_t qAt = At(p, head.b, p.Sq, r, p.H, head.h, p.D);
  const size_t oAt = At(p, head.b, p.Sq, r, p.H, head.h, p.Dv);
  const size_t lAt = static_cast<size_t>((head.b * p.H + head.h) * p.Sq + r);
  std::vector<double> weight(static_cast<size_t>(p.Sk), -INFINITY), keep(static_cast<size_t>(p.Sk), 1.0);
  double max = -INFINITY;
  for (int64_t j = 0; j < p.Sk; ++j) {
    const uint32_t batchHead = static_cast<uint32_t>(head.b * p.H + head.h);
    if (p.dropoutThreshold != 0) {
      keep[j] =
          flashmask::Dropped(p.seed, p.dropoutThreshold, batchHead, static_cast<uint32_t>(r), static_cast<uint32_t>(j))
              ? 0
              : p.keepScale;
    }
    if (Masked(c, head.b, head.h, r, j)) continue;
    const size_t kAt = At(p, head.b, p.Sk, j, p.Hkv, head.hkv, p.D);
    double s = 0;
    for (int64_t d = 0; d < p.D; ++d) s += static_cast<double>(c.q[qAt + d]) * c.k[kAt + d];
    weight[j] = s * p.scale;
    max = std::max(max, weight[j]);
  }
  double sum = 0;
  for (double& w : weight) sum += w = max == -INFINITY ? 0 : std::exp(w - max);
  t->lse[lAt] = sum == 0 ? -INFINITY : max + std::log(sum);
  if (sum == 0) return;
  double delta = 0;
  std::vector<double> dP(static_cast<size_t>(p.Sk), 0.0);
  for (int64_t j = 0; j < p.Sk; ++j) {
    const size_t vAt = At(p, head.b, p.Sk, j, p.Hkv, head.hkv, p.Dv);
    weight[j] /= sum;
    for (int64_t d = 0; d < p.Dv; ++d) {
      t->out[oAt + d] += weight[j] * keep[j] * c.v[vAt + d];
      t->dv[vAt + d] += weight[j] * keep[j] * c.dOut[oAt + d];
      dP[j] += keep[j] * c.dOut[oAt + d] * static_cast<double>(c.v[vAt + d]);
    }
    delta += weight[j] * dP[j];
  }
  for (int64_t j = 0; j < p.Sk; ++j) {
    const size_t kAt = At(p, head.b, p.Sk, j, p.Hkv, head.hkv, p.D);
    const double dS = p.scale * weight[j] * (dP[j] - delta + c.dLse[lAt]);
    for (int64_t d = 0; d < p.D; ++d) {
      t->dq[qAt + d] += dS * c.k[kAt + d];
      t->dk[kAt + d] += dS * c.q[qAt + d];
    }
  }
}

Truth TrueResults(const Call& c) {
  Truth t;
  t.out.assign(c.out.size(), 0);
  t.lse.assign(c.lse.size(), 0);
  t.dq.assign(c.q.size(), 0);
  t.dk.assign(c.k.size(), 0);
  t.dv.assign(c.v.size(), 0);
  for (int64_t b = 0; b < c.p.B; ++b) {
    for (int64_t h = 0; h < c.p.H; ++h) {
      for (int64_t r = 0; r < c.p.Sq; ++r) TrueRow({c, b, h, h / (c.p.H / c.p.Hkv)}, r, &t);
    }
  }
  return t;
}

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
  const Truth t = TrueResults(*c);
  const double errors[] = {ErrorOf(c->out, t.out), ErrorOf(c->lse, t.lse), ErrorOf(c->dq, t.dq), ErrorOf(c->dk, t.dk),
                           ErrorOf(c->dv, t.dv)};
  Call again = *c;
  const bool intactAgain = Run(&again, 3);
  const bool same = SameBits(c->out, again.out) && SameBits(c->lse, again.lse) && SameBits(c->dq, again.dq) &&
                    SameBits(c->dk, again.dk) && SameBits(c->dv, again.dv);
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
    Call call = DrawCall();
    wrong += !Check(&call);
    wrong += !CheckPoisoned(call);
  }
  wrong += !CheckLargeScores();
  std::printf("%s: %d problems, %d wrong\n", flashmask::cpu::InstructionSet(), problems, wrong);
  return wrong == 0 ? 0 : 1;
}
