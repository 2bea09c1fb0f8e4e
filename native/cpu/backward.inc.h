// Included in the anonymous namespace of an instruction set. The backward pass (arXiv 2410.01359, algorithm 2) walks
// over the keys chunk by chunk and in each over the live tiles of all panels, and recomputes the weights from the row
// statistics. dk and dv of a chunk stay in the cache. dq of a panel is added, once per chunk, to the output or to one
// of several partial outputs.

struct BackwardItem {
  int64_t b;
  int64_t keyHead;
  int64_t keySplit;
  int64_t panelSplit;
};

inline BackwardItem BackwardItemAt(const BackwardPlan& plan, int64_t index) {
  BackwardItem item;
  // Under a causal mask the first keys and the last rows have the most pairs. Long items go first.
  item.keySplit = index % plan.keySplits;
  item.panelSplit = plan.panelSplits - 1 - index / plan.keySplits % plan.panelSplits;
  const int64_t head = index / plan.keySplits / plan.panelSplits;
  item.b = head / plan.problem.Hkv;
  item.keyHead = head % plan.problem.Hkv;
  return item;
}

// Consecutive tiles of one key head, packed.
struct Chunk {
  int64_t firstTile;
  int64_t endTile;
  int64_t keys;
};

inline Chunk BeginChunk(const BackwardPlan& plan, const BackwardItem& item, int64_t firstTile, int64_t endTile,
                        const BackwardScratch& s) {
  const Problem& p = plan.problem;
  Chunk chunk;
  chunk.firstTile = firstTile;
  chunk.endTile = Least(firstTile + plan.chunkTiles, endTile);
  const int64_t first = firstTile * kKeyTile;
  chunk.keys = Least(chunk.endTile * kKeyTile, p.Sk) - first;
  const float* keys = plan.tensors.k + item.b * plan.k.batch + item.keyHead * plan.k.head + first * plan.k.row;
  const float* values = plan.tensors.v + item.b * plan.v.batch + item.keyHead * plan.v.head + first * plan.v.row;
  PackGroups(keys, plan.k.row, chunk.keys, p.D, s.keys);
  PackGroups(values, plan.v.row, chunk.keys, p.Dv, s.values);
  for (int64_t i = 0; i < chunk.keys; ++i) {
    const float* row = keys + i * plan.k.row;
    PackRows(&row, 1, p.D, s.keyRows + i * PackedRow(p.D), PackedRow(p.D));
  }
  const int64_t tileKeys = (chunk.endTile - firstTile) * kKeyTile;
  __builtin_memset(s.dKeys, 0, sizeof(float) * static_cast<size_t>(tileKeys * PackedRow(p.D)));
  __builtin_memset(s.dValues, 0, sizeof(float) * static_cast<size_t>(tileKeys * PackedRow(p.Dv)));
  return chunk;
}

// Writes rows times a factor to a tensor.
inline void EndChunk(const float* rows, int64_t packed, int64_t count, int64_t channels, float factor, float* to,
                     int64_t stride) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t c = 0; c < channels; ++c) to[r * stride + c] = rows[r * packed + c] * factor;
  }
}

inline void WriteKeyGradients(const BackwardPlan& plan, const BackwardItem& item, const Chunk& chunk,
                              const BackwardScratch& s) {
  const Problem& p = plan.problem;
  const int64_t part = item.panelSplit - 1;
  float* dk = item.panelSplit == 0 ? plan.tensors.dk : plan.dkPartials + part * p.B * plan.k.batch;
  float* dv = item.panelSplit == 0 ? plan.tensors.dv : plan.dvPartials + part * p.B * plan.v.batch;
  const int64_t first = chunk.firstTile * kKeyTile;
  EndChunk(s.dKeys, PackedRow(p.D), chunk.keys, p.D, p.scale,
           dk + item.b * plan.k.batch + item.keyHead * plan.k.head + first * plan.k.row, plan.k.row);
  EndChunk(s.dValues, PackedRow(p.Dv), chunk.keys, p.Dv, 1.0f,
           dv + item.b * plan.v.batch + item.keyHead * plan.v.head + first * plan.v.row, plan.v.row);
}

