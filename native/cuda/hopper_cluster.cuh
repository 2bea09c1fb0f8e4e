// Hopper's clusters: thread blocks that reach each other's shared memory, barriers and all.
#pragma once

#include "hopper.cuh"

namespace flashmask::cuda {

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

}  // namespace flashmask::cuda
