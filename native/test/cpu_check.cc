// Checks the CPU kernels against plain loops in double precision, on random problems. test/native_cpu.test.ts builds
// and runs it; test/kernels.test.ts judges accuracy. This finds errors without Node or TensorFlow, and works with
// sanitizers and emulators:
//
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -static native/cpu/*.cc native/test/cpu_check.cc -o check
//   qemu-aarch64 ./check 30
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../attention.h"
#include "../philox.h"

namespace {

using flashmask::BackwardTensors;
using flashmask::ForwardTensors;
using flashmask::Problem;
using Floats = std::vector<float>;

// Float32 errors where dP and delta cancel: with one key their difference is 0, of terms as large as 50.
constexpr double kTolerance = 2e-5;

std::mt19937 generator(1);

int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

template <typename T>
T Choose(std::initializer_list<T> list) {
  return list.begin()[Draw(0, static_cast<int64_t>(list.size()) - 1)];
}

Floats Noise(int64_t count) {
  std::normal_distribution<float> normal;
  Floats values(static_cast<size_t>(count));
  for (float& x : values) x = normal(generator);
  return values;
}

// A call with its inputs and results.
struct Call {
  Problem p;
  Floats q, k, v, dOut, dLse, out, lse, dq, dk, dv;
  std::vector<int32_t> bounds;
};

std::vector<int32_t> DrawBounds(const Problem& p) {
  std::vector<int32_t> bounds(static_cast<size_t>(p.maskB * p.Hm * p.Sk * p.n));
  const bool blocky = Draw(0, 3) != 0;
  const int64_t run = blocky ? Draw(20, 200) : 1;
  for (size_t i = 0; i < bounds.size(); ++i) {
    const bool same = blocky && i >= static_cast<size_t>(p.n) && static_cast<int64_t>(i) / p.n % run != 0;
    bounds[i] = same ? bounds[i - static_cast<size_t>(p.n)] : static_cast<int32_t>(Draw(-2, p.Sq + 2));
    if (Draw(0, 500) == 0)
      bounds[i] = Choose({std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()});
  }
  return bounds;
}

Call DrawCall() {
  Call c;
  Problem& p = c.p;
  p.B = Draw(1, 2);
  p.Hkv = Draw(1, 2);
  const int64_t group = Draw(1, 4);
  p.H = p.Hkv * group;
  p.Sq = Choose<int64_t>({1, 2, 7, 15, 16, 33, 48, 49, 64, 65, 97, 200, 700});
  p.Sk = Choose<int64_t>({1, 3, 8, 63, 64, 65, 100, 129, 300, 1100});
  p.D = Choose<int64_t>({1, 3, 8, 16, 17, 31, 32, 64, 80, 96, 128, 256});
  p.Dv = Choose<int64_t>({p.D, p.D, 1, 5, 16, 24, 64, 100, 256});
  p.maskB = Choose<int64_t>({1, p.B});
  p.Hm = Choose<int64_t>({1, p.Hkv, p.H});
  p.causal = Draw(0, 1) != 0;
  p.n = p.causal ? Choose<int64_t>({0, 1, 2}) : Choose<int64_t>({0, 2, 4});
  p.bhsd = Draw(0, 1) != 0;
  p.scale = Choose<float>({1.0f / std::sqrt(static_cast<float>(p.D)), 0.1f, -0.3f, 0.0f});
  const bool dropout = Draw(0, 3) == 0;
  p.dropoutThreshold = dropout ? 0x40000000u : 0;
  p.keepScale = dropout ? 1.0f / 0.75f : 1.0f;
  p.seed = dropout ? 0x123456789abcull : 0;
  p.precision = flashmask::Precision::kAuto;
  p.deterministic = true;
  c.q = Noise(p.B * p.Sq * p.H * p.D);
  c.k = Noise(p.B * p.Sk * p.Hkv * p.D);
  c.v = Noise(p.B * p.Sk * p.Hkv * p.Dv);
  c.dOut = Noise(p.B * p.Sq * p.H * p.Dv);
  c.dLse = Noise(p.B * p.Sq * p.H);
  c.bounds = DrawBounds(p);
  return c;
}

// Memory with guards, full of NaN: nothing may be read before it is written.
struct Scratch {
  explicit Scratch(size_t bytes) : size(bytes), memory(bytes + 192) { std::memset(memory.data(), 0xff, memory.size()); }
  void* data() { return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) / 64 * 64); }
  bool intact() { return static_cast<unsigned char*>(data())[size] == 0xff; }
  size_t size;
  std::vector<unsigned char> memory;
};

bool Run(Call* c, int threads) {
  const Problem& p = c->p;
  const float nan = std::nanf("");
  c->out.assign(c->dOut.size(), nan);
  c->lse.assign(c->dLse.size(), nan);
  c->dq.assign(c->q.size(), nan);
  c->dk.assign(c->k.size(), nan);
  c->dv.assign(c->v.size(), nan);
  ForwardTensors f = {c->q.data(), c->k.data(), c->v.data(), c->bounds.data(), c->out.data(), c->lse.data()};
  Scratch forward(flashmask::cpu::ForwardScratchBytes(p, threads));
  flashmask::cpu::Forward(p, f, forward.data(), threads);
  BackwardTensors b = {c->q.data(),    c->k.data(),    c->v.data(),  c->bounds.data(), c->out.data(), c->lse.data(),
                       c->dOut.data(), c->dLse.data(), c->dq.data(), c->dk.data(),     c->dv.data()};
  Scratch backward(flashmask::cpu::BackwardScratchBytes(p, threads));
  flashmask::cpu::Backward(p, b, backward.data(), threads);
  return forward.intact() && backward.intact();
}

size_t At(const Problem& p, int64_t b, int64_t rows, int64_t r, int64_t heads, int64_t h, int64_t channels) {
  return static_cast<size_t>(p.bhsd ? ((b * heads + h) * rows + r) * channels
                                    : ((b * rows + r) * heads + h) * channels);
}

bool Masked(const Call& c, int64_t b, int64_t h, int64_t r, int64_t j) {
  const Problem& p = c.p;
  if (p.causal && r < j - (p.Sk - p.Sq)) return true;
  if (p.n == 0) return false;
  const int64_t head = (p.maskB == 1 ? 0 : b) * p.Hm + h / (p.H / p.Hm);
  const int32_t* at = &c.bounds[static_cast<size_t>((head * p.Sk + j) * p.n)];
  if (p.n == 4) return (r >= at[0] && r < at[1]) || (r >= at[2] && r < at[3]);
  if (p.n == 1) return r >= at[0];
  return p.causal ? r >= at[0] && r < at[1] : r >= at[0] || r < at[1];
}

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

std::string Describe(const Problem& p) {
  char text[256];
  std::snprintf(text, sizeof text,
                "B %d H %d Hkv %d Sq %d Sk %d D %d Dv %d maskB %d Hm %d n %d causal %d bhsd %d scale %g dropout %d",
                int(p.B), int(p.H), int(p.Hkv), int(p.Sq), int(p.Sk), int(p.D), int(p.Dv), int(p.maskB), int(p.Hm),
                int(p.n), int(p.causal), int(p.bhsd), double(p.scale), int(p.dropoutThreshold != 0));
  return text;
}

bool SameBits(const Floats& a, const Floats& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
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

}  // namespace

int main(int count, char** arguments) {
  const int problems = count > 1 ? std::atoi(arguments[1]) : 200;
  int wrong = 0;
  for (int i = 0; i < problems; ++i) {
    Call call = DrawCall();
    wrong += !Check(&call);
  }
  std::printf("%s: %d problems, %d wrong\n", flashmask::cpu::InstructionSet(), problems, wrong);
  return wrong == 0 ? 0 : 1;
}
