#include "nccl.h"

#include <dlfcn.h>

#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "world.h"

namespace flashmask {
namespace distributed {

namespace {

// ---- The library ----

// NCCL's types and values, which are the same in all 2.x since 2.14 (nccl.h).
using Comm = struct CommOpaque*;
using Stream = void*;
using Result = int;
constexpr Result kSuccess = 0;
constexpr Result kInProgress = 7;
constexpr int kFloat32 = 7;
constexpr int kSum = 0;
constexpr int kMax = 2;
constexpr int kOldest = 21400;

struct UniqueId {
  char bytes[128];
};

// ncclConfig_t as of 2.14. Later versions read as much as `size` and `version` say that there is.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = kOldest;
  int blocking = 0;
};

// X(name without nccl, parameters); all return a Result.
#define FLASHMASK_NCCL_FUNCTIONS(X)                                      \
  X(GetVersion, (int*))                                                  \
  X(GetUniqueId, (UniqueId*))                                            \
  X(CommInitRankConfig, (Comm*, int, UniqueId, int, Config*))            \
  X(CommGetAsyncError, (Comm, Result*))                                  \
  X(CommFinalize, (Comm))                                                \
  X(CommDestroy, (Comm))                                                 \
  X(CommAbort, (Comm))                                                   \
  X(GroupStart, ())                                                      \
  X(GroupEnd, ())                                                        \
  X(AllReduce, (const void*, void*, size_t, int, int, Comm, Stream))     \
  X(AllGather, (const void*, void*, size_t, int, Comm, Stream))          \
  X(ReduceScatter, (const void*, void*, size_t, int, int, Comm, Stream)) \
  X(Broadcast, (const void*, void*, size_t, int, int, Comm, Stream))     \
  X(Send, (const void*, size_t, int, int, Comm, Stream))                 \
  X(Recv, (void*, size_t, int, int, Comm, Stream))

struct Library {
#define FLASHMASK_NCCL_MEMBER(name, parameters) Result(*name) parameters = nullptr;
  FLASHMASK_NCCL_FUNCTIONS(FLASHMASK_NCCL_MEMBER)
#undef FLASHMASK_NCCL_MEMBER
  const char* (*GetLastError)(Comm) = nullptr;
};

Library nccl;
// 0 until a library is loaded.
int version = 0;

// Loads the library. Returns an error message, or an empty string.
std::string Load(const std::string& path) {
  // The one that the process has comes first: TensorFlow may have loaded its own.
  void* handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (!handle) handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return dlerror();
  Library found;
  std::string missing;
#define FLASHMASK_NCCL_FIND(name, parameters)                                       \
  found.name = reinterpret_cast<decltype(found.name)>(dlsym(handle, "nccl" #name)); \
  if (!found.name) missing += " nccl" #name;
  FLASHMASK_NCCL_FUNCTIONS(FLASHMASK_NCCL_FIND)
#undef FLASHMASK_NCCL_FIND
  found.GetLastError = reinterpret_cast<const char* (*)(Comm)>(dlsym(handle, "ncclGetLastError"));
  if (!missing.empty()) return path + " lacks" + missing + ", which NCCL has since 2.14";
  nccl = found;
  nccl.GetVersion(&version);
  return "";
}

std::string ErrorOf(Result result, const char* function, Comm comm) {
  const char* detail = nccl.GetLastError ? nccl.GetLastError(comm) : nullptr;
  return "nccl" + std::string(function) + " gave ncclResult_t " + std::to_string(result) +
         (detail && *detail ? ": " + std::string(detail) : "") + ". NCCL_DEBUG=WARN in the environment prints more.";
}

[[noreturn]] void Throw(Result result, const char* function, Comm comm) {
  throw std::runtime_error(ErrorOf(result, function, comm));
}

// ---- A group ----

// A communicator whose calls return at once, so that a failure elsewhere ends them.
class Members : public Transport {
 public:
  Members(const std::string& id, int rank, int size) : size_(size) {
    UniqueId unique;
    if (id.size() != sizeof(unique.bytes)) throw std::runtime_error("an id of NCCL must have 128 bytes");
    std::memcpy(unique.bytes, id.data(), sizeof(unique.bytes));
    Config config;
    try {
      Finish("CommInitRankConfig", nccl.CommInitRankConfig(&comm_, size, unique, rank, &config));
    } catch (...) {
      Abort();
      throw;
    }
  }

  ~Members() override {
    if (!comm_) return;
    try {
      // Waits for what is queued.
      Call("CommFinalize", [this] { return nccl.CommFinalize(comm_); });
      nccl.CommDestroy(comm_);
    } catch (const std::exception&) {
      Abort();
    }
  }

  void Run(const Collective& call, const float* in, float* out, void* stream) override {
    const size_t count = static_cast<size_t>(call.Elements());
    switch (call.kind) {
      case Collective::kAllReduce:
        return Call("AllReduce",
                    [&] { return nccl.AllReduce(in, out, count, kFloat32, call.max ? kMax : kSum, comm_, stream); });
      case Collective::kAllGather:
        return Call("AllGather", [&] { return nccl.AllGather(in, out, count, kFloat32, comm_, stream); });
      case Collective::kReduceScatter:
        return Call("ReduceScatter",
                    [&] { return nccl.ReduceScatter(in, out, count / size_, kFloat32, kSum, comm_, stream); });
      case Collective::kBroadcast:
        return Call("Broadcast", [&] { return nccl.Broadcast(in, out, count, kFloat32, call.root, comm_, stream); });
      case Collective::kAllToAll:
        return Call("Send and Recv", [&] { return AllToAll(call, in, out, stream); });
    }
  }

  std::string Error() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    Result state = kSuccess;
    if (!comm_ || nccl.CommGetAsyncError(comm_, &state) != kSuccess || Goes(state)) return "";
    return ErrorOf(state, "CommGetAsyncError", comm_);
  }

  void Abort() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Ends the kernels on the GPU too.
    if (comm_) nccl.CommAbort(comm_);
    comm_ = nullptr;
  }

 private:
  Result AllToAll(const Collective& call, const float* in, float* out, void* stream) {
    const size_t row = static_cast<size_t>(call.RowElements());
    Result result = nccl.GroupStart();
    for (int peer = 0; peer < size_; peer++) {
      const size_t sends = static_cast<size_t>(call.sends[peer]) * row;
      const size_t receives = static_cast<size_t>(call.receives[peer]) * row;
      if (sends > 0 && Goes(result)) result = nccl.Send(in, sends, kFloat32, peer, comm_, stream);
      if (receives > 0 && Goes(result)) result = nccl.Recv(out, receives, kFloat32, peer, comm_, stream);
      in += sends;
      out += receives;
    }
    const Result ended = nccl.GroupEnd();
    return Goes(result) ? ended : result;
  }

  static bool Goes(Result result) { return result == kSuccess || result == kInProgress; }

  template <typename Function>
  void Call(const char* function, Function call) {
    Result result;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ThrowIfFailed();
      result = call();
    }
    Finish(function, result);
  }

