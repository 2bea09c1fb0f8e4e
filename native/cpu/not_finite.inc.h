// Included in the anonymous namespace of an instruction set. Products of partial tiles whose operands have numbers that
// are not finite. The weight of a masked pair is 0, but 0 times NaN or infinity is NaN, so such numbers are multiplied
// separately and only for visible pairs.

// Rows of one operand.
struct Operand {
  const float* rows;
  int64_t count;
  int64_t stride;
  int64_t channels;
};

inline bool IsFinite(float x) { return x - x == 0.0f; }

inline bool AllFinite(const Operand& x) {
  // Only finite numbers give 0 when multiplied by 0. There are four sums, so that an addition need not wait for the one
  // before.
  F sums[4] = {Zero(), Zero(), Zero(), Zero()};
  float sum = 0.0f;
  for (int64_t r = 0; r < x.count; ++r) {
    const float* row = x.rows + r * x.stride;
    int64_t c = 0;
    for (; c + 4 * kLanes <= x.channels; c += 4 * kLanes) {
      for (int i = 0; i < 4; ++i) sums[i] = Fma(Load(row + c + i * kLanes), Zero(), sums[i]);
    }
    for (; c + kLanes <= x.channels; c += kLanes) sums[0] = Fma(Load(row + c), Zero(), sums[0]);
    for (; c < x.channels; ++c) sum += row[c] * 0.0f;
  }
  float lanes[kLanes];
  Store(lanes, Add(Add(sums[0], sums[1]), Add(sums[2], sums[3])));
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum == 0.0f;
}

// The operand, or, if it could bring numbers that are not finite to masked pairs, a copy in `memory` with zeros in
// their place.
inline Operand WithoutNotFinite(bool partial, const Operand& x, float* memory) {
  if (!partial || AllFinite(x)) return x;
  const Operand copy = {memory, x.count, PackedRow(x.channels), x.channels};
  for (int64_t r = 0; r < x.count; ++r) {
    for (int64_t c = 0; c < copy.stride; ++c) {
      const float number = c < x.channels ? x.rows[r * x.stride + c] : 0.0f;
      memory[r * copy.stride + c] = IsFinite(number) ? number : 0.0f;
    }
  }
  return copy;
}

// Adds what WithoutNotFinite left out: product[m, c] += weight(i, m) x[i, c] for visible pairs. The rows of `x` are
// keys and those of the product are query rows if kKeys, else the other way round.
template <bool kKeys>
inline void AddNotFinite(const TilePairs& pairs, const Operand& x, const float* weights, float* product, int64_t stride,
                         int64_t channelStride) {
  const int64_t others = kKeys ? pairs.rows.count : pairs.keys.count;
  for (int64_t i = 0; i < x.count; ++i) {
    const float* from = x.rows + i * x.stride;
    if (AllFinite({from, 1, x.stride, x.channels})) continue;
    for (int64_t m = 0; m < others; ++m) {
      const int64_t key = kKeys ? i : m;
      const int64_t row = kKeys ? m : i;
      if (!IsVisible(pairs, key, row)) continue;
      const float weight = weights[key * kPanel + row];
      for (int64_t c = 0; c < x.channels; ++c) {
        if (!IsFinite(from[c])) product[m * stride + c * channelStride] += weight * from[c];
      }
    }
  }
}
