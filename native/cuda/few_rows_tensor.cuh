// The products of few rows on tensor cores, for precisions that may round to the eleven bits of TF32.
#pragma once

#include "few_rows_tile.cuh"

namespace flashmask::cuda {

// Whether a number is finite once it is rounded.
__device__ inline bool IsFinite(float x) { return fabsf(__uint_as_float(RoundToTf32(x))) < kInfinity; }

// The output of a quarter of the channels, for all rows and keys, by each warp. What is summed over may come in any
// order that both operands share, and so may columns: lanes read neighbouring channels.
template <class Tile_>
struct TensorProducts {
  using Tile = Tile_;
  using KeySwizzle = Swizzle<1, 16>;
  using ValueSwizzle = Swizzle<3, 8>;
  static constexpr int kRowBlocks = Tile::kRows / 16;
  static_assert(Tile::kRows % 16 == 0);
  static constexpr int kWarpChannels = Tile::kD / Tile::kWarps;
  static constexpr int kBlocks = kWarpChannels / 8;       // of 8 channels
  static constexpr int kRun = kBlocks < 4 ? kBlocks : 4;  // neighbouring channels of a lane
  static constexpr int kRuns = kBlocks / kRun;

  float out[kRowBlocks][kBlocks][4] = {};

  __device__ static int Group() { return threadIdx.x % kWarp / 4; }
  __device__ static int Member() { return threadIdx.x % 4; }
  __device__ static int Warp() { return threadIdx.x / kWarp; }

  // The row of element i of a lane's accumulators.
  __device__ static int Row(int rowBlock, int i) { return rowBlock * 16 + Group() + i / 2 * 8; }

  // The channel of column `column` of a block.
  __device__ static int Channel(int block, int column) {
    return Warp() * kWarpChannels + block / kRun * (8 * kRun) + column * kRun + block % kRun;
  }

  __device__ static float Query(float x) { return __uint_as_float(RoundToTf32(x)); }

  // The products of all rows with the keys of a tile: [keys, rows].
  __device__ static void Scores(float* scores, const float* keys, const float* queries) {
    for (int key0 = Warp() * 8; key0 < Tile::kKeys; key0 += Tile::kWarps * 8) {
      float sums[kRowBlocks][4] = {};
#pragma unroll 4
      for (int channel0 = 0; channel0 < Tile::kD; channel0 += 16) {
        // Rows and keys of a lane have the same parity, and so the same swizzle.
        const int channel = (channel0 + Member() * 4) ^ KeySwizzle::Of(Group());
        const float4 k = ReadQuad(keys + (key0 + Group()) * Tile::kD + channel);
        const uint32_t b[4] = {RoundToTf32(k.x), RoundToTf32(k.y), RoundToTf32(k.z), RoundToTf32(k.w)};
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m) {
          const uint4 upper = *reinterpret_cast<const uint4*>(queries + Row(m, 0) * Tile::kD + channel);
          const uint4 lower = *reinterpret_cast<const uint4*>(queries + Row(m, 2) * Tile::kD + channel);
          MmaTf32(sums[m], {upper.x, lower.x, upper.y, lower.y}, b[0], b[1]);
          MmaTf32(sums[m], {upper.z, lower.z, upper.w, lower.w}, b[2], b[3]);
        }
      }
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[(key0 + Member() * 2 + i % 2) * Tile::kScoreStride + Row(m, i)] = sums[m][i];
        }
      }
    }
  }

  __device__ void Rescale(const float* factors) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
      const float ofRows[2] = {factors[Row(m, 0)], factors[Row(m, 2)]};
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][n][i] *= ofRows[i / 2];
      }
    }
  }

  // Adds the values of a tile, times the weights. In a partial tile, values that are not finite are zeros in the
  // products, and are added afterwards to the rows that see them.
  template <bool kPartial>
  __device__ void Add(const float* values, const float* weights) {
    bool finite = true;
#pragma unroll 2
    for (int key0 = 0; key0 < Tile::kKeys; key0 += 8) {
      const int keys[2] = {key0 + Member(), key0 + Member() + 4};
      uint32_t v[2][kBlocks];
#pragma unroll
      for (int i = 0; i < 2; ++i) finite &= ReadValues<kPartial>(v[i], values, keys[i]);
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = Weight<kPartial>(weights, keys[i / 2], Row(m, i % 2 * 2));
#pragma unroll
        for (int n = 0; n < kBlocks; ++n) MmaTf32(out[m][n], w, v[0][n], v[1][n]);
      }
    }
    if constexpr (kPartial) {
      if (__any_sync(~0u, !finite)) AddNotFinite(values, weights);
    }
  }

  template <bool kPartial>
  __device__ static uint32_t Weight(const float* weights, int key, int row) {
    const float weight = weights[key * Tile::kScoreStride + row];
    return RoundToTf32(kPartial && weight < 0 ? 0.f : weight);
  }

  // Reads a lane's values of a key. Gives whether all are finite; others become zeros in a partial tile.
  template <bool kPartial>
  __device__ static bool ReadValues(uint32_t (&to)[kBlocks], const float* values, int key) {
    bool finite = true;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const float* from = values + key * Tile::kD + (Channel(run * kRun, Group()) ^ ValueSwizzle::Of(key));
      float x[4];
      if constexpr (kRun == 4) {
        const float4 four = ReadQuad(from);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
      } else {
        const float2 two = *reinterpret_cast<const float2*>(from);
        x[0] = two.x, x[1] = two.y;
      }
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const bool isFinite = IsFinite(x[i]);
        finite &= isFinite;
        to[run * kRun + i] = kPartial && !isFinite ? 0 : RoundToTf32(x[i]);
      }
    }
    return finite;
  }

  __device__ void AddNotFinite(const float* values, const float* weights) {
#pragma unroll 1
    for (int key = 0; key < Tile::kKeys; ++key) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float value = values[key * Tile::kD + (Channel(n, Member() * 2 + e) ^ ValueSwizzle::Of(key))];
          if (IsFinite(value)) continue;
#pragma unroll
          for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
            for (int i = e; i < 4; i += 2) {
              const float weight = weights[key * Tile::kScoreStride + Row(m, i)];
              if (!(weight < 0)) out[m][n][i] += weight * value;
            }
          }
        }
      }
    }
  }

  __device__ void Store(float* to, int rows, int channels, float*) const {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = Row(m, i);
          const int channel = Channel(n, Member() * 2 + i % 2);
          if (row < rows && channel < channels) to[row * channels + channel] = out[m][n][i];
        }
      }
    }
  }
};

}  // namespace flashmask::cuda
