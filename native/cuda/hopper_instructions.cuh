// Hopper's own instructions (sm_90a): barriers in shared memory, bulk copies of tiles, and products by a warpgroup.
#pragma once

#ifdef FLASHMASK_EMULATOR
#include "../test/emulator/instructions.h"
#else

#include <cuda.h>

#include "instructions.cuh"

namespace flashmask::cuda {

// ---- Barriers. Each has a parity that flips when all arrivals and all expected bytes are there. ----

__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ inline void FenceBarrierInit() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
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

// Waits for kThreads threads at barrier `id` of the thread block. 0 is that of __syncthreads().
template <int kThreads>
__device__ inline void SyncThreads(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

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

__device__ inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
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

template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Products by a warpgroup ----

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

#define FLASHMASK_ACC(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define FLASHMASK_ACC4(c, n) \
  FLASHMASK_ACC(c, n), FLASHMASK_ACC(c, n + 1), FLASHMASK_ACC(c, n + 2), FLASHMASK_ACC(c, n + 3)
#define FLASHMASK_ACC32                                                                                             \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31}"
#define FLASHMASK_ACC64                                                                                             \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// acc[64 x N] (+)= A B over 16 channels, with A in shared memory or in registers. kColumns: B is summed over its rows;
// kColumnsA: so is A.
#define FLASHMASK_PRODUCTS(kType, kName)                                                                        \
  template <bool kColumns, bool kColumnsA = false>                                                              \
  __device__ inline void Product16(float (&c)[8][4], uint64_t a, uint64_t b, bool add, kType) {                 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." kName  \
                 "." kName " " FLASHMASK_ACC32 ", %32, %33, p, 1, 1, %36, %35;\n}\n"                            \
                 : FLASHMASK_ACC4(c, 0), FLASHMASK_ACC4(c, 4)                                                   \
                 : "l"(a), "l"(b), "r"(int{add}), "n"(int{kColumns}), "n"(int{kColumnsA}));                     \
  }                                                                                                             \
  template <bool kColumns, bool kColumnsA = false>                                                              \
  __device__ inline void Product16(float (&c)[16][4], uint64_t a, uint64_t b, bool add, kType) {                \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." kName \
                 "." kName " " FLASHMASK_ACC64 ", %64, %65, p, 1, 1, %68, %67;\n}\n"                            \
                 : FLASHMASK_ACC4(c, 0), FLASHMASK_ACC4(c, 4), FLASHMASK_ACC4(c, 8), FLASHMASK_ACC4(c, 12)      \
                 : "l"(a), "l"(b), "r"(int{add}), "n"(int{kColumns}), "n"(int{kColumnsA}));                     \
  }                                                                                                             \
  template <bool kColumns>                                                                                      \
  __device__ inline void Product16(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool add, kType) {     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." kName  \
                 "." kName " " FLASHMASK_ACC32 ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"                \
                 : FLASHMASK_ACC4(c, 0), FLASHMASK_ACC4(c, 4)                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{add}), "n"(int{kColumns}));      \
  }                                                                                                             \
  template <bool kColumns>                                                                                      \
  __device__ inline void Product16(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b, bool add, kType) {    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." kName \
                 "." kName " " FLASHMASK_ACC64 ", {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"                \
                 : FLASHMASK_ACC4(c, 0), FLASHMASK_ACC4(c, 4), FLASHMASK_ACC4(c, 8), FLASHMASK_ACC4(c, 12)      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{add}), "n"(int{kColumns}));      \
  }

FLASHMASK_PRODUCTS(__half, "f16")
FLASHMASK_PRODUCTS(__nv_bfloat16, "bf16")

#undef FLASHMASK_PRODUCTS
#undef FLASHMASK_ACC64
#undef FLASHMASK_ACC32
#undef FLASHMASK_ACC4
#undef FLASHMASK_ACC

}  // namespace flashmask::cuda

#endif  // FLASHMASK_EMULATOR
