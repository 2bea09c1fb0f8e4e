// One collective call, and what carries it out between processes.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace flashmask {
namespace distributed {

// A call, as the members must agree on it.
struct Collective {
  enum Kind { kAllReduce, kAllGather, kReduceScatter, kBroadcast, kAllToAll };

  Kind kind;
  // Of the tensor that this member gives.
  std::vector<int64_t> shape;
  // kAllReduce: the largest number of each element in place of the sum.
  bool max = false;
  // kBroadcast: the member whose tensor all get.
  int root = 0;
  // kAllToAll: rows for, and of, each member.
  std::vector<int64_t> sends;
  std::vector<int64_t> receives;

  // Elements of the whole tensor, and of a row of it: all axes but the first.
  int64_t Elements() const;
  int64_t RowElements() const;
  // {"kind":"allReduce","shape":[2,3],...}
  std::string Json() const;
  // What must be the same in all members: the JSON without what may differ.
  std::string Agreed() const;
};

// Another member failed, or the calls did not fit, while this one was in a call. The memory that the call was given may
// still be written to.
struct Interrupted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A group's link for tensors in one kind of memory.
class Transport {
 public:
  virtual ~Transport() = default;

  // Carries out a call. With a stream it is queued there; without, it has ended when this returns.
  // Throws Interrupted, or std::runtime_error.
  virtual void Run(const Collective& call, const float* in, float* out, void* stream) = 0;

  // An error of work that was queued and has failed since; empty if there is none.
  virtual std::string Error() { return ""; }

  // Ends calls that wait for others, in whatever thread. Called once, after the failure is known to the world.
  virtual void Abort() {}
};

}  // namespace distributed
}  // namespace flashmask
