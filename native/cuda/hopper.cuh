// Hopper's own instructions (sm_90a): barriers in shared memory, bulk copies of tiles, and products by a warpgroup.
#pragma once

#include <cuda.h>

#include "primitives.cuh"

namespace flashmask::cuda {

constexpr int kWarpgroup = 128;

// Only this code has the instructions. The other kernels of the file are compiled for every architecture.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif

// ---- Barriers. Each has a parity that flips when all arrivals and all expected bytes are there. ----

__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ inline void FenceBarrierInit() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Whether this is the lane that acts for its warp.
__device__ inline bool IsFirstLane() { return threadIdx.x % kWarp == 0; }

// Arrives once for a warp, when all its lanes have come here.
__device__ inline void ArriveAsWarp(uint32_t barrier) {
  __syncwarp();
  if (IsFirstLane()) Arrive(barrier);
}

__device__ inline void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void WaitParity(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Waits with all lanes of a warp. Without this, one lane could go round the ring before another has seen the phase, for
// which that one would then wait for ever.
__device__ inline void WaitAsWarp(uint32_t barrier, uint32_t parity) {
  WaitParity(barrier, parity);
  __syncwarp();
}

// Waits for kThreads threads at barrier `id` of the thread block. 0 is that of __syncthreads().
template <int kThreads>
__device__ inline void SyncThreads(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

// Orders ordinary accesses to shared memory before those of bulk copies and products.
__device__ inline void FenceAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

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

// ---- Bulk copies. One thread starts them; they arrive at a barrier. ----

// Copies the box of a tensor map that begins at these coordinates. What lies outside of the tensor becomes zeros.
__device__ inline void CopyBox(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int channel, int row,
                               int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(channel), "r"(row), "r"(head), "r"(batch)
      : "memory");
}

// The same for several thread blocks of a cluster, one bit of `blocks` each: to the same place of each, and with a
// barrier at the same place.
__device__ inline void CopyBox(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int channel, int row,
                               int head, int batch, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
      "%4, %5, %6}], [%2], %7;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(channel), "r"(row), "r"(head), "r"(batch), "h"(blocks)
      : "memory");
}

// Copies the pages of a tile of kRows rows from `row` on. The last parameter, if given, is that of CopyBox.
template <int kD, int kRows, class... Blocks>
__device__ inline void CopyPages(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int row, int head,
                                 int batch, Blocks... blocks) {
  for (int page = 0; page < (kD + 63) / 64; ++page) {
    CopyBox(shared + page * kRows * kPageRowBytes, map, barrier, page * 64, row, head, batch, blocks...);
  }
}

__device__ inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier,
                                uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}

// Adds a tile of floats in shared memory to a tensor in memory. Rows and channels outside of the tensor are left out.
__device__ inline void AddBox(const CUtensorMap* map, uint32_t shared, int channel, int row, int head, int batch) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(shared), "r"(channel), "r"(row), "r"(head), "r"(batch)
      : "memory");
}

// ---- Registers ----

// Whether a thread block has so many registers for those of its threads that compute and for those that load. It has
// what it is started with: equal numbers for all threads, in steps of 8. If it had fewer, it would wait for ever.
constexpr bool CanExchange(int threads, int computing, int computeRegisters, int loadRegisters) {
  return computing * computeRegisters + (threads - computing) * loadRegisters <= 65536 / threads / 8 * 8 * threads;
}

template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
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

// Begins products: the registers of accumulators and left operands are as the threads have written them.
__device__ inline void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending groups of products are unfinished.
template <int kPending>
__device__ inline void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving accesses to accumulators across this point.
template <int kN>
__device__ inline void Pin(float (&acc)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    asm volatile("" : "+f"(acc[n][0]), "+f"(acc[n][1]), "+f"(acc[n][2]), "+f"(acc[n][3])::"memory");
  }
}

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

#define FLASHMASK_ACC(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define FLASHMASK_ACC4(n) FLASHMASK_ACC(n), FLASHMASK_ACC(n + 1), FLASHMASK_ACC(n + 2), FLASHMASK_ACC(n + 3)
#define FLASHMASK_ACC8 FLASHMASK_ACC4(0), FLASHMASK_ACC4(4)
#define FLASHMASK_ACC12 FLASHMASK_ACC8, FLASHMASK_ACC4(8)
#define FLASHMASK_ACC16 FLASHMASK_ACC12, FLASHMASK_ACC4(12)
#define FLASHMASK_NUMBERS16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FLASHMASK_NUMBERS32 \
  FLASHMASK_NUMBERS16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FLASHMASK_NUMBERS48 \
  FLASHMASK_NUMBERS32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FLASHMASK_NUMBERS64 \
  FLASHMASK_NUMBERS48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// acc[64 x kN] (+)= A B over 16 channels, with A in shared memory. kColumns: B is summed over its rows; kColumnsA: so