  // Waits until a call is queued.
  void Finish(const char* function, Result result) {
    while (result == kInProgress) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      const std::lock_guard<std::mutex> lock(mutex_);
      // After a failure Abort() takes the communicator away.
      ThrowIfFailed();
      const Result asked = nccl.CommGetAsyncError(comm_, &result);
      if (asked != kSuccess) result = asked;
    }
    if (result != kSuccess) Throw(result, function, comm_);
  }

  Comm comm_ = nullptr;
  const int size_;
  // Of the communicator.
  std::mutex mutex_;
};

}  // namespace

int LoadNccl(const std::vector<std::string>& libraries) {
  std::string errors;
  for (const std::string& path : libraries) {
    if (version > 0) break;
    const std::string error = Load(path);
    errors += error.empty() ? "" : (errors.empty() ? "" : "; ") + error;
  }
  if (version == 0) throw std::runtime_error(errors);
  if (version < kOldest) {
    throw std::runtime_error("NCCL must be 2.14 or newer, got " + std::to_string(version));
  }
  return version;
}

std::string NewNcclId() {
  UniqueId id;
  const Result result = nccl.GetUniqueId(&id);
  if (result != kSuccess) Throw(result, "GetUniqueId", nullptr);
  return std::string(id.bytes, sizeof(id.bytes));
}

std::unique_ptr<Transport> NcclGroup(const std::string& id, int rank, int size) {
  return std::make_unique<Members>(id, rank, size);
}

}  // namespace distributed
}  // namespace flashmask
