// Groups on NCCL, for tensors on a GPU. The library is found at run time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport.h"

namespace flashmask {
namespace distributed {

// Loads the first of the libraries that is there, once per process; returns its version, as 22803 for 2.28.3. Throws
// std::runtime_error.
int LoadNccl(const std::vector<std::string>& libraries);

// What the members of a new group find each other by: one of them makes it and tells the others. Throws
// std::runtime_error.
std::string NewNcclId();

// A group on the GPU that is current, or the first that the process sees. All members call it at the same time. Throws
// Interrupted or std::runtime_error.
std::unique_ptr<Transport> NcclGroup(const std::string& id, int rank, int size);

}  // namespace distributed
}  // namespace flashmask
