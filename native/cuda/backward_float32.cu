// The backward kernels on floats, each split into two 16-bit numbers.
#include "backward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardFloat32(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<BackwardLaunch, __half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