// Packs the queries and output gradients of a panel. Rows that see no key become zeros: all their pairs are masked, and
// then no tile needs a check for numbers in padding.
inline void BeginPanel(const BackwardPlan& plan, int64_t b, const PanelRows& rows, const BackwardScratch& s) {
  const Problem& p = plan.problem;
  const float* queries[kPanel];
  const float* dOuts[kPanel];
  RowPointers(plan.tensors.q, plan.q, b, rows, queries);
  RowPointers(plan.tensors.dOut, plan.out, b, rows, dOuts);
  for (int i = 0; i < kPanel; ++i) {
    const int64_t at = (b * p.H + rows.head[i]) * p.Sq + rows.row[i];
    const float sum = plan.tensors.rowStats[2 * at + 1];
    s.max[i] = plan.tensors.rowStats[2 * at];
    s.factor[i] = 1.0f / sum;
    s.rowShift[i] = plan.rowShift[at];
    if (sum == 0.0f) queries[i] = dOuts[i] = kZeros;
  }
  const int lanes = VectorsOf(rows.count) * kLanes;
  PackColumns(queries, lanes, p.D, s.queries, kPanel);
  PackColumns(dOuts, lanes, p.Dv, s.dOuts, kPanel);
  PackRows(queries, rows.count, p.D, s.queryRows, PackedRow(p.D));
  PackRows(dOuts, rows.count, p.Dv, s.dOutRows, PackedRow(p.Dv));
  __builtin_memset(s.dQueries, 0, sizeof(float) * static_cast<size_t>(kPanel * PackedRow(p.D)));
}

// For one vector of rows, turns scores into weights with dropout, and the gradients of these weights into gradients of
// the scores.
template <bool kMasked, bool kDropout>
inline void ScoreGradients(const TilePairs& pairs, int64_t b, int vector, const BackwardScratch& s) {
  const Problem& p = pairs.plan.problem;
  const int lane = vector * kLanes;
  const I row = LoadInts(pairs.rows.row + lane);
  const F max = Load(s.max + lane);
  const F factor = Load(s.factor + lane);
  const F rowShift = Load(s.rowShift + lane);
  DropLanes drop = {};
  if (kDropout) drop = DropLanesOf(pairs.plan, b, pairs.rows, vector);
  F keep[4];
  for (int64_t key = 0; key < pairs.keys.count; ++key) {
    float* weightAt = s.weights + key * kPanel + lane;
    float* gradientAt = s.dScores + key * kPanel + lane;
    const F weight = Mul(Exp(Sub(Load(weightAt), max)), factor);
    F gradient = Load(gradientAt);
    F dropped = weight;
    if (kDropout) {
      if (key % 4 == 0) KeepFactors(p, drop, (pairs.firstKey + key) / 4, keep);
      gradient = Mul(gradient, keep[key % 4]);
      dropped = Mul(weight, keep[key % 4]);
    }
    gradient = Mul(weight, Sub(gradient, rowShift));
    if (kMasked) {
      // Select, do not multiply: 0 times NaN is NaN.
      const M masked = MaskedRows(pairs, row, key);
      dropped = Select(masked, Zero(), dropped);
      gradient = Select(masked, Zero(), gradient);
    }
    Store(weightAt, dropped);
    Store(gradientAt, gradient);
  }
}

inline void ScoreGradients(const TilePairs& pairs, int64_t b, int vector, const BackwardScratch& s) {
  const bool dropout = pairs.plan.problem.dropoutThreshold != 0;
  if (pairs.keys.partial) {
    dropout ? ScoreGradients<true, true>(pairs, b, vector, s) : ScoreGradients<true, false>(pairs, b, vector, s);
  } else {
    dropout ? ScoreGradients<false, true>(pairs, b, vector, s) : ScoreGradients<false, false>(pairs, b, vector, s);
  }
}

// Adds the products of a tile's weights and score gradients with the rows of a panel to the gradients of the tile's
// keys and values.
inline void AddKeyGradients(const TilePairs& pairs, int64_t begin, const BackwardScratch& s) {
  const Problem& p = pairs.plan.problem;
  const int64_t groups = CeilDiv(pairs.keys.count, kMicroRows);
  const auto add = [&](const Operand& x, const float* weights, float* product) {
    const Operand finite = WithoutNotFinite(pairs.keys.partial, x, s.finite);
    AddProduct<kPanel>(groups, kMicroRows * kPanel, VectorsOf(static_cast<int>(x.channels)), x.count, weights, 1,
                       finite.rows, finite.stride, product, x.stride);
    if (finite.rows != x.rows) AddNotFinite<false>(pairs, x, weights, product, x.stride, 1);
  };
  const int64_t rowD = PackedRow(p.D);
  const int64_t rowDv = PackedRow(p.Dv);
  add({s.dOutRows, pairs.rows.count, rowDv, p.Dv}, s.weights, s.dValues + begin * rowDv);
  add({s.queryRows, pairs.rows.count, rowD, p.D}, s.dScores, s.dKeys + begin * rowD);
}

