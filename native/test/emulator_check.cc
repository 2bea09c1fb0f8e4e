// Checks the CUDA kernels on the emulator of native/test/emulator, without a GPU: random calls of all tiles and
// precisions against dense attention, and calls with NaN, infinities and the largest floats in masked places.
// test/native/cuda_check.test.ts builds and runs it. docs/native.md says how to run it by hand.
#include <algorithm>
#include <cmath>

#include "calls.h"
#include "connected.h"
#include "emulated.h"
#include "truth.h"

namespace {

constexpr Range kRange = {{1, 2, 7, 16, 33, 64, 65, 97, 129, 200, 290}, {1, 3, 8, 63, 64, 65, 100, 129, 200, 290}, 2};

// ---- Against dense attention, as native/test/cuda/check.py judges ----

int BitsOf(Precision precision) {
  return precision == Precision::kFloat32 ? 24 : precision == Precision::kBFloat16 ? 8 : 11;
}

// A float with so many bits of precision and the range of floats.
struct RoundTo {
  int bits;
  float operator()(float x) const {
    int exponent = 0;
    const float fraction = std::frexp(x, &exponent);
    return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
  }
};

// For each number of the results, the root of the sum of squares of its terms. Times half a rounding step, this is
// about the error of a result whose terms are each rounded once.
void AddSizes(const Call& c, const Row& row, const Dense<double>& t, Dense<double>* squares) {
  const Problem& p = c.p;
  const auto square = [](double x) { return x * x; };
  const auto rootOf = [&](const Floats& a, size_t aAt, const Floats& b, size_t bAt, int64_t count) {
    double sum = 0;
    for (int64_t d = 0; d < count; ++d) sum += square(double{a[aAt + d]} * b[bAt + d]);
    return sum;
  };
  double delta = square(c.dLse[row.lse]);
  for (int64_t d = 0; d < p.Dv; ++d) delta += square(c.dOut[row.out + d] * t.out[row.out + d]);
  for (const Row::Key& key : row.keys) {
    const double weight = std::exp(Dot<double>(c.q, row.q, c.k, key.k, p.D) * p.scale - t.lse[row.lse]);
    const double w2 = square(weight) * (1 + rootOf(c.q, row.q, c.k, key.k, p.D) * square(p.scale));
    const double kept = w2 * square(key.keep);
    const double s2 = w2 * (rootOf(c.dOut, row.out, c.v, key.v, p.Dv) * square(key.keep) + delta) * square(p.scale);
    squares->lse[row.lse] += w2;
    for (int64_t d = 0; d < p.Dv; ++d) {
      squares->out[row.out + d] += kept * square(c.v[key.v + d]);
      squares->dv[key.v + d] += kept * square(c.dOut[row.out + d]);
    }
    for (int64_t d = 0; d < p.D; ++d) {
      squares->dq[row.q + d] += s2 * square(c.k[key.k + d]);
      squares->dk[key.k + d] += s2 * square(c.q[row.q + d]);
    }
  }
}

// A sum of squares and the largest magnitude.
struct Norm {
  double squares = 0, largest = 0;
  void Add(double x) {
    squares += x * x;
    largest = std::max(largest, std::fabs(x));
  }
  double root() const { return std::sqrt(squares); }
};

// The error of a result over the error that is allowed; infinity if a number is not finite or not exact.
double Judge(const Floats& actual, const std::vector<double>& truth, const std::vector<float>& dense,
             const std::vector<double>& squares, Precision precision) {
  Norm error, denseError, size, value;
  int count = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const bool exact = std::isinf(truth[i]) || (squares[i] == 0 && truth[i] == 0);
    if (exact ? actual[i] != truth[i] : !std::isfinite(actual[i])) return INFINITY;
    if (exact) continue;
    ++count;
    error.Add(actual[i] - truth[i]);
    denseError.Add(dense[i] - truth[i]);
    size.Add(std::sqrt(squares[i]));
    value.Add(truth[i]);
  }
  if (error.largest == 0) return 0;
  const double unit = std::ldexp(1.0, -BitsOf(precision));
  const double few = 0.1 + 4 / std::sqrt(double(count));
  const double least = std::ldexp(1.0, -22);
  // Floats are split into two halves, whose 22 bits are fewer than a float has.
  const double factor = precision == Precision::kFloat32 ? 3 : 2;
  return std::max(error.root() / (factor * denseError.root() + few * unit * size.root() + least * value.root()),
                  error.largest / (2 * factor * denseError.largest + 4 * unit * size.largest + least * value.largest));
}

