// The ops FlashMaskAttention and FlashMaskAttentionGrad, those of the layers and the collectives, registered with the
// TensorFlow that the process has loaded.
#pragma once

#include <string>

namespace flashmask {
namespace tensorflow {

// Registers the ops and kernels, once per process, however many copies of the addon it has. Returns an error message,
// or an empty string.
std::string Register();

// Registers the kernels of the attention; defined in kernels.cc, called by Register.
std::string RegisterKernels();

// Registers the ops of the layers and their kernels; defined in layers.cc, called by Register.
std::string RegisterLayers();

// Registers the ops of the collectives and their kernels; defined in collectives.cc, called by Register.
std::string RegisterCollectives();

}  // namespace tensorflow
}  // namespace flashmask
