// Included in the anonymous namespace of an instruction set. Philox4x32-10 for the rows in the lanes of a vector: see
// ../philox.h. TWIN: src/call/dropout.ts

struct DropLanes {
  I row;
  I batchHead;
};

inline DropLanes DropLanesOf(const Plan& plan, int64_t b, const PanelRows& rows, int vector) {
  DropLanes lanes;
  lanes.row = LoadInts(rows.row + vector * kLanes);
  lanes.batchHead = AddInts(LoadInts(rows.head + vector * kLanes), SetInt(ClampToInt(b * plan.problem.H)));
  return lanes;
}

// Factors of the weights of keys 4 keyGroup to 4 keyGroup + 3.
inline void KeepFactors(const Problem& problem, const DropLanes& lanes, int64_t keyGroup, F factors[4]) {
  I x[4] = {SetInt(static_cast<int32_t>(keyGroup)), lanes.row, lanes.batchHead, SetInt(0)};
  uint32_t key0 = static_cast<uint32_t>(problem.seed);
  uint32_t key1 = static_cast<uint32_t>(problem.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    I high0, low0, high1, low1;
    MulWide(x[0], kPhiloxM0, &high0, &low0);
    MulWide(x[2], kPhiloxM1, &high1, &low1);
    x[0] = Xor(Xor(high1, x[1]), SetInt(static_cast<int32_t>(key0)));
    x[2] = Xor(Xor(high0, x[3]), SetInt(static_cast<int32_t>(key1)));
    x[1] = low1;
    x[3] = low0;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  const I threshold = SetInt(static_cast<int32_t>(problem.dropoutThreshold));
  for (int i = 0; i < 4; ++i) {
    factors[i] = Select(LessUnsigned(x[i], threshold), Zero(), Set(problem.keepScale));
  }
}
