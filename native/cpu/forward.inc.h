// Included in the anonymous namespace of an instruction set. The forward pass: online softmax over the live tiles of
// each panel (arXiv 2410.01359, algorithm 1).

// Maxima are raised only when a score exceeds them by more than this: weights may be as large as e^8, which costs no
// precision, and sums are rescaled in few tiles.
constexpr float kRescale = 8.0f;

// A panel with what one item keeps of it.
struct ForwardRows {
  PanelRows rows;
  ForwardPanel panel;
  float* few;  // queries and outputs row by row, if there are few
  int vectors;
};

// The item of a forward plan.
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
  // The last rows see most of a causal mask: long items first, so that no thread has one left at the end.
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

// -infinity stands for "nothing seen yet", for which any finite maximum will do: -infinity less -infinity would be NaN.
inline F FiniteMax(F max) { return Select(Equal(max, Set(-INFINITY)), Zero(), max); }

// Sets the maximum of one vector of rows; returns the factor of what was summed up under the former one.
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

// Turns the scores of a tile into exp(score - max), and adds these to the sums. Calls scaleOutput(vector, factor) where
// the maximum was raised.
template <typename ScaleOutputs>
inline void Softmax(const ForwardRows& at, int64_t count, float* scores, const float* tileMax,
                    ScaleOutputs scaleOutput) {
  for (int v = 0; v < at.vectors; ++v) {
    const F largest = Load(tileMax + v * kLanes);
    const F before = Load(at.panel.max + v * kLanes);
    // Row by row: what one row is scored must not change another's rounding.
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

#include "few_rows.inc.h"

inline void PackKeyTile(const ForwardPlan& plan, const ForwardItem& item, int64_t tile, const ForwardScratch& scratch) {
  const Problem& p = plan.problem;
  const int64_t first = tile * kKeyTile;
  const int64_t count = Least(kKeyTile, p.Sk - first);
  const float* keys = plan.tensors.k + item.b * plan.k.batch + item.keyHead * plan.k.head + first * plan.k.row;
  const float* values = plan.tensors.v + item.b * plan.v.batch + item.keyHead * plan.v.head + first * plan.v.row;
  PackGroups(keys, plan.k.row, count, p.D, scratch.keys);
  const float* rows[kKeyTile];
  for (int64_t i = 0; i < count; ++i) rows[i] = values + i * plan.v.row;
  PackRows(rows, count, p.Dv, scratch.values, RoundUp(p.Dv, kColumnPad));
}

// Stores what is known of the weights of one row.
inline void StoreRowStats(const ForwardPlan& plan, int64_t b, const ForwardRows& at, int i) {
  const int64_t row = (b * plan.problem.H + at.rows.head[i]) * plan.problem.Sq + at.rows.row[i];
  const float max = at.panel.max[i];
  const float sum = at.panel.sum[i];
  plan.tensors.lse[row] = sum == 0.0f ? -INFINITY : max + logf(sum);
  plan.tensors.rowStats[2 * row] = max == -INFINITY ? 0.0f : max;
  plan.tensors.rowStats[2 * row + 1] = sum;
}

// Divides by the sums and stores output and statistics of a panel's rows.
inline void EndPanel(const ForwardPlan& plan, int64_t b, const ForwardRows& at) {
  const Problem& p = plan.problem;
  for (int i = 0; i < at.rows.count; ++i) {
    // The weights of a row whose visible scores are all -infinity are 0 / 0.
    const bool none = at.panel.sum[i] == 0.0f;
    if (none && SeesKey(plan.mask, at.rows.maskHead, at.rows.row[i])) at.panel.sum[i] = NAN;
  }
  for (int v = 0; v < at.vectors; ++v) {
    const F sum = Load(at.panel.sum + v * kLanes);
    const M empty = Equal(sum, Zero());
    const F factor = Div(Set(1.0f), sum);
    for (int64_t c = 0; c < p.Dv; ++c) {
      float* out = at.panel.out + c * kPanel + v * kLanes;
      Store(out, Select(empty, Zero(), Mul(Load(out), factor)));
    }
  }
  float* rows[kPanel];
  for (int i = 0; i < at.rows.count; ++i) {
    const int64_t head = at.rows.head[i];
    const int64_t row = at.rows.row[i];
    rows[i] = plan.tensors.out + b * plan.out.batch + head * plan.out.head + row * plan.out.row;
    StoreRowStats(plan, b, at, i);
  }
  UnpackColumns(at.panel.out, kPanel, p.Dv, rows, at.rows.count);
}

inline float* PartialAt(const ForwardPlan& plan, int64_t b, int64_t keyHead, int64_t panel, int64_t split) {
  const int64_t index = ((b * plan.problem.Hkv + keyHead) * plan.panels.count + panel) * plan.splits + split;
  return plan.partials + index * PanelFloats(plan.problem);
}

// Lists the panels of an item and packs their queries.
inline void BeginItem(const ForwardPlan& plan, const ForwardItem& item, const ForwardScratch& scratch,
                      ForwardRows* rows) {
  const Problem& p = plan.problem;
  for (int64_t i = 0; i < item.endPanel - item.firstPanel; ++i) {
    float* memory = plan.splits > 1 ? PartialAt(plan, item.b, item.keyHead, item.firstPanel + i, item.split)
                                    : scratch.panels + i * PanelFloats(p);
    rows[i].panel = PanelAt(p, memory);
    rows[i].few = scratch.rows + i * FewRowsFloats(p);
    ListRows(plan, item.b, item.keyHead, item.firstPanel + i, &rows[i].rows);
    BeginPanel(plan, item.b, &rows[i]);
    if (HasFewRows(plan)) BeginFewRows(plan, item.b, &rows[i]);
  }
}

void RunForward(const ForwardPlan& plan, int64_t index, int thread) {
  const ForwardItem item = ForwardItemAt(plan, index);
  const ForwardScratch scratch = ForwardScratchOf(plan, thread);
  const int64_t panels = item.endPanel - item.firstPanel;
  const int64_t endTile = Least((item.split + 1) * plan.tilesPerSplit, plan.tiles);
  ForwardRows rows[kMaxPanelsPerItem];
  BeginItem(plan, item, scratch, rows);
  const bool few = HasFewRows(plan);
  LiveTile next[kMaxPanelsPerItem];
  const auto advance = [&](int64_t i, int64_t from) {
    const PanelRows& of = rows[i].rows;
    next[i] = NextLiveTile(plan.mask, of.maskHead, of.firstRow, of.endRow, from, endTile);
  };
  for (int64_t i = 0; i < panels; ++i) advance(i, item.split * plan.tilesPerSplit);
  for (;;) {
    int64_t tile = endTile;
    for (int64_t i = 0; i < panels; ++i) tile = Least(tile, next[i].index);
    if (tile == endTile) break;
    if (!few) PackKeyTile(plan, item, tile, scratch);
    for (int64_t i = 0; i < panels; ++i) {
      if (next[i].index != tile) continue;
      few ? FewRowsTile(plan, item, &rows[i], next[i], scratch) : ForwardTile(plan, item.b, &rows[i], next[i], scratch);
      advance(i, tile + 1);
    }
  }
  for (int64_t i = 0; i < panels; ++i) {
    if (few) EndFewRows(plan, rows[i]);
    if (plan.splits == 1) EndPanel(plan, item.b, rows[i]);
  }
}

// Adds the parts of one panel to the first, in their order, and ends it.
void RunCombine(const ForwardPlan& plan, int64_t index, int thread) {
  (void)thread;
  const Problem& p = plan.problem;
  const int64_t panel = index % plan.panels.count;
  const int64_t head = index / plan.panels.count;
  ForwardRows at;
  ListRows(plan, head / p.Hkv, head % p.Hkv, panel, &at.rows);
  at.vectors = VectorsOf(at.rows.count);
  at.panel = PanelAt(p, PartialAt(plan, head / p.Hkv, head % p.Hkv, panel, 0));
  for (int64_t split = 1; split < plan.splits; ++split) {
    const ForwardPanel part = PanelAt(p, PartialAt(plan, head / p.Hkv, head % p.Hkv, panel, split));
    for (int v = 0; v < at.vectors; ++v) {
      const int lane = v * kLanes;
      const F partMax = Load(part.max + lane);
      ScaleOutput(at.panel, p.Dv, v, RaiseMax(at.panel, v, Max(partMax, Load(at.panel.max + lane))));
      const F factor = Exp(Sub(partMax, FiniteMax(Load(at.panel.max + lane))));
      Store(at.panel.sum + lane, Fma(Load(part.sum + lane), factor, Load(at.panel.sum + lane)));
      for (int64_t c = 0; c < p.Dv; ++c) {
        float* out = at.panel.out + c * kPanel + lane;
        Store(out, Fma(Load(part.out + c * kPanel + lane), factor, Load(out)));
      }
    }
  }
  EndPanel(plan, head / p.Hkv, at);
}
