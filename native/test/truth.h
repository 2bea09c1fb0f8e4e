// Dense attention and its gradients in plain loops: in double precision the truth, in float with rounded operands what
// a precision allows.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../philox.h"
#include "calls.h"

namespace {

template <class Real>
struct Dense {
  std::vector<Real> out, lse, dq, dk, dv;
};

// A query row: the places of its numbers, and of each key that it sees.
struct Row {
  size_t q, out, lse;
  struct Key {
    size_t k, v;
    float keep;  // the factor of dropout
  };
  std::vector<Key> keys;
};

Row RowOf(const Call& c, int64_t b, int64_t h, int64_t r) {
  const Problem& p = c.p;
  const int64_t hkv = h / (p.H / p.Hkv);
  Row row = {At(p, b, p.Sq, r, p.H, h, p.D),
             At(p, b, p.Sq, r, p.H, h, p.Dv),
             static_cast<size_t>((b * p.H + h) * p.Sq + r),
             {}};
  for (int64_t j = 0; j < p.Sk; ++j) {
    if (Masked(c, b, h, r, j)) continue;
    const bool drops =
        p.dropoutThreshold != 0 && flashmask::Dropped(p.seed, p.dropoutThreshold, static_cast<uint32_t>(b * p.H + h),
                                                      static_cast<uint32_t>(r), static_cast<uint32_t>(j));
    row.keys.push_back({At(p, b, p.Sk, j, p.Hkv, hkv, p.D), At(p, b, p.Sk, j, p.Hkv, hkv, p.Dv),
                        drops                     ? 0.0f
                        : p.dropoutThreshold != 0 ? p.keepScale
                                                  : 1.0f});
  }
  return row;
}

template <class Act>
void ForRows(const Call& c, Act act) {
  for (int64_t b = 0; b < c.p.B; ++b) {
    for (int64_t h = 0; h < c.p.H; ++h) {
      for (int64_t r = 0; r < c.p.Sq; ++r) act(RowOf(c, b, h, r));
    }
  }
}

template <class Real>
Real Dot(const Floats& a, size_t aAt, const Floats& b, size_t bAt, int64_t count) {
  Real sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<Real>(a[aAt + i]) * static_cast<Real>(b[bAt + i]);
  return sum;
}

template <class Real>
void AddScaled(std::vector<Real>* to, size_t toAt, Real factor, const Floats& from, size_t fromAt, int64_t count) {
  for (int64_t i = 0; i < count; ++i) (*to)[toAt + i] += factor * static_cast<Real>(from[fromAt + i]);
}

// One row of attention and its gradients. The operands of products are rounded; those of the call are already.
template <class Real, class Round>
void AddRow(const Call& c, const Row& row, Round round, Dense<Real>* t) {
  const Problem& p = c.p;
  std::vector<Real> weights;
  for (const Row::Key& key : row.keys) weights.push_back(Dot<Real>(c.q, row.q, c.k, key.k, p.D) * p.scale);
  const Real max = weights.empty() ? -INFINITY : *std::max_element(weights.begin(), weights.end());
  Real sum = 0;
  for (Real& w : weights) sum += w = std::exp(w - max);
  t->lse[row.lse] = weights.empty() ? -INFINITY : max + std::log(sum);
  for (size_t j = 0; j < weights.size(); ++j) {
    const Row::Key& key = row.keys[j];
    weights[j] /= sum;
    const Real kept = round(weights[j] * key.keep);
    AddScaled<Real>(&t->out, row.out, kept, c.v, key.v, p.Dv);
    AddScaled<Real>(&t->dv, key.v, kept, c.dOut, row.out, p.Dv);
  }
  // In another order than dP, as in kernels, because the errors of both cancel with a single key.
  Real delta = 0;
  for (int64_t d = p.Dv - 1; d >= 0; --d) delta += t->out[row.out + d] * c.dOut[row.out + d];
  for (size_t j = 0; j < weights.size(); ++j) {
    const Row::Key& key = row.keys[j];
    const Real dP = key.keep * Dot<Real>(c.dOut, row.out, c.v, key.v, p.Dv);
    const Real dS = round(weights[j] * (dP - delta + c.dLse[row.lse])) * p.scale;
    AddScaled<Real>(&t->dq, row.q, dS, c.k, key.k, p.D);
    AddScaled<Real>(&t->dk, key.k, dS, c.q, row.q, p.D);
  }
}

template <class Real>
Dense<Real> ZerosFor(const Call& c) {
  Dense<Real> t;
  t.out.assign(c.out.size(), 0);
  t.lse.assign(c.lse.size(), 0);
  t.dq.assign(c.q.size(), 0);
  t.dk.assign(c.k.size(), 0);
  t.dv.assign(c.v.size(), 0);
  return t;
}

template <class Real, class Round>
Dense<Real> DenseResults(const Call& c, Round round) {
  Call rounded = c;
  for (Floats* operand : {&rounded.q, &rounded.k, &rounded.v, &rounded.dOut}) {
    for (float& x : *operand) x = static_cast<float>(round(x));
  }
  Dense<Real> t = ZerosFor<Real>(c);
  ForRows(c, [&](const Row& row) { AddRow<Real>(rounded, row, round, &t); });
  return t;
}

}  // namespace
