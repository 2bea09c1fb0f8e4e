#include "plan.h"

#include <algorithm>

namespace flashmask {
namespace cpu {
namespace {

// Hands out aligned buffers of a piece of memory; without memory it only counts bytes.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  char* Take(size_t bytes) {
    char* at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
    return at;
  }

  float* Floats(int64_t count) { return reinterpret_cast<float*>(Take(static_cast<size_t>(count) * sizeof(float))); }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

Strides StridesOf(bool bhsd, int64_t rows, int64_t heads, int64_t channels) {
  const int64_t batch = rows * heads * channels;
  return bhsd ? Strides{batch, channels, rows * channels} : Strides{batch, heads * channels, channels};
}

Panels CutIntoPanels(const Problem& p) {
  const int64_t group = p.H / p.Hkv;
  Panels panels = {};
  panels.folded = group > 1 && p.Hm <= p.Hkv && p.Sq < kPanel;
  const int64_t rows = panels.folded ? group * p.Sq : p.Sq;
  panels.perHead = CeilDiv(rows, kPanel);
  // Panels of similar size with full vectors: 64 rows are split into 32 and 32, not 48 and 16.
  panels.rows = panels.perHead == 0 ? kPanel : Least(kPanel, RoundUp(CeilDiv(rows, panels.perHead), kRowPad));
  panels.perHead = CeilDiv(rows, panels.rows);
  panels.count = panels.perHead * (panels.folded ? 1 : group);
  return panels;
}

void FillCommon(Plan* plan, const Problem& p, int threads) {
  plan->problem = p;
  plan->q = StridesOf(p.bhsd, p.Sq, p.H, p.D);
  plan->k = StridesOf(p.bhsd, p.Sk, p.Hkv, p.D);
  plan->v = StridesOf(p.bhsd, p.Sk, p.Hkv, p.Dv);
  plan->out = StridesOf(p.bhsd, p.Sq, p.H, p.Dv);
  plan->panels = CutIntoPanels(p);
  plan->tiles = CeilDiv(p.Sk, kKeyTile);
  plan->threads = threads;
}

int64_t PaddedDv(const Problem& p) { return RoundUp(p.Dv, kColumnPad); }

ForwardScratch CarveForward(const ForwardPlan& plan, Arena* arena) {
  const Problem& p = plan.problem;
  ForwardScratch s;
  s.keys = arena->Floats(kKeyTile * p.D);
  s.values = arena->Floats(kKeyTile * PaddedDv(p));
  s.scores = arena->Floats(kKeyTile * kPanel);
  s.panels = arena->Floats(plan.panelsPerItem * PanelFloats(p));
  s.rows = arena->Floats(plan.panelsPerItem * FewRowsFloats(p));
  s.finite = arena->Floats(kKeyTile * PackedRow(p.Dv));
  return s;
}

BackwardScratch CarveBackward(const BackwardPlan& plan, Arena* arena) {
  const Problem& p = plan.problem;
  const int64_t chunk = plan.chunkTiles * kKeyTile;
  const int64_t rowD = PackedRow(p.D);
  const int64_t rowDv = PackedRow(p.Dv);
  BackwardScratch s;
  s.keys = arena->Floats(chunk * p.D);
  s.values = arena->Floats(chunk * p.Dv);
  s.keyRows = arena->Floats(chunk * rowD);
  s.dKeys = arena->Floats(chunk * rowD);
  s.dValues = arena->Floats(chunk * rowDv);
  s.queries = arena->Floats(kPanel * p.D);
  s.dOuts = arena->Floats(kPanel * p.Dv);
  s.queryRows = arena->Floats(kPanel * rowD);
  s.dOutRows = arena->Floats(kPanel * rowDv);
  s.dQueries = arena->Floats(kPanel * rowD);
  s.max = arena->Floats(kPanel);
  s.factor = arena->Floats(kPanel);
  s.rowShift = arena->Floats(kPanel);
  s.weights = arena->Floats(kKeyTile * kPanel);
  s.dScores = arena->Floats(kKeyTile * kPanel);
  s.finite = arena->Floats(kKeyTile * Most(rowD, rowDv));
  return s;
}

// With few rows, as in decoding, splits the keys so that all threads have work.
void SplitKeys(ForwardPlan* plan) {
  const Problem& p = plan->problem;
  const int64_t panels = Most(1, p.B * p.Hkv * plan->panels.count);
  const int64_t most = Most(1, Least(4 * kMaxSplits, plan->tiles * kKeyTile / kMinSplitRows));
  plan->splits = Least(most, CeilDiv(kWantedItems, panels));
  plan->tilesPerSplit = CeilDiv(plan->tiles, plan->splits);
  plan->splits = Most(1, CeilDiv(plan->tiles, Most(1, plan->tilesPerSplit)));
}

// Splits the tiles or the panels, each time those with the smaller partial results.
void SplitBackward(BackwardPlan* plan) {
  const Problem& p = plan->problem;
  const int64_t mostKeys = Least(kMaxSplits, p.Sk / kMinSplitRows);
  const int64_t mostPanels = Least(kMaxSplits, plan->panels.count * plan->panels.rows / kMinSplitRows);
  const int64_t dqFloats = p.H * p.Sq * p.D;
  const int64_t dkvFloats = p.Hkv * p.Sk * (p.D + p.Dv);
  int64_t keySplits = 1;
  int64_t panelSplits = 1;
  while (p.B * p.Hkv * keySplits * panelSplits < kWantedItems) {
    const bool keys = 2 * keySplits <= mostKeys;
    const bool panels = 2 * panelSplits <= mostPanels;
    if (!keys && !panels) break;
    (keys && (!panels || keySplits * dqFloats <= panelSplits * dkvFloats) ? keySplits : panelSplits) *= 2;
  }
  plan->tilesPerSplit = Most(1, CeilDiv(plan->tiles, keySplits));
  plan->keySplits = Most(1, CeilDiv(plan->tiles, plan->tilesPerSplit));
  plan->panelsPerSplit = Most(1, CeilDiv(plan->panels.count, panelSplits));
  plan->panelSplits = Most(1, CeilDiv(plan->panels.count, plan->panelsPerSplit));
}

}  // namespace

int64_t FewRowsFloats(const Problem& p) { return kMaxFewRows * (PackedRow(p.D) + PackedRow(p.Dv)); }

int64_t PanelFloats(const Problem& p) { return kPanel * (RoundUp(p.D, kColumnPad) + PaddedDv(p) + 8); }

ForwardPanel PanelAt(const Problem& p, float* memory) {
  ForwardPanel panel;
  panel.queries = memory;
  panel.out = panel.queries + kPanel * RoundUp(p.D, kColumnPad);
  panel.max = panel.out + kPanel * PaddedDv(p);
  panel.sum = panel.max + kPanel;
  return panel;
}

void ListRows(const Plan& plan, int64_t b, int64_t keyHead, int64_t panel, PanelRows* rows) {
  const Problem& p = plan.problem;
  const Panels& panels = plan.panels;
  const int64_t group = p.H / p.Hkv;
  const int64_t head = keyHead * group + (panels.folded ? 0 : panel / panels.perHead);
  const int64_t begin = (panels.folded ? panel : panel % panels.perHead) * panels.rows;
  const int64_t end = panels.folded ? group * p.Sq : p.Sq;
  rows->count = static_cast<int>(Least(panels.rows, end - begin));
  rows->maskHead = MaskHeadOf(p, b, head);
  for (int64_t i = 0; i < kPanel; ++i) {
    const int64_t at = begin + Least(i, rows->count - 1);  // Spare lanes repeat the last row.
    rows->row[i] = static_cast<int32_t>(panels.folded ? at % p.Sq : at);
    rows->head[i] = static_cast<int32_t>(panels.folded ? head + at / p.Sq : head);
  }
  rows->firstRow = *std::min_element(rows->row, rows->row + kPanel);
  rows->endRow = *std::max_element(rows->row, rows->row + kPanel) + 1;
}

ForwardPlan PlanForward(const Problem& p, int threads, void* scratch, size_t* bytes) {
  ForwardPlan plan = {};
  FillCommon(&plan, p, threads);
  SplitKeys(&plan);
  // Larger items share more packed keys, smaller items balance the threads better. The results do not depend on the
  // size.
  const int64_t panels = p.B * p.Hkv * plan.panels.count;
  constexpr int64_t kItemsPerThread = 6;
  plan.panelsPerItem = Most(1, Least(kMaxPanelsPerItem, panels / (threads * kItemsPerThread)));
  plan.blocks = CeilDiv(plan.panels.count, plan.panelsPerItem);
  plan.items = p.B * p.Hkv * plan.blocks * plan.splits;
  Arena arena(scratch);
  plan.maskMemory = arena.Take(BoundsMapBytes(p));
  if (plan.splits > 1) plan.partials = arena.Floats(panels * plan.splits * PanelFloats(p));
  Arena counter(nullptr);
  CarveForward(plan, &counter);
  plan.threadBytes = counter.used();
  plan.threadScratch = arena.Take(plan.threadBytes * static_cast<size_t>(threads));
  *bytes = arena.used();
  return plan;
}

BackwardPlan PlanBackward(const Problem& p, int threads, void* scratch, size_t* bytes) {
  BackwardPlan plan = {};
  FillCommon(&plan, p, threads);
  SplitBackward(&plan);
  const int64_t keyBytes = static_cast<int64_t>(sizeof(float)) * (p.D + p.Dv + 2 * PackedRow(p.D) + PackedRow(p.Dv));
  const int64_t fitting = static_cast<int64_t>(kChunkBytes) / (kKeyTile * keyBytes);
  plan.chunkTiles = Most(1, Least(Least(kMaxChunkTiles, fitting), plan.tilesPerSplit));
  plan.items = p.B * p.Hkv * plan.keySplits * plan.panelSplits;
  Arena arena(scratch);
  plan.maskMemory = arena.Take(BoundsMapBytes(p));
  plan.rowShift = arena.Floats(p.B * p.H * p.Sq);
  plan.hasPart =
      reinterpret_cast<uint8_t*>(arena.Take(static_cast<size_t>(plan.keySplits * p.B * p.Hkv * plan.panels.count)));
  plan.dqPartials = arena.Floats((plan.keySplits - 1) * p.B * p.H * p.Sq * p.D);
  plan.dkPartials = arena.Floats((plan.panelSplits - 1) * p.B * p.Hkv * p.Sk * p.D);
  plan.dvPartials = arena.Floats((plan.panelSplits - 1) * p.B * p.Hkv * p.Sk * p.Dv);
  Arena counter(nullptr);
  CarveBackward(plan, &counter);
  plan.threadBytes = counter.used();
  plan.threadScratch = arena.Take(plan.threadBytes * static_cast<size_t>(threads));
  *bytes = arena.used();
  return plan;
}

ForwardScratch ForwardScratchOf(const ForwardPlan& plan, int thread) {
  Arena arena(plan.threadScratch + plan.threadBytes * static_cast<size_t>(thread));
  return CarveForward(plan, &arena);
}

BackwardScratch BackwardScratchOf(const BackwardPlan& plan, int thread) {
  Arena arena(plan.threadScratch + plan.threadBytes * static_cast<size_t>(thread));
  return CarveBackward(plan, &arena);
}

}  // namespace cpu
}  // namespace flashmask