// Adds the product of a tile's score gradients with its keys to the gradients of a panel's queries.
inline void AddPanelGradients(const TilePairs& pairs, int64_t begin, const BackwardScratch& s) {
  const Problem& p = pairs.plan.problem;
  const int64_t rowD = PackedRow(p.D);
  const Operand keys = {s.keyRows + begin * rowD, pairs.keys.count, rowD, p.D};
  const Operand finite = WithoutNotFinite(pairs.keys.partial, keys, s.finite);
  AddProduct<1>(CeilDiv(pairs.rows.count, kMicroRows), kMicroRows, VectorsOf(static_cast<int>(p.D)), keys.count,
                s.dScores, kPanel, finite.rows, finite.stride, s.dQueries, rowD);
  if (finite.rows != keys.rows) AddNotFinite<true>(pairs, keys, s.dScores, s.dQueries, rowD, 1);
}

// One tile of one panel: five products.
inline void BackwardTile(const BackwardPlan& plan, int64_t b, const PanelRows& rows, const Chunk& chunk,
                         const LiveTile& tile, const BackwardScratch& s) {
  const Problem& p = plan.problem;
  TileKeys keys;
  ReadTile(plan.mask, rows.maskHead, rows.firstRow, rows.endRow, tile, &keys);
  if (keys.count == 0) return;
  const int64_t firstKey = tile.index * kKeyTile + keys.begin;
  const int64_t begin = firstKey - chunk.firstTile * kKeyTile;
  const int64_t groups = CeilDiv(keys.count, kMicroRows);
  const int vectors = VectorsOf(rows.count);
  const int64_t rowD = PackedRow(p.D);
  if (HasFewRows(plan)) {
    // Adds in the order of the forward pass: the weights of a row add up to 1 only if its scores are the same.
    FewRowsScores(p, rows.count, s.queryRows, s.keyRows + begin * rowD, rowD, keys.count, s.weights);
  } else {
    Scores<false>(groups, vectors, p.D, s.keys + begin * p.D, s.queries, p.scale, s.weights, nullptr);
  }
  Scores<false>(groups, vectors, p.Dv, s.values + begin * p.Dv, s.dOuts, 1.0f, s.dScores, nullptr);
  const TilePairs pairs = {plan, rows, keys, firstKey};
  for (int v = 0; v < vectors; ++v) ScoreGradients(pairs, b, v, s);
  AddKeyGradients(pairs, begin, s);
  AddPanelGradients(pairs, begin, s);
}

inline uint8_t* HasPart(const BackwardPlan& plan, int64_t split, int64_t b, int64_t keyHead, int64_t panel) {
  const Problem& p = plan.problem;
  return plan.hasPart + ((split * p.B + b) * p.Hkv + keyHead) * plan.panels.count + panel;
}

// The address of the dq of a panel's row: in the output, or in the partial output of a key split.
inline float* QueryGradient(const BackwardPlan& plan, int64_t split, int64_t b, const PanelRows& rows, int i) {
  float* dq = split == 0 ? plan.tensors.dq : plan.dqPartials + (split - 1) * plan.problem.B * plan.q.batch;
  return dq + b * plan.q.batch + rows.head[i] * plan.q.head + rows.row[i] * plan.q.row;
}

// Adds a panel's dq from one chunk to the dq of its key split.
inline void AddQueryGradients(const BackwardPlan& plan, const BackwardItem& item, const PanelRows& rows,
                              uint8_t* hasPart, const BackwardScratch& s) {
  const Problem& p = plan.problem;
  for (int i = 0; i < rows.count; ++i) {
    float* to = QueryGradient(plan, item.keySplit, item.b, rows, i);
    const float* from = s.dQueries + i * PackedRow(p.D);
    if (*hasPart) {
      for (int64_t c = 0; c < p.D; ++c) to[c] += from[c] * p.scale;
    } else {
      for (int64_t c = 0; c < p.D; ++c) to[c] = from[c] * p.scale;
    }
  }
  *hasPart = 1;
}

