// Starts the backward kernels on Hopper: those of hopper_backward.cuh and of hopper_backward_wide.cuh.
#pragma once

#include "hopper_backward.h"
#include "hopper_key_block.cuh"
#include "hopper_launch.cuh"
#include "overlap.cuh"

namespace flashmask::cuda {

// Keys says how a key block is loaded and computed.
template <class Keys>
__global__ void __launch_bounds__(Keys::Tile::kThreads, 1)
    HopperBackwardKernel(const __grid_constant__ HopperBackwardParams p) {
  using Tile = typename Keys::Tile;
  if constexpr (kHopper) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const typename Keys::Barriers barriers = {SharedAddress(shared + Tile::kBarriersAt)};
    if (threadIdx.x == 0) barriers.Init();
    SyncCluster<Tile::kCluster>();
    WaitForKernelBefore();
    Keys::Run(p, shared, barriers);
    if (Tile::kCluster > 1) SyncCluster<Tile::kCluster>();  // shared memory stays until nobody reaches for it
  } else {
    __trap();
  }
}

template <class T, template <class T_, class Tile_, bool kDrops> class Keys, class Tile>
cudaError_t LaunchHopperBackwardTile(const BackwardParams& call, cudaStream_t stream) {
  const Sizes& s = call.sizes;
  const int batches = Tile::kNumberParts * s.B;
  HopperBackwardParams params;
  params.call = call;
  cudaError_t error = Describe<T>(&params.q, call.q, s.Sq, s.H, batches, Tile::kBlockQ);
  constexpr int kOwnKeys = Tile::kBlockK / Tile::kCluster;
  if (error == cudaSuccess) error = Describe<T>(&params.k, call.k, s.Sk, s.Hkv, batches, kOwnKeys);
  if (error == cudaSuccess) error = Describe<T>(&params.v, call.v, s.Sk, s.Hkv, batches, kOwnKeys);
  if (error == cudaSuccess) error = Describe<T>(&params.dOut, call.dOut, s.Sq, s.H, batches, Tile::kBlockQ);
  if (error == cudaSuccess) error = Describe<float>(&params.dq, call.dq, s.Sq, s.H, s.B, 64);
  if (error != cudaSuccess) return error;
  const int64_t works = int64_t{s.B} * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
  const auto kernel = call.dropout.threshold == 0 ? HopperBackwardKernel<Keys<T, Tile, false>>
                                                  : HopperBackwardKernel<Keys<T, Tile, true>>;
  return LaunchStaying<Tile, Tile::kCluster>(kernel, params, works, stream);
}

}  // namespace flashmask::cuda
