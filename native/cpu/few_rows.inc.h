// Included in the anonymous namespace of an instruction set. The products of panels with few rows, as in decoding.
// Vectors hold channels of K and V in their memory order, so that K and V are not copied. Everything else is as in
// other panels.

constexpr int kFewRows = kLanes / 2 < kMaxFewRows ? kLanes / 2 : kMaxFewRows;

// Depends on the call, not on the panel: the last panel of a head may also have few rows, and its results must not
// depend on the other panels of its item.
inline bool HasFewRows(const Plan& plan) {
  const Problem& p = plan.problem;
  return (plan.panels.folded ? p.H / p.Hkv * p.Sq : p.Sq) <= kFewRows;
}

inline float* FewQuery(const Problem& p, const ForwardRows& at, int i) { return at.few + i * PackedRow(p.D); }

inline float* FewOutput(const Problem& p, const ForwardRows& at, int i) {
  return at.few + kMaxFewRows * PackedRow(p.D) + i * PackedRow(p.Dv);
}

inline void BeginFewRows(const ForwardPlan& plan, int64_t b, ForwardRows* at) {
  const Problem& p = plan.problem;
  const float* pointers[kPanel];
  RowPointers(plan.tensors.q, plan.q, b, at->rows, pointers);
  PackRows(pointers, at->rows.count, p.D, FewQuery(p, *at, 0), PackedRow(p.D));
  __builtin_memset(FewOutput(p, *at, 0), 0, sizeof(float) * static_cast<size_t>(kMaxFewRows * PackedRow(p.Dv)));
}

// Moves the outputs to the columns that other panels use.
inline void EndFewRows(const ForwardPlan& plan, const ForwardRows& at) {
  const Problem& p = plan.problem;
  for (int i = 0; i < at.rows.count; ++i) {
    for (int64_t c = 0; c < p.Dv; ++c) at.panel.out[c * kPanel + i] = FewOutput(p, at, i)[c];
  }
}

// The sum of the lanes of each of four vectors.
inline Float4 SumLanes(const F* a) {
  float lanes[4][kLanes];
  Float4 x[4];
  for (int i = 0; i < 4; ++i) {
    Store(lanes[i], a[i]);
    x[i] = Load4(lanes[i]);
    for (int lane = 4; lane < kLanes; lane += 4) x[i] += Load4(lanes[i] + lane);
  }
  Transpose4(&x[0], &x[1], &x[2], &x[3]);
  return (x[0] + x[1]) + (x[2] + x[3]);
}

// Products of one query with four keys.
inline Float4 DotProducts(const float* query, const float* const keys[4], int64_t channels) {
  F sums[4] = {Zero(), Zero(), Zero(), Zero()};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const F q = Load(query + c);
    for (int i = 0; i < 4; ++i) sums[i] = Fma(q, Load(keys[i] + c), sums[i]);
  }
  Float4 products = SumLanes(sums);
  for (; c < channels; ++c) {
    for (int i = 0; i < 4; ++i) products[i] += query[c] * keys[i][c];
  }
  return products;
}

// scores[key, row] for rows whose queries are PackedRow(D) floats apart; lanes without a row get 0.
inline void FewRowsScores(const Problem& p, int rows, const float* queries, const float* keys, int64_t stride,
                          int64_t count, float* scores) {
  for (int64_t key = 0; key < count; key += 4) {
    const float* four[4];
    for (int64_t i = 0; i < 4; ++i) {
      four[i] = keys + Least(key + i, count - 1) * stride;
      Store(scores + (key + i) * kPanel, Zero());
    }
    for (int r = 0; r < rows; ++r) {
      const Float4 products = DotProducts(queries + r * PackedRow(p.D), four, p.D);
      for (int i = 0; i < 4; ++i) scores[(key + i) * kPanel + r] = products[i] * p.scale;
    }
  }
}

// output += weights[key] values[key], for up to kWidth vectors of channels.
template <int kWidth>
inline void AddValues(const float* weights, const float* values, int64_t stride, int64_t count, float* output) {
  F sums[kWidth];
  for (int v = 0; v < kWidth; ++v) sums[v] = Load(output + v * kLanes);
  for (int64_t key = 0; key < count; ++key) {
    const F weight = Set(weights[key * kPanel]);
    for (int v = 0; v < kWidth; ++v) sums[v] = Fma(weight, Load(values + key * stride + v * kLanes), sums[v]);
  }
  for (int v = 0; v < kWidth; ++v) Store(output + v * kLanes, sums[v]);
}

inline void FewRowsOutput(const float* weights, const float* values, int64_t stride, int64_t count, int64_t channels,
                          float* output) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= channels; c += 8 * kLanes) AddValues<8>(weights, values + c, stride, count, output + c);
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) AddValues<4>(weights, values + c, stride, count, output + c);
  for (; c + kLanes <= channels; c += kLanes) AddValues<1>(weights, values + c, stride, count, output + c);
  for (; c < channels; ++c) {
    for (int64_t key = 0; key < count; ++key) output[c] += weights[key * kPanel] * values[key * stride + c];
  }
}

inline void ScaleFewRows(const Problem& p, const ForwardRows& at, F factor) {
  float factors[kLanes];
  Store(factors, factor);
  for (int r = 0; r < at.rows.count; ++r) {
    float* output = FewOutput(p, at, r);
    for (int64_t c = 0; c < p.Dv; ++c) output[c] *= factors[r];
  }
}

// One tile of one panel.
inline void FewRowsTile(const ForwardPlan& plan, const ForwardItem& item, ForwardRows* at, const LiveTile& tile,
                        const ForwardScratch& scratch) {
  const Problem& p = plan.problem;
  TileKeys keys;
  ReadTile(plan.mask, at->rows.maskHead, at->rows.firstRow, at->rows.endRow, tile, &keys);
  if (keys.count == 0) return;
  const int64_t firstKey = tile.index * kKeyTile + keys.begin;
  const TilePairs pairs = {plan, at->rows, keys, firstKey};
  const float* k = plan.tensors.k + item.b * plan.k.batch + item.keyHead * plan.k.head + firstKey * plan.k.row;
  const float* v = plan.tensors.v + item.b * plan.v.batch + item.keyHead * plan.v.head + firstKey * plan.v.row;
  float max[kPanel];
  FewRowsScores(p, at->rows.count, FewQuery(p, *at, 0), k, plan.k.row, keys.count, scratch.scores);
  if (keys.partial) {
    MaskScores(pairs, 1, scratch.scores, max);
  } else {
    LargestScores(1, keys.count, scratch.scores, max);
  }
  Softmax(*at, keys.count, scratch.scores, max, [&](int, F factor) { ScaleFewRows(p, *at, factor); });
  if (p.dropoutThreshold != 0) DropWeights(plan, item.b, *at, firstKey, keys.count, scratch.scores);
  const Operand values = {v, keys.count, plan.v.row, p.Dv};
  const Operand finite = WithoutNotFinite(keys.partial, values, scratch.finite);
  for (int r = 0; r < at->rows.count; ++r) {
    FewRowsOutput(scratch.scores + r, finite.rows, finite.stride, keys.count, p.Dv, FewOutput(p, *at, r));
  }
  if (finite.rows != v) {
    AddNotFinite<true>(pairs, values, scratch.scores, FewOutput(p, *at, 0), PackedRow(p.Dv), 1);
  }
}
