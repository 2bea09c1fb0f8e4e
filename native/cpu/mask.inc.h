// Included in the anonymous namespace of an instruction set.

inline int32_t ClampToInt(int64_t a) {
  return static_cast<int32_t>(a < INT32_MIN ? INT32_MIN : a > INT32_MAX ? INT32_MAX : a);
}

// Rows [begin, end).
inline M Between(I row, int32_t begin, int32_t end) {
  return AndNot(LessInts(row, SetInt(end)), LessInts(row, SetInt(begin)));
}

// Writes -infinity over the masked scores of a tile whose first key is `firstKey`, and the largest of each row's others
// to `max`.
inline void MaskScores(const Plan& plan, const PanelRows& rows, int vectors, int64_t firstKey, const TileKeys& keys,
                       float* scores, float* max) {
  const int64_t offset = plan.problem.Sk - plan.problem.Sq;
  const F hidden = Set(-INFINITY);
  for (int v = 0; v < vectors; ++v) {
    const I row = LoadInts(rows.row + v * kLanes);
    F largest = hidden;
    for (int64_t key = 0; key < keys.count; ++key) {
      const int32_t* at = keys.columns[key].v;
      M masked = Or(Between(row, at[0], at[1]), Between(row, at[2], at[3]));
      if (plan.problem.causal) masked = Or(masked, LessInts(row, SetInt(ClampToInt(firstKey + key - offset))));
      float* to = scores + key * kPanel + v * kLanes;
      const F score = Select(masked, hidden, Load(to));
      Store(to, score);
      largest = Max(score, largest);
    }
    Store(max + v * kLanes, largest);
  }
}

// The largest score of each row of a tile that is not masked, where packed keys that do not exist have been scored too.
inline void LargestScores(int vectors, int64_t count, const float* scores, float* max) {
  for (int v = 0; v < vectors; ++v) {
    F largest = Set(-INFINITY);
    for (int64_t key = 0; key < count; ++key) largest = Max(Load(scores + key * kPanel + v * kLanes), largest);
    Store(max + v * kLanes, largest);
  }
}
