// The backward kernels on half precision.
#include "backward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardHalf(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<BackwardLaunch, __half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
