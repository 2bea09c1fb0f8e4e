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

// Arrives at that barrier without waiting.
template <int kThreads>
__device__ inline void ArriveThreads(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
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

// Writes a tile in shared memory to a tensor in memory. Rows and channels outside of the tensor are left out.
__device__ inline void StoreBox(const CUtensorMap* map, uint32_t shared, int channel, int row, int head, int batch) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(shared), "r"(channel), "r"(row), "r"(head), "r"(batch)
               : "memory");
}

// Waits until all bulk additions of this thread are in memory.
__device__ inline void WaitBulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- Marks in memory order the additions of thread blocks. ----

// Tells others that all is in memory that this thread has waited for.
__device__ inline void SetMark(int* mark, int value) {
  asm volatile("fence.proxy.async.global;\nst.release.gpu.global.b32 [%0], %1;" ::"l"(mark), "r"(value) : "memory");
}

// Waits until another thread has set a mark. Additions that this one starts then come after those of the other.
__device__ inline void WaitMark(const int* mark, int value) {
  int now;
  do {
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(now) : "l"(mark) : "memory");
  } while (now != value);
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// ---- Clusters: thread blocks that reach each other's shared memory ----

// The number of this thread block in its cluster.
__device__ inline int BlockInCluster() {
  int rank;
  asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The address of the same place in the shared memory of thread block `rank`. The functions below take such addresses.
__device__ inline uint32_t InBlock(uint32_t shared, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(rank));
  return there;
}

// Waits for all threads of a cluster of kBlocks thread blocks.
template <int kBlocks>
__device__ inline void SyncCluster() {
  if constexpr (kBlocks == 1) {
    __syncthreads();
  } else {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
  }
}

// Arrivals order no other accesses of this thread for other thread blocks: that would cost a fence of the whole GPU.
__device__ inline void ArriveThere(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ inline void ArriveThereExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cluster.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Stores 16 bytes, and tells a barrier there.
__device__ inline void StoreThere(uint32_t shared, int4 value, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(shared),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
      : "memory");
}

