// Included in the anonymous namespace of an instruction set. The items of the forward pass: each walks over the live
// tiles of its panels (forward_panel.inc.h, few_rows.inc.h).

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

// Stores the statistics of one row.
inline void StoreRowStats(const ForwardPlan& plan, int64_t b, const ForwardRows& at, int i) {
  const int64_t row = (b * plan.problem.H + at.rows.head[i]) * plan.problem.Sq + at.rows.row[i];
  const float max = at.panel.max[i];
  const float sum = at.panel.sum[i];
  plan.tensors.lse[row] = sum == 0.0f ? -INFINITY : max + logf(sum);
  plan.tensors.rowStats[2 * row] = max == -INFINITY ? 0.0f : max;
  plan.tensors.rowStats[2 * row + 1] = sum;
}

// Divides a panel's rows by their sums and stores their output and statistics.
inline void EndPanel(const ForwardPlan& plan, int64_t b, const ForwardRows& at) {
  const Problem& p = plan.problem;
  for (int i = 0; i < at.rows.count; ++i) {
    // If all visible scores of a row are -infinity, its weights are 0 / 0.
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

// Adds the partial results of one panel to the first, in their order, and finishes the panel.
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
