// Random calls of the kernels for the programs in this folder.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../attention.h"

namespace {

using flashmask::BackwardTensors;
using flashmask::ForwardTensors;
using flashmask::Problem;
using Floats = std::vector<float>;

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
  Floats q, k, v, dOut, dLse, out, lse, rowStats, dq, dk, dv;
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

// What the calls of a program are drawn from.
struct Range {
  std::initializer_list<int64_t> queries, keys;
  int64_t mostQueryHeads;  // of a key head
};

inline Call DrawCall(const Range& range) {
  Call c;
  Problem& p = c.p;
  p.B = Draw(1, 2);
  p.Hkv = Draw(1, 2);
  const int64_t group = Draw(1, range.mostQueryHeads);
  p.H = p.Hkv * group;
  p.Sq = Choose(range.queries);
  p.Sk = Choose(range.keys);
  p.D = Choose<int64_t>({1, 3, 8, 16, 17, 31, 32, 64, 80, 96, 128, 192, 256});
  p.Dv = Choose<int64_t>({p.D, p.D, 1, 5, 16, 24, 64, 100, 128, 256});
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

// Memory with guards. It is full of NaN, because nothing may be read before it is written.
struct Scratch {
  explicit Scratch(size_t bytes) : size(bytes), memory(bytes + 2 * kAlignment) {
    std::memset(memory.data(), 0xff, memory.size());
  }
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return reinterpret_cast<void*>((address / kAlignment + 1) * kAlignment);
  }
  bool intact() { return static_cast<unsigned char*>(data())[size] == 0xff; }
  static constexpr size_t kAlignment = 256;
  size_t size;
  std::vector<unsigned char> memory;
};

// Runs a call by a program's own kernels. Gives whether they wrote within their memory.
bool Run(Call* c, int threads);

template <class Kernels>
bool RunBy(Kernels kernels, Call* c) {
  const Problem& p = c->p;
  const float nan = std::nanf("");
  c->out.assign(c->dOut.size(), nan);
  c->lse.assign(c->dLse.size(), nan);
  c->rowStats.assign(2 * c->dLse.size(), nan);
  c->dq.assign(c->q.size(), nan);
  c->dk.assign(c->k.size(), nan);
  c->dv.assign(c->v.size(), nan);
  ForwardTensors f = {c->q.data(),   c->k.data(),   c->v.data(),       c->bounds.data(),
                      c->out.data(), c->lse.data(), c->rowStats.data()};
  Scratch forward(kernels.ForwardScratchBytes(p));
  kernels.Forward(p, f, forward.data());
  BackwardTensors b = {c->q.data(),   c->k.data(),        c->v.data(),    c->bounds.data(),
                       c->out.data(), c->rowStats.data(), c->dOut.data(), c->dLse.data(),
                       c->dq.data(),  c->dk.data(),       c->dv.data()};
  Scratch backward(kernels.BackwardScratchBytes(p));
  kernels.Backward(p, b, backward.data());
  return forward.intact() && backward.intact();
}

inline size_t At(const Problem& p, int64_t b, int64_t rows, int64_t r, int64_t heads, int64_t h, int64_t channels) {
  return static_cast<size_t>(p.bhsd ? ((b * heads + h) * rows + r) * channels
                                    : ((b * rows + r) * heads + h) * channels);
}

inline bool Masked(const Call& c, int64_t b, int64_t h, int64_t r, int64_t j) {
  const Problem& p = c.p;
  if (p.causal && r < j - (p.Sk - p.Sq)) return true;
  if (p.n == 0) return false;
  const int64_t head = (p.maskB == 1 ? 0 : b) * p.Hm + h / (p.H / p.Hm);
  const int32_t* at = &c.bounds[static_cast<size_t>((head * p.Sk + j) * p.n)];
  if (p.n == 4) return (r >= at[0] && r < at[1]) || (r >= at[2] && r < at[3]);
  if (p.n == 1) return r >= at[0];
  return p.causal ? r >= at[0] && r < at[1] : r >= at[0] || r < at[1];
}

inline std::string Describe(const Problem& p) {
  char text[256];
  std::snprintf(text, sizeof text,
                "B %d H %d Hkv %d Sq %d Sk %d D %d Dv %d maskB %d Hm %d n %d causal %d bhsd %d scale %g dropout %d",
                int(p.B), int(p.H), int(p.Hkv), int(p.Sq), int(p.Sk), int(p.D), int(p.Dv), int(p.maskB), int(p.Hm),
                int(p.n), int(p.causal), int(p.bhsd), double(p.scale), int(p.dropoutThreshold != 0));
  return text;
}

inline bool SameBits(const Floats& a, const Floats& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline bool SameResults(const Call& a, const Call& b) {
  return SameBits(a.out, b.out) && SameBits(a.lse, b.lse) && SameBits(a.dq, b.dq) && SameBits(a.dk, b.dk) &&
         SameBits(a.dv, b.dv);
}

}  // namespace
