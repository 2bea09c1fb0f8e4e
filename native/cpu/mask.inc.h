// Included in the anonymous namespace of an instruction set.

inline int32_t ClampToInt(int64_t a) {
  return static_cast<int32_t>(a < INT32_MIN ? INT32_MIN : a > INT32_MAX ? INT32_MAX : a);
}

// Whether each row is in [begin, end).
inline M Between(I row, int32_t begin, int32_t end) {
  return AndNot(LessInts(row, SetInt(end)), LessInts(row, SetInt(begin)));
}

// The pairs of a partial tile and a panel.
struct TilePairs {
  const Plan& plan;
  const PanelRows& rows;
  const TileKeys& keys;
  int64_t firstKey;
};

// The first row in which the causal triangle does not mask a key of the tile.
inline int32_t FirstCausalRow(const TilePairs& pairs, int64_t key) {
  const Problem& p = pairs.plan.problem;
  return p.causal ? ClampToInt(pairs.firstKey + key - (p.Sk - p.Sq)) : INT32_MIN;
}

// Which rows of a vector do not see a key.
inline M MaskedRows(const TilePairs& pairs, I row, int64_t key) {
  const int32_t* at = pairs.keys.columns[key].v;
  const M masked = Or(Between(row, at[0], at[1]), Between(row, at[2], at[3]));
  return pairs.plan.problem.causal ? Or(masked, LessInts(row, SetInt(FirstCausalRow(pairs, key)))) : masked;
}

inline bool IsVisible(const TilePairs& pairs, int64_t key, int64_t i) {
  const int32_t* at = pairs.keys.columns[key].v;
  const int32_t row = pairs.rows.row[i];
  const bool masked = (row >= at[0] && row < at[1]) || (row >= at[2] && row < at[3]);
  return !masked && row >= FirstCausalRow(pairs, key);
}

// Replaces the masked scores of a tile by -infinity, and writes the largest other score of each row to `max`.
inline void MaskScores(const TilePairs& pairs, int vectors, float* scores, float* max) {
  const F hidden = Set(-INFINITY);
  for (int v = 0; v < vectors; ++v) {
    const I row = LoadInts(pairs.rows.row + v * kLanes);
    F largest = hidden;
    for (int64_t key = 0; key < pairs.keys.count; ++key) {
      float* to = scores + key * kPanel + v * kLanes;
      const F score = Select(MaskedRows(pairs, row, key), hidden, Load(to));
      Store(to, score);
      largest = Max(score, largest);
    }
    Store(max + v * kLanes, largest);
  }
}

// The largest score of each row of a tile without masked pairs. Packed keys that do not exist have scores too, but do
// not count.
inline void LargestScores(int vectors, int64_t count, const float* scores, float* max) {
  for (int v = 0; v < vectors; ++v) {
    F largest = Set(-INFINITY);
    for (int64_t key = 0; key < count; ++key) largest = Max(Load(scores + key * kPanel + v * kLanes), largest);
    Store(max + v * kLanes, largest);
  }
}
