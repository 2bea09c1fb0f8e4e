// Included in the anonymous namespace of an instruction set. Copies rows, transposed or not.

using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));

#if defined(__clang__)
#define FLASHMASK_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define FLASHMASK_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, Int4{i, j, k, l})
#endif

inline Float4 Load4(const float* from) {
  Float4 a;
  __builtin_memcpy(&a, from, sizeof a);
  return a;
}

inline void Store4(float* to, Float4 a) { __builtin_memcpy(to, &a, sizeof a); }

inline void Transpose4(Float4* a, Float4* b, Float4* c, Float4* d) {
  const Float4 ab0 = FLASHMASK_SHUFFLE(*a, *b, 0, 4, 1, 5);
  const Float4 ab1 = FLASHMASK_SHUFFLE(*a, *b, 2, 6, 3, 7);
  const Float4 cd0 = FLASHMASK_SHUFFLE(*c, *d, 0, 4, 1, 5);
  const Float4 cd1 = FLASHMASK_SHUFFLE(*c, *d, 2, 6, 3, 7);
  *a = FLASHMASK_SHUFFLE(ab0, cd0, 0, 1, 4, 5);
  *b = FLASHMASK_SHUFFLE(ab0, cd0, 2, 3, 6, 7);
  *c = FLASHMASK_SHUFFLE(ab1, cd1, 0, 1, 4, 5);
  *d = FLASHMASK_SHUFFLE(ab1, cd1, 2, 3, 6, 7);
}

// Rows that do not exist are read from here.
alignas(64) const float kZeros[kMaxHeadSize] = {0};

// to[c * stride + r] = rows[r][c]; the number of rows is a multiple of 4.
inline void PackColumns(const float* const* rows, int count, int64_t channels, float* to, int64_t stride) {
  for (int r = 0; r < count; r += 4) {
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      Float4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = Load4(rows[r + i] + c);
      Transpose4(&x[0], &x[1], &x[2], &x[3]);
      for (int i = 0; i < 4; ++i) Store4(to + (c + i) * stride + r, x[i]);
    }
    for (; c < channels; ++c) {
      for (int i = 0; i < 4; ++i) to[c * stride + r + i] = rows[r + i][c];
    }
  }
}

// rows[r][c] = from[c * stride + r]
inline void UnpackColumns(const float* from, int64_t stride, int64_t channels, float* const* rows, int count) {
  for (int r = 0; r < count; r += 4) {
    const int here = count - r < 4 ? count - r : 4;
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      Float4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = Load4(from + (c + i) * stride + r);
      Transpose4(&x[0], &x[1], &x[2], &x[3]);
      for (int i = 0; i < here; ++i) Store4(rows[r + i] + c, x[i]);
    }
    for (; c < channels; ++c) {
      for (int i = 0; i < here; ++i) rows[r + i][c] = from[c * stride + r + i];
    }
  }
}

// Copies rows to rows `stride` floats apart, with zeros after their channels.
inline void PackRows(const float* const* rows, int64_t count, int64_t channels, float* to, int64_t stride) {
  for (int64_t r = 0; r < count; ++r) {
    __builtin_memcpy(to + r * stride, rows[r], static_cast<size_t>(channels) * sizeof(float));
    for (int64_t c = channels; c < stride; ++c) to[r * stride + c] = 0.0f;
  }
}

// Packs groups of kMicroRows rows, each as [channels, kMicroRows], for the rows of a micro-kernel. Zeros fill up the
// last group.
inline void PackGroups(const float* from, int64_t stride, int64_t count, int64_t channels, float* to) {
  for (int64_t group = 0; group * kMicroRows < count; ++group) {
    const float* rows[kMicroRows];
    for (int64_t i = 0; i < kMicroRows; ++i) {
      const int64_t r = group * kMicroRows + i;
      rows[i] = r < count ? from + r * stride : kZeros;
    }
    PackColumns(rows, kMicroRows, channels, to + group * channels * kMicroRows, kMicroRows);
  }
}
