// The products of few rows in float32, without tensor cores.
#pragma once

#include "few_rows_tile.cuh"

namespace flashmask::cuda {

// Adds up kCount groups of sums over 2 kLanes lanes. The lanes share the groups out, so that few are exchanged: of
// kGroups groups, lane t of the kParts lanes of a key gets those from t * kGroups / kParts on.
template <int kLanes, int kCount, int kGroups>
__device__ inline void SumParts(float (&x)[kGroups][4]) {
  constexpr int kOwn = kCount > 1 ? kCount / 2 : 1;
  constexpr int kStep = kCount > 1 ? kOwn : 0;  // to the groups of the other half of the lanes
  const bool upper = threadIdx.x & kLanes;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float own = upper ? x[i + kStep][e] : x[i][e];
      const float other = upper ? x[i][e] : x[i + kStep][e];
      x[i][e] = own + __shfl_xor_sync(~0u, other, kLanes);
    }
  }
  if constexpr (kLanes > 1) SumParts<kLanes / 2, kOwn>(x);
}

// The output of a thread's four channels, for all rows and every kKeyLanes-th key.
template <class Tile_>
struct FloatProducts {
  using Tile = Tile_;
  using KeySwizzle = Swizzle<0, 0>;
  using ValueSwizzle = Swizzle<0, 0>;
  static constexpr int kParts = 8;                              // lanes that share the products of a key
  static constexpr int kScoreLanes = Tile::kThreads / kParts;   // keys whose scores are computed at a time
  static constexpr int kScoreKeys = Tile::kKeys / kScoreLanes;  // keys of a lane
  static constexpr int kQuads = Tile::kRows / 4;
  static_assert(Tile::kKeyLanes * Tile::kRows * Tile::kD <= Tile::kQueriesAt,
                "the sums of all lanes fit the memory of keys and values");

  float out[Tile::kRows][4] = {};

  __device__ static float Query(float x) { return x; }

  // The products of all rows with the keys of a tile: [keys, rows].
  __device__ static void Scores(float* scores, const float* keys, const float* queries) {
    constexpr int kGroups = kScoreKeys * kQuads;
    const int part = threadIdx.x % kParts;
    const int key = threadIdx.x / kParts;
    float sums[kGroups][4] = {};
#pragma unroll 2
    for (int channel = part * 4; channel < Tile::kD; channel += kParts * 4) {
      float4 k[kScoreKeys];
#pragma unroll
      for (int i = 0; i < kScoreKeys; ++i) k[i] = ReadQuad(keys + (key + i * kScoreLanes) * Tile::kD + channel);
#pragma unroll
      for (int row = 0; row < Tile::kRows; ++row) {
        const float4 q = ReadQuad(queries + row * Tile::kD + channel);
#pragma unroll
        for (int i = 0; i < kScoreKeys; ++i) {
          float& sum = sums[i * kQuads + row / 4][row % 4];
          sum = fmaf(q.w, k[i].w, fmaf(q.z, k[i].z, fmaf(q.y, k[i].y, fmaf(q.x, k[i].x, sum))));
        }
      }
    }
    SumParts<kParts / 2, kGroups>(sums);
    if constexpr (kGroups < kParts) {
      if (part % (kParts / kGroups) != 0) return;  // other lanes have the same sums
    }
#pragma unroll
    for (int i = 0; i < (kGroups + kParts - 1) / kParts; ++i) {
      const int group = part * kGroups / kParts + i;
      const int own = key + group / kQuads * kScoreLanes;
      WriteQuad(scores + own * Tile::kScoreStride + group % kQuads * 4, sums[i]);
    }
  }

  __device__ void Rescale(const float* factors) {
#pragma unroll
    for (int row = 0; row < Tile::kRows; ++row) {
      const float factor = factors[row];
#pragma unroll
      for (int e = 0; e < 4; ++e) out[row][e] *= factor;
    }
  }

  // Adds the values of a tile, times the weights, to a thread's four channels of all rows. Hidden values may be NaN.
  template <bool kPartial>
  __device__ void Add(const float* values, const float* weights) {
    const int lane = threadIdx.x / Tile::kChunks;
#pragma unroll
    for (int i = 0; i < Tile::kKeys / Tile::kKeyLanes; ++i) {
      const float4 quad = ReadQuad(values + (i * Tile::kThreads + threadIdx.x) * 4);
      const float v[4] = {quad.x, quad.y, quad.z, quad.w};
      const float* ofKey = weights + (lane + i * Tile::kKeyLanes) * Tile::kScoreStride;
#pragma unroll
      for (int row = 0; row < Tile::kRows; row += 4) {
        const float4 four = ReadQuad(ofKey + row);
        const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float& sum = out[row + r][e];
            sum = kPartial && w[r] < 0 ? sum : fmaf(w[r], v[e], sum);
          }
        }
      }
    }
  }

  // Adds up the output of all lanes, and stores it. No thread may still read keys or values, which are in `shared`.
  __device__ void Store(float* to, int rows, int channels, float* shared) const {
    constexpr int kLaneFloats = Tile::kRows * Tile::kD;
    const int chunk = threadIdx.x % Tile::kChunks;
    const int lane = threadIdx.x / Tile::kChunks;
#pragma unroll
    for (int row = 0; row < Tile::kRows; ++row) {
      WriteQuad(shared + lane * kLaneFloats + row * Tile::kD + chunk * 4, out[row]);
    }
    __syncthreads();
    for (int row = lane; row < rows; row += Tile::kKeyLanes) {
      float sum[4] = {};
#pragma unroll
      for (int i = 0; i < Tile::kKeyLanes; ++i) {
        const float4 x = ReadQuad(shared + i * kLaneFloats + row * Tile::kD + chunk * 4);
        sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
      }
      if (chunk * 4 < channels) WriteQuad(to + row * channels + chunk * 4, sum);
    }
  }
};

}  // namespace flashmask::cuda
