// Checks that numbers which no visible pair connects with a result do not change it by a bit, and that NaN reaches
// everything that a visible pair connects with it.
#pragma once

#include "calls.h"

namespace {

using Marks = std::vector<char>;

// Which numbers of a call are poisoned, and which results they reach.
struct Reach {
  explicit Reach(const Call& c)
      : q(c.q.size()),
        k(c.k.size()),
        v(c.v.size()),
        dOut(c.dOut.size()),
        dLse(c.dLse.size()),
        out(c.out.size()),
        lse(c.lse.size()),
        dq(c.q.size()),
        dk(c.k.size()),
        dv(c.v.size()) {}

  Marks q, k, v, dOut, dLse;
  Marks out, lse, dq, dk, dv;
};

// The offset of the first channel of a row in each tensor.
struct RowAt {
  RowAt(const Problem& p, int64_t b, int64_t h, int64_t r)
      : q(At(p, b, p.Sq, r, p.H, h, p.D)),
        out(At(p, b, p.Sq, r, p.H, h, p.Dv)),
        lse(static_cast<size_t>((b * p.H + h) * p.Sq + r)) {}
  size_t q, out, lse;
};

struct KeyAt {
  KeyAt(const Problem& p, int64_t b, int64_t h, int64_t j)
      : k(At(p, b, p.Sk, j, p.Hkv, h / (p.H / p.Hkv), p.D)), v(At(p, b, p.Sk, j, p.Hkv, h / (p.H / p.Hkv), p.Dv)) {}
  size_t k, v;
};

bool AnyOf(const Marks& marks, size_t from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (marks[from + static_cast<size_t>(i)]) return true;
  }
  return false;
}

void Mark(Marks* marks, size_t from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) (*marks)[from + static_cast<size_t>(i)] = 1;
}

void MarkSame(Marks* to, size_t toAt, const Marks& from, size_t fromAt, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (from[fromAt + static_cast<size_t>(i)]) (*to)[toAt + static_cast<size_t>(i)] = 1;
  }
}

// Marks what the poison reaches through the visible pairs of one row.
void FollowRow(const Call& c, int64_t b, int64_t h, int64_t r, Reach* reach) {
  const Problem& p = c.p;
  const RowAt row(p, b, h, r);
  std::vector<KeyAt> keys;
  for (int64_t j = 0; j < p.Sk; ++j) {
    if (!Masked(c, b, h, r, j)) keys.emplace_back(p, b, h, j);
  }
  if (keys.empty()) return;
  bool weights = AnyOf(reach->q, row.q, p.D);
  bool scores = AnyOf(reach->dOut, row.out, p.Dv) || reach->dLse[row.lse];
  for (const KeyAt& key : keys) {
    weights = weights || AnyOf(reach->k, key.k, p.D);
    scores = scores || AnyOf(reach->v, key.v, p.Dv);
    MarkSame(&reach->out, row.out, reach->v, key.v, p.Dv);
    MarkSame(&reach->dv, key.v, reach->dOut, row.out, p.Dv);
  }
  if (weights) {
    Mark(&reach->out, row.out, p.Dv);
    Mark(&reach->lse, row.lse, 1);
    for (const KeyAt& key : keys) Mark(&reach->dv, key.v, p.Dv);
  }
  if (weights || scores) {
    Mark(&reach->dq, row.q, p.D);
    for (const KeyAt& key : keys) Mark(&reach->dk, key.k, p.D);
  }
}

