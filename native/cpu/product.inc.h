// Included in the anonymous namespace of an instruction set. Matrix products of kMicroRows rows by up to three vectors
// of columns, whose sums stay in registers. The left factor is read number by number, the right one as vectors.

// A number as a type, so that a lambda is compiled for each number.
template <int kValue>
struct Number {
  static constexpr int value = kValue;
};

// Calls f(Number<width>, first) for pieces of at most kMaxVectors vectors and similar width.
template <typename Function>
inline void ForPieces(int vectors, Function f) {
  int first = 0;
  for (int pieces = (vectors + kMaxVectors - 1) / kMaxVectors; pieces > 0; --pieces) {
    const int width = (vectors - first + pieces - 1) / pieces;
    if (width == 1) f(Number<1>(), first);
    if (width == 2) f(Number<2>(), first);
    if (width == 3) f(Number<3>(), first);
    first += width;
  }
}

// Adds the product of kMicroRows rows by kWidth vectors to `sums`. Row m of the left factor begins kRowStep floats
// after row m - 1; its elements are `step` apart.
template <int kWidth, int kRowStep>
inline __attribute__((always_inline)) void MultiplyAdd(int64_t length, const float* left, int64_t step,
                                                       const float* right, int64_t rightStride,
                                                       F sums[kMicroRows][kWidth]) {
  for (int64_t i = 0; i < length; ++i) {
    F b[kWidth];
    for (int v = 0; v < kWidth; ++v) b[v] = Load(right + v * kLanes);
    for (int m = 0; m < kMicroRows; ++m) {
      const F a = Set(left[m * kRowStep]);
      for (int v = 0; v < kWidth; ++v) sums[m][v] = Fma(a, b[v], sums[m][v]);
    }
    left += step;
    right += rightStride;
  }
}

// product[m, n] += sum over i of left(m, i) right[i, n], for groups of kMicroRows rows m.
template <int kRowStep>
inline void AddProduct(int64_t groups, int64_t groupStep, int vectors, int64_t length, const float* left, int64_t step,
                       const float* right, int64_t rightStride, float* product, int64_t stride) {
  ForPieces(vectors, [=](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    for (int64_t group = 0; group < groups; ++group) {
      float* to = product + group * kMicroRows * stride + first * kLanes;
      F sums[kMicroRows][kWidth];
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kWidth; ++v) sums[m][v] = Load(to + m * stride + v * kLanes);
      }
      MultiplyAdd<kWidth, kRowStep>(length, left + group * groupStep, step, right + first * kLanes, rightStride, sums);
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kWidth; ++v) Store(to + m * stride + v * kLanes, sums[m][v]);
      }
    }
  });
}

template <int kWidth>
inline __attribute__((always_inline)) void SetZero(F sums[kMicroRows][kWidth]) {
  for (int m = 0; m < kMicroRows; ++m) {
    for (int v = 0; v < kWidth; ++v) sums[m][v] = Zero();
  }
}

// One micro-kernel of scores. Without fused multiply-adds each product is rounded, so two sums over half of the
// channels each make up for it.
template <int kWidth>
inline __attribute__((always_inline)) void ScoreSums(int64_t channels, const float* keys, const float* rows,
                                                     F sums[kMicroRows][kWidth]) {
  SetZero<kWidth>(sums);
  if (kFused) return MultiplyAdd<kWidth, 1>(channels, keys, kMicroRows, rows, kPanel, sums);
  const int64_t half = channels / 2;
  F others[kMicroRows][kWidth];
  SetZero<kWidth>(others);
  MultiplyAdd<kWidth, 1>(half, keys, kMicroRows, rows, kPanel, others);
  MultiplyAdd<kWidth, 1>(channels - half, keys + half * kMicroRows, kMicroRows, rows + half * kPanel, kPanel, sums);
  for (int m = 0; m < kMicroRows; ++m) {
    for (int v = 0; v < kWidth; ++v) sums[m][v] = Add(sums[m][v], others[m][v]);
  }
}

// product[key, row] = factor * keys · rows, summed over `channels`. Keys are packed by PackGroups, rows are [channels,
// kPanel]. With kMax, also raises max[row] to the largest product.
template <bool kMax>
inline void Scores(int64_t groups, int vectors, int64_t channels, const float* keys, const float* rows, float factor,
                   float* product, float* max) {
  ForPieces(vectors, [=](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    const F scale = Set(factor);
    for (int64_t group = 0; group < groups; ++group) {
      F sums[kMicroRows][kWidth];
      ScoreSums<kWidth>(channels, keys + group * channels * kMicroRows, rows + first * kLanes, sums);
      float* to = product + group * kMicroRows * kPanel + first * kLanes;
      for (int v = 0; v < kWidth; ++v) {
        F largest = Set(-INFINITY);
        for (int m = 0; m < kMicroRows; ++m) {
          const F score = Mul(sums[m][v], scale);
          Store(to + m * kPanel + v * kLanes, score);
          if (kMax) largest = Max(score, largest);
        }
        float* maxAt = max + (first + v) * kLanes;
        if (kMax) Store(maxAt, Max(largest, Load(maxAt)));
      }
    }
  });
}
