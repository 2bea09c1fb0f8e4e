// Groups on MPI, for tensors on the host. The library is found at run time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport.h"

namespace flashmask {
namespace distributed {

struct MpiWorld {
  std::string library;
  int rank;
  int size;
};

// Loads the first of the libraries that is there, and starts MPI, once per process. Throws std::runtime_error.
MpiWorld StartMpi(const std::vector<std::string>& libraries);
bool MpiStarted();

// The text of rank 0, in all processes of the world, which call it at the same time.
std::string MpiBroadcast(const std::string& text);

// A part of the group of `parent`; of all processes without one. All members of the parent call it at the same time.
std::unique_ptr<Transport> MpiGroup(const Transport* parent, int color, int rank, int size);

// Ends MPI if it was started. All processes call it, after their last call.
void EndMpi();

}  // namespace distributed
}  // namespace flashmask