// is A. The last five parameters of the macro are the numbers of the operands.
#define FLASHMASK_PRODUCT_OF_SHARED(kType, kName, kN, kAcc, kNumbers, kA, kB, kAdd, kOfB, kOfA)                 \
  template <bool kColumns, bool kColumnsA = false>                                                              \
  __device__ inline void Product16(float (&c)[kN / 8][4], uint64_t a, uint64_t b, bool add, kType) {            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #kAdd ", 0;\nwgmma.mma_async.sync.aligned.m64n" #kN       \
                 "k16.f32." kName "." kName " {" kNumbers "}, %" #kA ", %" #kB ", p, 1, 1, %" #kOfA ", %" #kOfB \
                 ";\n}\n"                                                                                       \
                 : kAcc                                                                                         \
                 : "l"(a), "l"(b), "r"(int{add}), "n"(int{kColumns}), "n"(int{kColumnsA}));                     \
  }

// The same with A in registers. The last parameters of the macro are the numbers of the operands.
#define FLASHMASK_PRODUCT_OF_REGISTERS(kType, kName, kN, kAcc, kNumbers, kA0, kA1, kA2, kA3, kB, kAdd, kOfB)       \
  template <bool kColumns>                                                                                         \
  __device__ inline void Product16(float (&c)[kN / 8][4], const uint32_t (&a)[4], uint64_t b, bool add, kType) {   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #kAdd ", 0;\nwgmma.mma_async.sync.aligned.m64n" #kN          \
                 "k16.f32." kName "." kName " {" kNumbers "}, {%" #kA0 ", %" #kA1 ", %" #kA2 ", %" #kA3 "}, %" #kB \
                 ", p, 1, 1, %" #kOfB ";\n}\n"                                                                     \
                 : kAcc                                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{add}), "n"(int{kColumns}));         \
  }

#define FLASHMASK_PRODUCTS(kType, kName)                                                                             \
  FLASHMASK_PRODUCT_OF_SHARED(kType, kName, 32, FLASHMASK_ACC4(0), FLASHMASK_NUMBERS16, 16, 17, 18, 19, 20)          \
  FLASHMASK_PRODUCT_OF_SHARED(kType, kName, 64, FLASHMASK_ACC8, FLASHMASK_NUMBERS32, 32, 33, 34, 35, 36)             \
  FLASHMASK_PRODUCT_OF_SHARED(kType, kName, 128, FLASHMASK_ACC16, FLASHMASK_NUMBERS64, 64, 65, 66, 67, 68)           \
  FLASHMASK_PRODUCT_OF_REGISTERS(kType, kName, 64, FLASHMASK_ACC8, FLASHMASK_NUMBERS32, 32, 33, 34, 35, 36, 37, 38)  \
  FLASHMASK_PRODUCT_OF_REGISTERS(kType, kName, 96, FLASHMASK_ACC12, FLASHMASK_NUMBERS48, 48, 49, 50, 51, 52, 53, 54) \
  FLASHMASK_PRODUCT_OF_REGISTERS(kType, kName, 128, FLASHMASK_ACC16, FLASHMASK_NUMBERS64, 64, 65, 66, 67, 68, 69, 70)

FLASHMASK_PRODUCTS(__half, "f16")
FLASHMASK_PRODUCTS(__nv_bfloat16, "bf16")

#undef FLASHMASK_PRODUCTS
#undef FLASHMASK_PRODUCT_OF_REGISTERS
#undef FLASHMASK_PRODUCT_OF_SHARED
#undef FLASHMASK_NUMBERS64
#undef FLASHMASK_NUMBERS48
#undef FLASHMASK_NUMBERS32
#undef FLASHMASK_NUMBERS16
#undef FLASHMASK_ACC16
#undef FLASHMASK_ACC12
#undef FLASHMASK_ACC8
#undef FLASHMASK_ACC4
#undef FLASHMASK_ACC

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

// Lets one warp of the last warpgroup load, and the warpgroups before compute.
template <class Tile, class Load, class Compute>
__device__ inline void RunRoles(Load load, Compute compute) {
  if (threadIdx.x >= Tile::kComputing) {
    GiveRegisters<Tile::kLoadRegisters>();
    if (threadIdx.x < Tile::kComputing + kWarp) load();
  } else {
    TakeRegisters<Tile::kComputeRegisters>();
    compute();
  }
}

}  // namespace flashmask::cuda