// Adds up the partial dq of one panel, always in the same order.
void RunAddParts(const BackwardPlan& plan, int64_t index, int thread) {
  (void)thread;
  const Problem& p = plan.problem;
  const int64_t panel = index % plan.panels.count;
  const int64_t b = index / plan.panels.count / p.Hkv;
  const int64_t keyHead = index / plan.panels.count % p.Hkv;
  PanelRows rows;
  ListRows(plan, b, keyHead, panel, &rows);
  for (int i = 0; i < rows.count; ++i) {
    float* dq = QueryGradient(plan, 0, b, rows, i);
    if (!*HasPart(plan, 0, b, keyHead, panel)) __builtin_memset(dq, 0, static_cast<size_t>(p.D) * sizeof(float));
    for (int64_t split = 1; split < plan.keySplits; ++split) {
      if (!*HasPart(plan, split, b, keyHead, panel)) continue;
      const float* part = QueryGradient(plan, split, b, rows, i);
      for (int64_t c = 0; c < p.D; ++c) dq[c] += part[c];
    }
  }
}

// All live tiles of one panel in a chunk.
inline void BackwardPanel(const BackwardPlan& plan, const BackwardItem& item, int64_t panel, const Chunk& chunk,
                          const BackwardScratch& s) {
  PanelRows rows;
  ListRows(plan, item.b, item.keyHead, panel, &rows);
  const auto next = [&](int64_t from) {
    return NextLiveTile(plan.mask, rows.maskHead, rows.firstRow, rows.endRow, from, chunk.endTile);
  };
  LiveTile tile = next(chunk.firstTile);
  if (tile.index == chunk.endTile) return;
  BeginPanel(plan, item.b, rows, s);
  for (; tile.index < chunk.endTile; tile = next(tile.index + 1)) BackwardTile(plan, item.b, rows, chunk, tile, s);
  AddQueryGradients(plan, item, rows, HasPart(plan, item.keySplit, item.b, item.keyHead, panel), s);
}

void RunBackward(const BackwardPlan& plan, int64_t index, int thread) {
  const BackwardItem item = BackwardItemAt(plan, index);
  const BackwardScratch scratch = BackwardScratchOf(plan, thread);
  const int64_t firstTile = item.keySplit * plan.tilesPerSplit;
  const int64_t endTile = Least(firstTile + plan.tilesPerSplit, plan.tiles);
  const int64_t firstPanel = item.panelSplit * plan.panelsPerSplit;
  const int64_t endPanel = Least(firstPanel + plan.panelsPerSplit, plan.panels.count);
  for (int64_t panel = firstPanel; panel < endPanel; ++panel)
    *HasPart(plan, item.keySplit, item.b, item.keyHead, panel) = 0;
  for (int64_t tile = firstTile; tile < endTile; tile += plan.chunkTiles) {
    const Chunk chunk = BeginChunk(plan, item, tile, endTile, scratch);
    for (int64_t panel = firstPanel; panel < endPanel; ++panel) {
      BackwardPanel(plan, item, panel, chunk, scratch);
    }
    WriteKeyGradients(plan, item, chunk, scratch);
  }
}

// Row shifts, rowsum(dO * out) - dLse, of the rows of one panel.
void RunRowShift(const BackwardPlan& plan, int64_t index, int thread) {
  (void)thread;
  const Problem& p = plan.problem;
  const int64_t head = index / plan.panels.count;
  const int64_t b = head / p.Hkv;
  PanelRows rows;
  ListRows(plan, b, head % p.Hkv, index % plan.panels.count, &rows);
  for (int i = 0; i < rows.count; ++i) {
    const int64_t offset = b * plan.out.batch + rows.head[i] * plan.out.head + rows.row[i] * plan.out.row;
    const float* dOut = plan.tensors.dOut + offset;
    const float* out = plan.tensors.out + offset;
    F sums = Zero();
    int64_t c = 0;
    for (; c + kLanes <= p.Dv; c += kLanes) sums = Fma(Load(dOut + c), Load(out + c), sums);
    float lanes[kLanes];
    Store(lanes, sums);
    float delta = 0.0f;
    for (int lane = 0; lane < kLanes; ++lane) delta += lanes[lane];
    for (; c < p.Dv; ++c) delta += dOut[c] * out[c];
    const int64_t at = (b * p.H + rows.head[i]) * p.Sq + rows.row[i];
    plan.rowShift[at] = plan.tensors.dLse == nullptr ? delta : delta - plan.tensors.dLse[at];
  }
}