// Copies from this thread block to another one, and tells a barrier there.
__device__ inline void CopyThere(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(from), "r"(bytes), "r"(barrier)
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

// The registers %t0 to %t9 of an instruction.
#define FLASHMASK_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define FLASHMASK_REGISTERS16 FLASHMASK_TEN() "%10, %11, %12, %13, %14, %15"
#define FLASHMASK_REGISTERS32 FLASHMASK_TEN() FLASHMASK_TEN(1) FLASHMASK_TEN(2) "%30, %31"
#define FLASHMASK_REGISTERS48 \
  FLASHMASK_TEN() FLASHMASK_TEN(1) FLASHMASK_TEN(2) FLASHMASK_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47"
#define FLASHMASK_FIFTY FLASHMASK_TEN() FLASHMASK_TEN(1) FLASHMASK_TEN(2) FLASHMASK_TEN(3) FLASHMASK_TEN(4)
#define FLASHMASK_REGISTERS64 FLASHMASK_FIFTY FLASHMASK_TEN(5) "%60, %61, %62, %63"
#define FLASHMASK_REGISTERS96 \
  FLASHMASK_FIFTY FLASHMASK_TEN(5) FLASHMASK_TEN(6) FLASHMASK_TEN(7) FLASHMASK_TEN(8) "%90, %91, %92, %93, %94, %95"
#define FLASHMASK_REGISTERS128                                                                         \
  FLASHMASK_FIFTY FLASHMASK_TEN(5) FLASHMASK_TEN(6) FLASHMASK_TEN(7) FLASHMASK_TEN(8) FLASHMASK_TEN(9) \
      FLASHMASK_TEN(10) FLASHMASK_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"

#define FLASHMASK_ACC(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define FLASHMASK_ACC4(c, n) \
  FLASHMASK_ACC(c, n), FLASHMASK_ACC(c, n + 1), FLASHMASK_ACC(c, n + 2), FLASHMASK_ACC(c, n + 3)
#define FLASHMASK_ACC8(c, n) FLASHMASK_ACC4(c, n), FLASHMASK_ACC4(c, n + 4)
#define FLASHMASK_ACC12(c, n) FLASHMASK_ACC8(c, n), FLASHMASK_ACC4(c, n + 8)
#define FLASHMASK_ACC16(c, n) FLASHMASK_ACC8(c, n), FLASHMASK_ACC8(c, n + 8)
#define FLASHMASK_ACC24(c, n) FLASHMASK_ACC16(c, n), FLASHMASK_ACC8(c, n + 16)
#define FLASHMASK_ACC32(c, n) FLASHMASK_ACC16(c, n), FLASHMASK_ACC16(c, n + 16)

// acc[64 x N] (+)= A B over 16 channels, with A in shared memory or in registers. kColumns: B is summed over its rows;
// kColumnsA: so is A. kBlocks is N / 8; i0 to i6 number the operands after the kRegisters accumulators.
#define FLASHMASK_PRODUCT(kType, kName, kWide, kBlocks, kRegisters, i0, i1, i2, i3, i4, i5, i6)                        \
  template <bool kColumns, bool kColumnsA = false>                                                                     \
  __device__ inline void Product16(float (&c)[kBlocks][4], uint64_t a, uint64_t b, bool add, kType) {                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\nwgmma.mma_async.sync.aligned.m64" kWide               \
                 "k16.f32." kName "." kName " {" FLASHMASK_REGISTERS##kRegisters "}, %" #i0 ", %" #i1                  \
                                                                                 ", p, 1, 1, %" #i4 ", %" #i3 ";\n}\n" \
                 : FLASHMASK_ACC##kBlocks(c, 0)                                                                        \
                 : "l"(a), "l"(b), "r"(int{add}), "n"(int{kColumns}), "n"(int{kColumnsA}));                            \
  }                                                                                                                    \
  template <bool kColumns>                                                                                             \
  __device__ inline void Product16(float (&c)[kBlocks][4], const uint32_t (&a)[4], uint64_t b, bool add, kType) {      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\nwgmma.mma_async.sync.aligned.m64" kWide               \
                 "k16.f32." kName "." kName " {" FLASHMASK_REGISTERS##kRegisters                                       \
                 "}, {%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}\n"                      \
                 : FLASHMASK_ACC##kBlocks(c, 0)                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{add}), "n"(int{kColumns}));             \
  }

#define FLASHMASK_PRODUCTS(kType, kName)                                         \
  FLASHMASK_PRODUCT(kType, kName, "n32", 4, 16, 16, 17, 18, 19, 20, 21, 22)      \
  FLASHMASK_PRODUCT(kType, kName, "n64", 8, 32, 32, 33, 34, 35, 36, 37, 38)      \
  FLASHMASK_PRODUCT(kType, kName, "n96", 12, 48, 48, 49, 50, 51, 52, 53, 54)     \
  FLASHMASK_PRODUCT(kType, kName, "n128", 16, 64, 64, 65, 66, 67, 68, 69, 70)    \
  FLASHMASK_PRODUCT(kType, kName, "n192", 24, 96, 96, 97, 98, 99, 100, 101, 102) \
  FLASHMASK_PRODUCT(kType, kName, "n256", 32, 128, 128, 129, 130, 131, 132, 133, 134)

FLASHMASK_PRODUCTS(__half, "f16")
FLASHMASK_PRODUCTS(__nv_bfloat16, "bf16")

#undef FLASHMASK_PRODUCTS
#undef FLASHMASK_PRODUCT
#undef FLASHMASK_ACC32
#undef FLASHMASK_ACC24
#undef FLASHMASK_ACC16
#undef FLASHMASK_ACC12
#undef FLASHMASK_ACC8
#undef FLASHMASK_ACC4
#undef FLASHMASK_ACC
#undef FLASHMASK_REGISTERS128
#undef FLASHMASK_REGISTERS96
#undef FLASHMASK_REGISTERS64
#undef FLASHMASK_FIFTY
#undef FLASHMASK_REGISTERS48
#undef FLASHMASK_REGISTERS32
#undef FLASHMASK_REGISTERS16
#undef FLASHMASK_TEN

}  // namespace flashmask::cuda

#endif  // FLASHMASK_EMULATOR
