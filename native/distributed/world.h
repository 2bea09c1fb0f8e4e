// The groups that this process is a member of, and whether they failed. Node's main thread makes the groups,
// TensorFlow's threads call them, and the thread of the control plane hears of the calls and tells of failures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "transport.h"

namespace flashmask {
namespace distributed {

struct NewGroup {
  int64_t id;
  // The same in all members and in no other group.
  std::string name;
  int rank;
  int size;
  // The group that it is a part of, and which part; a parent below 0 for the whole world.
  int64_t parent;
  int color;
  // What NCCL's members find each other by; empty without NCCL.
  std::string ncclId;
};

// Adds a group. All members do it at the same time. Throws Interrupted or std::runtime_error.
void AddGroup(const NewGroup& group);

// Ends the groups. All members have made their last call; after a failure nothing is waited for.
void EndGroups();

// The number of members; throws if there is no such group.
int GroupSize(int64_t id);

// Carries out a call of a group on host memory, or on device memory in the order of a CUDA stream.
void RunOnHost(int64_t id, const Collective& call, const float* in, float* out);
void RunOnDevice(int64_t id, const Collective& call, const float* in, float* out, void* stream);

// Who hears of each call before it starts: {"group":"0","sequence":1,"call":{...}}. Called in any thread; null ends it.
void ListenToCalls(std::function<void(const std::string&)> listener);

// From now on all calls, also those that run, end with this error. The first failure counts.
void Fail(const std::string& message);
bool Failed();
// The message of the failure, or an empty string.
std::string Failure();
void ThrowIfFailed();

// An error of work on a GPU that was queued and has failed since, or an empty string.
std::string DeviceError();

}  // namespace distributed
}  // namespace flashmask
