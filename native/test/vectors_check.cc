// Checks the C++ copies of the rules that each language has with the shared vectors of test/vectors/.
// test/native/cpu_check.test.ts writes the vectors to vectors.inc, and builds and runs this program.
#include <cstdint>
#include <cstdio>

#include "../cpu/bounds_map.h"
#include "../philox.h"

namespace {

using flashmask::cpu::TileKind;

struct IntervalsCase {
  int64_t n;
  bool causal;
  int32_t bounds[4];
  int32_t intervals[4];
};

struct ClassifyCase {
  bool causal;
  int64_t Sq, Sk, r0, r1, c0, c1;
  int32_t map[8];
  TileKind kind;
};

struct PhiloxCase {
  uint32_t counter[4];
  uint64_t key;
  uint32_t words[4];
};

struct DropoutCase {
  uint64_t seed;
  uint32_t threshold, batchHead, row;
  const char* kept;
};

struct MaskHeadCase {
  int64_t maskB, Hm, H, Hkv, b, h, maskHead;
};

// kIntervals, kClassify, kPhilox, kDropout, kMaskHead.
#include "vectors.inc"

int wrong = 0;

void Expect(bool right, const char* what, size_t index) {
  if (right) return;
  std::printf("wrong: %s, vector %zu\n", what, index);
  ++wrong;
}

template <typename T, size_t kCount, typename IsRight>
void CheckAll(const char* what, const T (&cases)[kCount], IsRight isRight) {
  for (size_t i = 0; i < kCount; ++i) Expect(isRight(cases[i]), what, i);
  std::printf("%s: %zu\n", what, kCount);
}

bool HasIntervals(const IntervalsCase& c) {
  const flashmask::cpu::Intervals found = flashmask::cpu::IntervalsAt(c.bounds, c.n, c.causal);
  for (int i = 0; i < 4; ++i) {
    if (found.v[i] != c.intervals[i]) return false;
  }
  return true;
}

bool HasKind(const ClassifyCase& c) {
  flashmask::cpu::BoundsMap map = {};
  map.rows = c.Sq;
  map.keys = c.Sk;
  map.causal = c.causal;
  return Classify(map, c.map, c.r0, c.r1, c.c0, c.c1) == c.kind;
}

bool HasWords(const PhiloxCase& c) {
  uint32_t words[4] = {c.counter[0], c.counter[1], c.counter[2], c.counter[3]};
  flashmask::Philox4x32(words, c.key);
  for (int i = 0; i < 4; ++i) {
    if (words[i] != c.words[i]) return false;
  }
  return true;
}

bool Drops(const DropoutCase& c) {
  for (uint32_t j = 0; c.kept[j] != 0; ++j) {
    if (flashmask::Dropped(c.seed, c.threshold, c.batchHead, c.row, j) != (c.kept[j] == '0')) return false;
  }
  return true;
}

bool HasMaskHead(const MaskHeadCase& c) {
  flashmask::Problem p = {};
  p.maskB = c.maskB;
  p.Hm = c.Hm;
  p.H = c.H;
  p.Hkv = c.Hkv;
  return flashmask::cpu::MaskHeadOf(p, c.b, c.h) == c.maskHead;
}

}  // namespace

int main() {
  CheckAll("intervals", kIntervals, HasIntervals);
  CheckAll("classify", kClassify, HasKind);
  CheckAll("philox", kPhilox, HasWords);
  CheckAll("dropout", kDropout, Drops);
  CheckAll("mask_head", kMaskHead, HasMaskHead);
  return wrong == 0 ? 0 : 1;
}
