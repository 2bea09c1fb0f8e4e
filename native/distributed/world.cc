#include "world.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include "mpi.h"
#include "nccl.h"

namespace flashmask {
namespace distributed {

namespace {

struct Group {
  std::string name;
  int size = 0;
  int64_t calls = 0;
  std::unique_ptr<Transport> host;
  std::unique_ptr<Transport> device;
};

// Never destroyed: at exit a thread may still be in a call.
struct State {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<Group>> groups;
  std::function<void(const std::string&)> listener;
  std::string failure;
  std::atomic<bool> failed{false};
};

State& state() {
  static State& only = *new State;
  return only;
}

std::shared_ptr<Group> Find(int64_t id) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const auto found = state().groups.find(id);
  if (found == state().groups.end()) {
    throw std::runtime_error("the group must be there, got one that was finalized or never made");
  }
  return found->second;
}

std::map<int64_t, std::shared_ptr<Group>> Groups() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return state().groups;
}

void Announce(Group* group, const Collective& call) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  group->calls++;
  if (!state().listener) return;
  state().listener("{\"group\":\"" + group->name + "\",\"sequence\":" + std::to_string(group->calls) +
                   ",\"call\":" + call.Json() + "}");
}

void RunOn(const std::unique_ptr<Transport>& transport, Group* group, const Collective& call, const float* in,
           float* out, void* stream, const char* missing) {
  ThrowIfFailed();
  if (!transport) throw std::runtime_error(missing);
  Announce(group, call);
  transport->Run(call, in, out, stream);
}

}  // namespace

void AddGroup(const NewGroup& wanted) {
  ThrowIfFailed();
  auto group = std::make_shared<Group>();
  group->name = wanted.name;
  group->size = wanted.size;
  if (MpiStarted()) {
    const Transport* parent = wanted.parent < 0 ? nullptr : Find(wanted.parent)->host.get();
    group->host = MpiGroup(parent, wanted.color, wanted.rank, wanted.size);
  }
  if (!wanted.ncclId.empty()) group->device = NcclGroup(wanted.ncclId, wanted.rank, wanted.size);
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().groups[wanted.id] = std::move(group);
}

void EndGroups() {
  std::map<int64_t, std::shared_ptr<Group>> groups;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    groups.swap(state().groups);
    state().listener = nullptr;
  }
  if (!Failed()) {
    groups.clear();
    EndMpi();
    return;
  }
  // Late answers of others may still write to the memory of calls that were interrupted.
  new std::map<int64_t, std::shared_ptr<Group>>(std::move(groups));
}

int GroupSize(int64_t id) { return Find(id)->size; }

void RunOnHost(int64_t id, const Collective& call, const float* in, float* out) {
  const auto group = Find(id);
  RunOn(group->host, group.get(), call, in, out, nullptr,
        "tensors on the host must have MPI, got processes that no mpiexec started, or no MPI library");
}

void RunOnDevice(int64_t id, const Collective& call, const float* in, float* out, void* stream) {
  const auto group = Find(id);
  RunOn(group->device, group.get(), call, in, out, stream, "tensors on a GPU must have NCCL, got no NCCL library");
}

void ListenToCalls(std::function<void(const std::string&)> listener) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().listener = std::move(listener);
}

void Fail(const std::string& message) {
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (state().failed) return;
    state().failure = message;
    state().failed = true;
  }
  for (const auto& [id, group] : Groups()) {
    if (group->device) group->device->Abort();
  }
}

std::string DeviceError() {
  for (const auto& [id, group] : Groups()) {
    const std::string error = group->device ? group->device->Error() : "";
    if (!error.empty()) return error;
  }
  return "";
}

bool Failed() { return state().failed; }

std::string Failure() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return state().failure;
}

void ThrowIfFailed() {
  if (Failed()) throw Interrupted(Failure());
}

}  // namespace distributed
}  // namespace flashmask
