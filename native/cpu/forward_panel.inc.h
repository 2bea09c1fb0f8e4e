// Included in the anonymous namespace of an instruction set. One panel of the forward pass: online softmax over its
// live tiles (arXiv 2410.01359, algorithm 1).

// A maximum is raised only when a score exceeds it by more than this. Weights up to e^8 cost no precision, and few
// tiles need to rescale the sums.
constexpr float kRescale = 8.0f;

// A panel and its state within one item.
struct ForwardRows {
  PanelRows rows;
  ForwardPanel panel;
  float* few;  // queries and outputs row by row, if the panel has few rows
  int vectors;
};

// An item of the forward plan.
struct ForwardItem {
  int64_t b;
  int64_t keyHead;
  int64_t firstPanel;
  int64_t endPanel;
  int64_t split;
};

inline ForwardItem ForwardItemAt(const ForwardPlan& plan, int64_t index) {
  ForwardItem item;
  item.split = index % plan.splits;
  const int64_t block = index / plan.splits;
  const int64_t head = block / plan.blocks;
  // Under a causal mask the last rows see the most keys. Long items go first, so that no thread starts one at the end.
  const int64_t at = plan.blocks - 1 - block % plan.blocks;
  item.b = head / plan.problem.Hkv;
  item.keyHead = head % plan.problem.Hkv;
  item.firstPanel = at * plan.panelsPerItem;
  item.endPanel = Least(item.firstPanel + plan.panelsPerItem, plan.panels.count);
  return item;
}

inline int VectorsOf(int rows) { return (rows + kLanes - 1) / kLanes; }

// Pointers to a panel's rows in one tensor; spare lanes point to zeros.
inline void RowPointers(const float* tensor, const Strides& strides, int64_t b, const PanelRows& rows,
                        const float** pointers) {
  for (int i = 0; i < kPanel; ++i) {
    pointers[i] =
        i < rows.count ? tensor + b * strides.batch + rows.head[i] * strides.head + rows.row[i] * strides.row : kZeros;
  }
}

inline void BeginPanel(const ForwardPlan& plan, int64_t b, ForwardRows* at) {
  const Problem& p = plan.problem;
  const float* pointers[kPanel];
  RowPointers(plan.tensors.q, plan.q, b, at->rows, pointers);
  at->vectors = VectorsOf(at->rows.count);
  PackColumns(pointers, at->vectors * kLanes, p.D, at->panel.queries, kPanel);
  __builtin_memset(at->panel.out, 0, sizeof(float) * static_cast<size_t>(RoundUp(p.Dv, kColumnPad) * kPanel));
  for (int i = 0; i < kPanel; ++i) {
    at->panel.max[i] = -INFINITY;
    at->panel.sum[i] = 0.0f;
  }
}

// -infinity means that a row has seen nothing yet. Then any finite maximum will do, because -infinity less -infinity is
// NaN.
inline F FiniteMax(F max) { return Select(Equal(max, Set(-INFINITY)), Zero(), max); }

// Sets the maxima of one vector of rows; returns the factor for the sums under the former maxima.
inline F RaiseMax(const ForwardPanel& panel, int vector, F raised) {
  const int at = vector * kLanes;
  const F max = Load(panel.max + at);
  const F factor = Exp(Sub(max, FiniteMax(raised)));
  Store(panel.max + at, raised);
  Store(panel.sum + at, Mul(Load(panel.sum + at), factor));
  return factor;
}

// Multiplies one vector of rows of the output.
inline void ScaleOutput(const ForwardPanel& panel, int64_t channels, int vector, F factor) {
  for (int64_t c = 0; c < channels; ++c) {
    float* out = panel.out + c * kPanel + vector * kLanes;
    Store(out, Mul(Load(out), factor));
  }
}

// Turns the scores of a tile into exp(score - max) and adds them to the sums. Calls scaleOutput(vector, factor) if it
// raises a maximum.
template <typename ScaleOutputs>
inline void Softmax(const ForwardRows& at, int64_t count, float* scores, const float* tileMax,
                    ScaleOutputs scaleOutput) {
  for (int v = 0; v < at.vectors; ++v) {
    const F largest = Load(tileMax + v * kLanes);
    const F before = Load(at.panel.max + v * kLanes);
    // Each row decides for itself, so that its scores do not change how another row is rounded.
    const M exceeds = Less(Set(kRescale), Sub(largest, before));
    if (Any(exceeds)) scaleOutput(v, RaiseMax(at.panel, v, Select(exceeds, largest, before)));
    const F max = FiniteMax(Load(at.panel.max + v * kLanes));
    F sum = Load(at.panel.sum + v * kLanes);
    for (int64_t key = 0; key < count; ++key) {
      float* score = scores + key * kPanel + v * kLanes;
      const F weight = Exp(Sub(Load(score), max));
      Store(score, weight);
      sum = Add(sum, weight);
    }
    Store(at.panel.sum + v * kLanes, sum);
  }
}

// Multiplies the weights of a tile by their dropout factors.
inline void DropWeights(const ForwardPlan& plan, int64_t b, const ForwardRows& at, int64_t firstKey, int64_t count,
                        float* weights) {
  for (int v = 0; v < at.vectors; ++v) {
    const DropLanes lanes = DropLanesOf(plan, b, at.rows, v);
    for (int64_t group = 0; group * 4 < count; ++group) {
      F factors[4];
      KeepFactors(plan.problem, lanes, firstKey / 4 + group, factors);
      for (int i = 0; i < 4; ++i) {
        float* weight = weights + (4 * group + i) * kPanel + v * kLanes;
        Store(weight, Mul(Load(weight), factors[i]));
      }
    }
  }
}

// One tile of one panel; keys and values of the tile are packed.
inline void ForwardTile(const ForwardPlan& plan, int64_t b, ForwardRows* at, const LiveTile& tile,
                        const ForwardScratch& scratch) {
  const Problem& p = plan.problem;
  const int64_t padded = RoundUp(p.Dv, kColumnPad);
  TileKeys keys;
  ReadTile(plan.mask, at->rows.maskHead, at->rows.firstRow, at->rows.endRow, tile, &keys);
  if (keys.count == 0) return;
  const int64_t firstKey = tile.index * kKeyTile + keys.begin;
  const TilePairs pairs = {plan, at->rows, keys, firstKey};
  float* scores = scratch.scores;
  float max[kPanel];
  for (int i = 0; i < kPanel; ++i) max[i] = -INFINITY;
  Scores<true>(CeilDiv(keys.count, kMicroRows), at->vectors, p.D, scratch.keys + keys.begin * p.D, at->panel.queries,
               p.scale, scores, max);
  if (keys.partial) {
    MaskScores(pairs, at->vectors, scores, max);
  } else if (keys.count < kKeyTile) {
    LargestScores(at->vectors, keys.count, scores, max);
  }
  Softmax(*at, keys.count, scores, max, [&](int v, F factor) { ScaleOutput(at->panel, padded, v, factor); });
  if (p.dropoutThreshold != 0) DropWeights(plan, b, *at, firstKey, keys.count, scores);
  const Operand values = {scratch.values + keys.begin * padded, keys.count, padded, p.Dv};
  const Operand finite = WithoutNotFinite(keys.partial, values, scratch.finite);
  AddProduct<1>(CeilDiv(p.Dv, kMicroRows), kMicroRows, at->vectors, keys.count, finite.rows, finite.stride, scores,
                kPanel, at->panel.out, kPanel);
  if (finite.rows != values.rows) AddNotFinite<true>(pairs, values, scores, at->panel.out, 1, kPanel);
}
