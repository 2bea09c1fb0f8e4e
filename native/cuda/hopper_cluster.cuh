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
template <int kBlocks>
__device__ inline uint32_t InBlock(uint32_t shared, int rank) {
  if constexpr (kBlocks == 1) return shared;
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

__device__ inline void ArriveThere(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ inline void ArriveThereExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits at a barrier of this thread block for arrivals from all of the cluster, and sees what came before them.
__device__ inline void WaitParityOfCluster(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ inline void StoreThere(uint32_t shared, int4 value) {
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}

// Copies from this thread block to another one, and tells a barrier there.
__device__ inline void CopyThere(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

}  // namespace flashmask::cuda