std::string About(const Problem& p) {
  const char* const names[] = {"auto", "float32", "float16", "bfloat16"};
  return Describe(p) + " " + names[static_cast<int>(p.precision)] + (p.deterministic ? " deterministic" : "") +
         (emulator::device.major == 9 ? " on Hopper" : " before Hopper");
}

// `c` must have been run.
bool CheckResults(const Call& c) {
  const Dense<double> truth = DenseResults<double>(c, [](double x) { return x; });
  const Dense<float> dense = DenseResults<float>(c, RoundTo{BitsOf(c.p.precision)});
  Dense<double> squares = ZerosFor<double>(c);
  ForRows(c, [&](const Row& row) { AddSizes(c, row, truth, &squares); });
  const double ratios[] = {Judge(c.out, truth.out, dense.out, squares.out, c.p.precision),
                           Judge(c.lse, truth.lse, dense.lse, squares.lse, c.p.precision),
                           Judge(c.dq, truth.dq, dense.dq, squares.dq, c.p.precision),
                           Judge(c.dk, truth.dk, dense.dk, squares.dk, c.p.precision),
                           Judge(c.dv, truth.dv, dense.dv, squares.dv, c.p.precision)};
  const bool right = std::all_of(std::begin(ratios), std::end(ratios), [](double ratio) { return ratio <= 1; });
  if (!right) {
    std::printf("wrong: %s\n  errors over what is allowed: out %g lse %g dq %g dk %g dv %g\n", About(c.p).c_str(),
                ratios[0], ratios[1], ratios[2], ratios[3], ratios[4]);
  }
  return right;
}

// ---- Calls ----

// Chooses what calls of the CPU kernels do not vary.
void DrawVariant(Problem* p) {
  p->precision = Choose({Precision::kAuto, Precision::kFloat16, Precision::kBFloat16, Precision::kFloat32});
  p->deterministic = Draw(0, 2) == 0;
  const bool small = Draw(0, 2) == 0 && !(p->precision == Precision::kFloat32 && std::max(p->D, p->Dv) > 128);
  emulator::device = small ? kBeforeHopper : kHopper;
  emulator::device.processors = static_cast<int>(Draw(2, 5));
}

// In other precisions than bfloat16 all numbers of a head share a power of two with the largest that is finite.
Poisoning DrawPoisoning(const Problem& p) {
  const bool more = Draw(0, 1) != 0;
  const bool finite = !more || p.precision == Precision::kBFloat16;
  const float other = finite ? Choose({INFINITY, -INFINITY, 3e38f, -3e38f}) : Choose({INFINITY, -INFINITY});
  return {more, false, {std::nanf(""), other}, 1e-4f};
}

// In some calls, numbers of very different sizes.
void DrawSpread(Call* c) {
  if (Draw(0, 3) != 0) return;
  const int64_t scores = Draw(-20, 20);
  const auto multiply = [](Floats* values, int64_t exponent) {
    for (float& x : *values) x = std::ldexp(x, static_cast<int>(exponent));
  };
  multiply(&c->q, scores);
  multiply(&c->k, -scores);
  multiply(&c->v, Draw(-20, 20));
  multiply(&c->dOut, Draw(-20, 20));
}

bool RunAs16(bool is16, Call* c) { return is16 ? Run16(c) : Run(c, 1); }

// Whether a deterministic call has the same bits when its thread blocks run in another order. `c` must have been run.
bool IsRepeatable(const Call& c, bool is16) {
  if (!c.p.deterministic) return true;
  Call again = c;
  emulator::device.processors = static_cast<int>(Draw(2, 5));
  const bool same = RunAs16(is16, &again) && SameResults(again, c);
  if (!same) std::printf("other bits in a second run: %s\n", About(c.p).c_str());
  return same;
}

bool Check() {
  Call c = DrawCall(kRange);
  const Problem& p = c.p;
  DrawVariant(&c.p);
  const bool can16 = p.D % 8 == 0 && p.Dv % 8 == 0 && p.scale > 0 && p.precision != Precision::kFloat32;
  const bool is16 = can16 && Draw(0, 1) == 0;
  if (!is16) DrawSpread(&c);
  if (!RunAs16(is16, &c)) {
    std::printf("failed: %s\n", About(p).c_str());
    return false;
  }
  return CheckResults(c) && IsRepeatable(c, is16) && (is16 || CheckPoisoned(c, DrawPoisoning(p)));
}

}  // namespace

int main(int count, char** arguments) { return CheckCalls(count, arguments, 100, Check); }
