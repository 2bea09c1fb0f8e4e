// What the kernels on Hopper share: rings of stages, bulk copies and products of tiles, and the roles of warpgroups.
#pragma once

#include "hopper_instructions.cuh"
#include "primitives.cuh"

namespace flashmask::cuda {

constexpr int kWarpgroup = 128;

// Only this code has the instructions. The other kernels of the file are compiled for every architecture.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif

// Whether this is the lane that acts for its warp.
__device__ inline bool IsFirstLane() { return threadIdx.x % kWarp == 0; }

// A number or address on which a warp agrees. The shuffle lets the compiler see that it does: what the number gives, as
// the descriptors of operands, is then computed once a warp, in uniform registers, and not by each thread.
template <class T>
__device__ inline T Agreed(T x) {
  return __shfl_sync(~0u, x, 0);
}

// The number of this thread's warpgroup.
__device__ inline int OwnWarpgroup() { return Agreed(static_cast<int>(threadIdx.x / kWarpgroup)); }

// Arrives once for a warp, when all its lanes have come here.
__device__ inline void ArriveAsWarp(uint32_t barrier) {
  __syncwarp();
  if (IsFirstLane()) Arrive(barrier);
}

// Waits with all lanes of a warp. Without this, one lane could go round the ring before another has seen the phase, for
// which that one would then wait for ever.
__device__ inline void WaitAsWarp(uint32_t barrier, uint32_t parity) {
  WaitParity(barrier, parity);
  __syncwarp();
}

// A place in a ring of stages, and the parity of its barriers in this round.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Copies the pages of a tile of kRows rows from `row` on. The last parameter, if given, is that of CopyBox.
template <int kD, int kRows, class... Blocks>
__device__ inline void CopyPages(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int row, int head,
                                 int batch, Blocks... blocks) {
  for (int page = 0; page < (kD + 63) / 64; ++page) {
    CopyBox(shared + page * kRows * kPageRowBytes, map, barrier, page * 64, row, head, batch, blocks...);
  }
}

// ---- Registers ----

// Whether a thread block has so many registers for those of its threads that compute and for those that load. It has
// what it is started with: equal numbers for all threads, in steps of 8. If it had fewer, it would wait for ever.
constexpr bool CanExchange(int threads, int computing, int computeRegisters, int loadRegisters) {
  return computing * computeRegisters + (threads - computing) * loadRegisters <= 65536 / threads / 8 * 8 * threads;
}

// ---- Products. An operand in shared memory is a tile of pages of 64 channels (primitives.cuh). ----

// A descriptor of an operand: rows of 128 bytes, groups of 8 rows 1,024 bytes apart.
class Descriptor {
 public:
  // Rows are summed over the channels.
  static __device__ Descriptor OfRows(uint32_t shared) { return {shared, 1 << 16}; }

  // The operand is summed over its rows. Its pages of 64 channels are kPageBytes apart.
  template <int kPageBytes>
  static __device__ Descriptor OfColumns(uint32_t shared) {
    return {shared, kPageBytes >> 4 << 16};
  }

  // The part of the operand that begins `bytes` later.
  __device__ uint64_t At(int bytes) const { return (kUpper << 32) | (lower_ + (bytes >> 4)); }

 private:
  static constexpr uint64_t kUpper = (1 << 30) | (1024 >> 4);

  __device__ Descriptor(uint32_t shared, uint32_t pages) : lower_(pages | ((shared & 0x3ffff) >> 4)) {}

  uint32_t lower_;
};

// Rounds accumulators to T, in the layout of a left operand.
template <class T, int kN>
__device__ inline void PackLeft(uint32_t (&packed)[kN / 2][4], const float (&acc)[kN][4]) {
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&block)[4] = acc[2 * k + i / 2];
      packed[k][i] = Pack<T>(block[2 * (i % 2)], block[2 * (i % 2) + 1]);
    }
  }
}

// Issues acc = A B^T, summed over kD channels: 64 rows of A, and as many of B as acc has columns. Both are tiles, of
// kRowsA and kRowsB rows.
template <class T, int kD, int kRowsA, int kRowsB, int kN>
__device__ inline void IssueTransposed(float (&acc)[kN][4], uint32_t a, uint32_t b) {
  const Descriptor left = Descriptor::OfRows(a);
  const Descriptor right = Descriptor::OfRows(b);
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    Product16<false>(acc, left.At(k / 4 * (kRowsA * kPageRowBytes) + k % 4 * 32),
                     right.At(k / 4 * (kRowsB * kPageRowBytes) + k % 4 * 32), k != 0, T());
  }
  CommitProducts();
}

// The same with A in registers, a left operand for each 16 channels.
template <class T, int kRowsB, int kSteps, int kN>
__device__ inline void IssueTransposed(float (&acc)[kN][4], const uint32_t (&left)[kSteps][4], uint32_t b) {
  const Descriptor right = Descriptor::OfRows(b);
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    Product16<false>(acc, left[k], right.At(k / 4 * (kRowsB * kPageRowBytes) + k % 4 * 32), k != 0, T());
  }
  CommitProducts();
}

// Issues acc += W B, summed over kSteps times 16 rows of B, a tile of kRowsB rows.
template <class T, int kRowsB, int kSteps, int kN>
__device__ inline void IssueFromRegisters(float (&acc)[kN][4], const uint32_t (&left)[kSteps][4], uint32_t b) {
  const Descriptor right = Descriptor::OfColumns<kRowsB * kPageRowBytes>(b);
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) Product16<true>(acc, left[k], right.At(k * 16 * kPageRowBytes), true, T());
  CommitProducts();
}

// ---- Thread blocks that stay ----

// Lets the first kHelpers warps of the last warpgroup help, and the warpgroups before compute.
template <class Tile, int kHelpers = 1, class Help, class Compute>
__device__ inline void RunRoles(Help help, Compute compute) {
  if (threadIdx.x >= Tile::kComputing) {
    GiveRegisters<Tile::kLoadRegisters>();
    if (threadIdx.x < Tile::kComputing + kHelpers * kWarp) help();
  } else {
    TakeRegisters<Tile::kComputeRegisters>();
    compute();
  }
}

}  // namespace flashmask::cuda
