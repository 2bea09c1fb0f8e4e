// Included in the anonymous namespace of an instruction set.

inline int32_t ClampToInt(int64_t a) {
  return static_cast<int32_t>(a < INT32_MIN ? INT32_MIN : a > INT32_MAX ? INT32_MAX : a);
}

// Rows [begin, end).
inline M Between(I row, int32_t begin, int32_t end) {
  return AndNot(LessInts(row, SetInt(end)), LessInts(row, SetInt(begin)));
}

// Writes -infinity over the masked scores of a tile, and the largest of each row's others to `max`.
inline void MaskScores(const Plan& plan, const PanelRows& rows, int vectors, int64_t tile, int64_t count, float* scores, float* max) {
  Intervals intervals[kKeyTile];
  const int64_t first = tile * kKeyTile;
  ColumnIntervals(plan.mask, rows.maskHead, first, count, intervals);
  const int64_t offset = plan.problem.Sk - plan.problem.Sq;
  const F hidden = Set(-INFINITY);
  for (int v = 0; v < vectors; ++v) {
    const I row = LoadInts(rows.row + v * kLanes);
    F largest = hidden;
    for (int64_t key = 0; key < count; ++key) {
      const int32_t* at = intervals[key].v;
      M masked = Or(Between(row, at[0], at[1]), Between(row, at[2], at[3]));
      if (plan.problem.causal) masked = Or(masked, LessInts(row, SetInt(ClampToInt(first + key - offset))));
      float* to = scores + key * kPanel + v * kLanes;
      const F score = Select(masked, hidden, Load(to));
      Store(to, score);
      largest = Max(score, largest);
    }
    Store(max + v * kLanes, largest);
  }
}