// Poisons every row and key without a visible pair, and with `more` a few others.
void ChoosePoison(const Call& c, bool more, Reach* reach) {
  const Problem& p = c.p;
  for (int64_t b = 0; b < p.B; ++b) {
    std::vector<std::vector<char>> seen(static_cast<size_t>(p.Hkv), std::vector<char>(static_cast<size_t>(p.Sk)));
    for (int64_t h = 0; h < p.H; ++h) {
      for (int64_t r = 0; r < p.Sq; ++r) {
        bool sees = false;
        for (int64_t j = 0; j < p.Sk; ++j) {
          const bool visible = !Masked(c, b, h, r, j);
          sees = sees || visible;
          if (visible) seen[static_cast<size_t>(h / (p.H / p.Hkv))][static_cast<size_t>(j)] = 1;
        }
        const RowAt row(p, b, h, r);
        const bool some = more && Draw(0, p.Sq * p.H) == 0;
        if (!sees || (some && Draw(0, 1) == 0)) Mark(&reach->q, row.q + static_cast<size_t>(Draw(0, p.D - 1)), 1);
        if (!sees || (some && Draw(0, 1) == 0)) Mark(&reach->dOut, row.out + static_cast<size_t>(Draw(0, p.Dv - 1)), 1);
        if (!sees || (some && Draw(0, 3) == 0)) Mark(&reach->dLse, row.lse, 1);
      }
    }
    for (int64_t h = 0; h < p.H; h += p.H / p.Hkv) {
      for (int64_t j = 0; j < p.Sk; ++j) {
        const bool unseen = !seen[static_cast<size_t>(h / (p.H / p.Hkv))][static_cast<size_t>(j)];
        const KeyAt key(p, b, h, j);
        const bool some = more && Draw(0, p.Sk) == 0;
        if (unseen || (some && Draw(0, 1) == 0)) Mark(&reach->k, key.k + static_cast<size_t>(Draw(0, p.D - 1)), 1);
        if (unseen || (some && Draw(0, 1) == 0)) Mark(&reach->v, key.v + static_cast<size_t>(Draw(0, p.Dv - 1)), 1);
      }
    }
  }
}

void Poison(const Marks& marks, float poison, Floats* values) {
  for (size_t i = 0; i < marks.size(); ++i) {
    if (marks[i]) (*values)[i] = poison;
  }
}

// Whether a result is the same as without poison where the poison does not reach, and NaN where it must. `allowed` is 0
// for the same bits, or by which part of the largest number it may differ.
bool Spreads(const char* name, const Marks& reached, bool mustBeNaN, const Floats& clean, const Floats& poisoned,
             float allowed = 0) {
  float difference = 0;
  for (const float x : clean) difference = std::fmax(difference, std::fabs(x) * allowed);
  for (size_t i = 0; i < clean.size(); ++i) {
    const bool same = clean[i] == poisoned[i] || std::fabs(clean[i] - poisoned[i]) <= difference;
    const bool right = reached[i] ? !mustBeNaN || std::isnan(poisoned[i]) : same;
    if (right) continue;
    std::printf("%s[%d] is %g, without poison %g, %s: ", name, int(i), double(poisoned[i]), double(clean[i]),
                reached[i] ? "and is reached" : "and is not reached");
    return false;
  }
  return true;
}

// How a call is poisoned.
struct Poisoning {
  bool more;            // also numbers that visible pairs connect with results
  bool reachesDropped;  // whether NaN of pairs that dropout drops must reach what they connect
  std::vector<float> values;
  float dqAllowed =
      0;  // how far dq may differ (Spreads) without `deterministic`, because of the order of its additions
};

Call WithPoison(const Call& clean, const Reach& reach, float poison) {
  Call c = clean;
  Poison(reach.q, poison, &c.q);
  Poison(reach.k, poison, &c.k);
  Poison(reach.v, poison, &c.v);
  Poison(reach.dOut, poison, &c.dOut);
  Poison(reach.dLse, poison, &c.dLse);
  return c;
}

// Compares a call with poison with the same call with zeros there.
bool CheckPoisoned(const Call& call, const Poisoning& poisoning) {
  const Problem& p = call.p;
  Reach reach(call);
  ChoosePoison(call, poisoning.more, &reach);
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t h = 0; h < p.H; ++h) {
      for (int64_t r = 0; r < p.Sq; ++r) FollowRow(call, b, h, r, &reach);
    }
  }
  Call clean = WithPoison(call, reach, 0);
  bool right = Run(&clean, 2);
  for (const float poison : poisoning.values) {
    Call c = WithPoison(call, reach, poison);
    right = right && Run(&c, 2);
    const bool mustBeNaN = std::isnan(poison) && (p.dropoutThreshold == 0 || poisoning.reachesDropped);
    right = right && Spreads("out", reach.out, mustBeNaN, clean.out, c.out) &&
            Spreads("lse", reach.lse, mustBeNaN, clean.lse, c.lse) &&
            Spreads("dq", reach.dq, mustBeNaN, clean.dq, c.dq, p.deterministic ? 0 : poisoning.dqAllowed) &&
            Spreads("dk", reach.dk, mustBeNaN, clean.dk, c.dk) && Spreads("dv", reach.dv, mustBeNaN, clean.dv, c.dv);
    if (!right) {
      std::printf("wrong with %g: %s\n", double(poison), Describe(p).c_str());
      return false;
    }
  }
  return true;
}

}  // namespace
