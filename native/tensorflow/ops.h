// The ops FlashMaskAttention and FlashMaskAttentionGrad, registered with the TensorFlow that the process has loaded.
#pragma once

#include <string>

namespace flashmask {
namespace tensorflow {

// Registers ops and kernels, once for a process, however many copies of the addon are in it. Returns what is wrong, or
// nothing.
std::string Register();

// Registers the kernels of one op; defined in kernels.cc, called by Register.
std::string RegisterKernels();

}  // namespace tensorflow
}  // namespace flashmask
