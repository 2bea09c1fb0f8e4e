#include "mpi.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <mutex>
#include <thread>

#include "world.h"

namespace flashmask {
namespace distributed {

namespace {

// ---- The library ----

// MPI's handles: pointers in the standard ABI and in Open MPI. In MPICH they are ints. Both are passed in the same
// registers and slots of the stack, of which a function reads the half that it knows, on all 64-bit platforms but
// Apple's, where only the standard ABI and Open MPI are taken.
using Handle = void*;

// X(name without MPI_, parameters); all return an int.
#define FLASHMASK_MPI_FUNCTIONS(X)                                                     \
  X(Init_thread, (int*, char***, int, int*))                                           \
  X(Initialized, (int*))                                                               \
  X(Finalize, ())                                                                      \
  X(Comm_rank, (Handle, int*))                                                         \
  X(Comm_size, (Handle, int*))                                                         \
  X(Comm_split, (Handle, int, int, Handle*))                                           \
  X(Comm_free, (Handle*))                                                              \
  X(Comm_set_errhandler, (Handle, Handle))                                             \
  X(Error_string, (int, char*, int*))                                                  \
  X(Bcast, (void*, int, Handle, int, Handle))                                          \
  X(Test, (Handle*, int*, void*))                                                      \
  X(Iallreduce, (const void*, void*, int, Handle, Handle, Handle, Handle*))            \
  X(Iallgather, (const void*, int, Handle, void*, int, Handle, Handle, Handle*))       \
  X(Ireduce_scatter_block, (const void*, void*, int, Handle, Handle, Handle, Handle*)) \
  X(Ibcast, (void*, int, Handle, int, Handle, Handle*))                                \
  X(Ialltoall, (const void*, int, Handle, void*, int, Handle, Handle, Handle*))        \
  X(Ialltoallv, (const void*, const int*, const int*, Handle, void*, const int*, const int*, Handle, Handle, Handle*))

struct Library {
#define FLASHMASK_MPI_MEMBER(name, parameters) int(*name) parameters = nullptr;
  FLASHMASK_MPI_FUNCTIONS(FLASHMASK_MPI_MEMBER)
#undef FLASHMASK_MPI_MEMBER
  Handle world;
  Handle float32;
  Handle int64;
  Handle byte;
  Handle sum;
  Handle max;
  Handle errorsReturn;
  int threadSerialized;
};

constexpr int kMostErrorText = 1024;

Handle Number(uintptr_t value) { return reinterpret_cast<Handle>(value); }

// The constants of the standard ABI (MPI 5.0, appendix A), of MPICH's own ABI, and of Open MPI, whose handles are
// addresses.
void FindConstants(void* handle, const std::string& path, Library* mpi) {
  const auto address = [handle](const char* name) { return dlsym(handle, name); };
  if (address("ompi_mpi_comm_world")) {
    mpi->world = address("ompi_mpi_comm_world");
    mpi->float32 = address("ompi_mpi_float");
    mpi->int64 = address("ompi_mpi_int64_t");
    mpi->byte = address("ompi_mpi_byte");
    mpi->sum = address("ompi_mpi_op_sum");
    mpi->max = address("ompi_mpi_op_max");
    mpi->errorsReturn = address("ompi_mpi_errors_return");
    mpi->threadSerialized = 2;
  } else if (path.find("mpi_abi") != std::string::npos) {
    mpi->world = Number(0x101);
    mpi->float32 = Number(0x210);
    mpi->int64 = Number(0x258);
    mpi->byte = Number(0x247);
    mpi->sum = Number(0x21);
    mpi->max = Number(0x23);
    mpi->errorsReturn = Number(0x143);
    mpi->threadSerialized = 2048;
  } else {
    mpi->world = Number(0x44000000);
    mpi->float32 = Number(0x4c00040a);
    mpi->int64 = Number(0x4c00083a);
    mpi->byte = Number(0x4c00010d);
    mpi->sum = Number(0x58000003);
    mpi->max = Number(0x58000001);
    mpi->errorsReturn = Number(0x54000001);
    mpi->threadSerialized = 2;
  }
}

// Loads the library. Returns an error message, or an empty string.
std::string Load(const std::string& path, Library* mpi) {
  // Plugins of Open MPI look for its symbols in the global scope.
  const bool open = path.find("libmpi.so.40") != std::string::npos;
  void* handle = dlopen(path.c_str(), RTLD_NOW | (open ? RTLD_GLOBAL : RTLD_LOCAL));
  if (!handle) return dlerror();
  std::string missing;
#define FLASHMASK_MPI_FIND(name, parameters)                                      \
  mpi->name = reinterpret_cast<decltype(mpi->name)>(dlsym(handle, "MPI_" #name)); \
  if (!mpi->name) missing += " MPI_" #name;
  FLASHMASK_MPI_FUNCTIONS(FLASHMASK_MPI_FIND)
#undef FLASHMASK_MPI_FIND
  if (!missing.empty()) return path + " lacks" + missing;
  FindConstants(handle, path, mpi);
#ifdef __APPLE__
  if (mpi->world == Number(0x44000000)) return path + " has MPICH's own ABI; take its libmpi_abi";
#endif
  return "";
}

Library mpi;
bool started = false;
// MPI is asked for calls one at a time.
std::mutex mutex;

void Check(int code, const char* function) {
  if (code == 0) return;
  char text[kMostErrorText] = "";
  int length = 0;
  mpi.Error_string(code, text, &length);
  throw std::runtime_error(std::string(function) + " of MPI failed: " + text);
}

// ---- Waiting ----

using Clock = std::chrono::steady_clock;

// How long to ask without sleeping, which would slow large transfers down; others get the core if they want it.
constexpr auto kEager = std::chrono::milliseconds(20);
constexpr auto kPause = std::chrono::microseconds(50);
// The control plane finds what does not fit and tells all. If it says nothing, this is the longest wait for its words.
constexpr auto kLongestVerdict = std::chrono::seconds(30);

void Pause(Clock::time_point start) {
  if (Clock::now() - start < kEager) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(kPause);
  }
}

// Waits for the failure that the control plane will tell.
[[noreturn]] void AwaitVerdict() {
  const auto start = Clock::now();
  while (!Failed() && Clock::now() - start < kLongestVerdict) Pause(start);
  ThrowIfFailed();
  throw Interrupted("all members must make calls that fit each other, got others elsewhere");
}

// ---- A group ----

int64_t HashOf(const std::string& text) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return static_cast<int64_t>(hash);
}

int Count(int64_t elements) {
  if (elements > INT_MAX) {
    throw std::runtime_error("a tensor of MPI must have at most 2^31 - 1 elements, got " + std::to_string(elements) +
                             ". Split it.");
  }
  return static_cast<int>(elements);
}

class Members : public Transport {
 public:
  Members(Handle parent, int color, int rank, int size) : size_(size), theirs_(size) {
    Check(mpi.Comm_split(parent, color, rank, &comm_), "MPI_Comm_split");
    Check(mpi.Comm_set_errhandler(comm_, mpi.errorsReturn), "MPI_Comm_set_errhandler");
  }
  ~Members() override { mpi.Comm_free(&comm_); }

  Handle comm() const { return comm_; }

  void Run(const Collective& call, const float* in, float* out, void*) override {
    const std::lock_guard<std::mutex> lock(mutex);
    // Elements of the whole tensor, of which the other tensor is a part or a multiple.
    const int count = Count(call.Elements() * (call.kind == Collective::kAllGather ? size_ : 1));
    RequireAgreement(call);
    Handle request = nullptr;
    switch (call.kind) {
      case Collective::kAllReduce:
        Check(mpi.Iallreduce(in, out, count, mpi.float32, call.max ? mpi.max : mpi.sum, comm_, &request),
              "MPI_Iallreduce");
        break;
      case Collective::kAllGather:
        Check(mpi.Iallgather(in, count / size_, mpi.float32, out, count / size_, mpi.float32, comm_, &request),
              "MPI_Iallgather");
        break;
      case Collective::kReduceScatter:
        Check(mpi.Ireduce_scatter_block(in, out, count / size_, mpi.float32, mpi.sum, comm_, &request),
              "MPI_Ireduce_scatter_block");
        break;
      case Collective::kBroadcast:
        std::memcpy(out, in, sizeof(float) * count);
        Check(mpi.Ibcast(out, count, mpi.float32, call.root, comm_, &request), "MPI_Ibcast");
        break;
      case Collective::kAllToAll:
        StartAllToAll(call, in, out, &request);
        break;
    }
    Wait(request);
  }

 private:
  void Wait(Handle request) {
    // Room for the status of any ABI.
    alignas(16) unsigned char status[128];
    const auto start = Clock::now();
    for (int done = 0;;) {
      Check(mpi.Test(&request, &done, status), "MPI_Test");
      if (done) return;
      ThrowIfFailed();
      Pause(start);
    }
  }

  // Lets no call start that does not fit those of the others: MPI would mix them up.
  void RequireAgreement(const Collective& call) {
    const int64_t hash = HashOf(call.Agreed());
    own_[0] = hash;
    own_[1] = ~hash;
    Handle request = nullptr;
    Check(mpi.Iallreduce(own_, largest_, 2, mpi.int64, mpi.max, comm_, &request), "MPI_Iallreduce");
    Wait(request);
    // The largest of all numbers, and the complement of the smallest.
    if (largest_[0] != hash || largest_[1] != ~hash) AwaitVerdict();
    if (call.kind != Collective::kAllToAll) return;
    sends_ = call.sends;
    Check(mpi.Ialltoall(sends_.data(), 1, mpi.int64, theirs_.data(), 1, mpi.int64, comm_, &request), "MPI_Ialltoall");
    Wait(request);
    if (theirs_ != call.receives) AwaitVerdict();
  }

  void StartAllToAll(const Collective& call, const float* in, float* out, Handle* request) {
    const int64_t row = call.RowElements();
    // Counts and starts of what is sent and what is received.
    const auto fill = [row](const std::vector<int64_t>& rows, std::vector<int>* counts, std::vector<int>* starts) {
      counts->clear();
      starts->clear();
      int64_t start = 0;
      for (const int64_t each : rows) {
        counts->push_back(Count(each * row));
        starts->push_back(Count(start));
        start += each * row;
      }
    };
    fill(call.sends, &counts_[0], &starts_[0]);
    fill(call.receives, &counts_[1], &starts_[1]);
    Check(mpi.Ialltoallv(in, counts_[0].data(), starts_[0].data(), mpi.float32, out, counts_[1].data(),
                         starts_[1].data(), mpi.float32, comm_, request),
          "MPI_Ialltoallv");
  }

  Handle comm_ = nullptr;
  const int size_;
  // What MPI reads and writes until a request is done. A call that is interrupted leaves it behind.
  int64_t own_[2];
  int64_t largest_[2];
  std::vector<int64_t> sends_;
  std::vector<int64_t> theirs_;
  std::vector<int> counts_[2];
  std::vector<int> starts_[2];
};

std::string Start(const std::vector<std::string>& libraries) {
  std::string errors;
  for (const std::string& path : libraries) {
    const std::string error = Load(path, &mpi);
    if (error.empty()) {
      int initialized = 0;
      int provided = 0;
      mpi.Initialized(&initialized);
      // An error of MPI_Init ends the process, after a message of MPI.
      if (!initialized) mpi.Init_thread(nullptr, nullptr, mpi.threadSerialized, &provided);
      if (!initialized && provided < mpi.threadSerialized) {
        throw std::runtime_error("MPI must let several threads call it one at a time, got a library that does not: " +
                                 path);
      }
      mpi.Comm_set_errhandler(mpi.world, mpi.errorsReturn);
      started = true;
      return path;
    }
    errors += (errors.empty() ? "" : "; ") + error;
  }
  throw std::runtime_error(errors);
}

}  // namespace

MpiWorld StartMpi(const std::vector<std::string>& libraries) {
  static const std::string library = Start(libraries);
  MpiWorld world = {library, 0, 0};
  Check(mpi.Comm_rank(mpi.world, &world.rank), "MPI_Comm_rank");
  Check(mpi.Comm_size(mpi.world, &world.size), "MPI_Comm_size");
  return world;
}

bool MpiStarted() { return started; }

std::string MpiBroadcast(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex);
  int length = static_cast<int>(text.size());
  Check(mpi.Bcast(&length, sizeof(length), mpi.byte, 0, mpi.world), "MPI_Bcast");
  std::string all = text;
  all.resize(length);
  Check(mpi.Bcast(&all[0], length, mpi.byte, 0, mpi.world), "MPI_Bcast");
  return all;
}

std::unique_ptr<Transport> MpiGroup(const Transport* parent, int color, int rank, int size) {
  const std::lock_guard<std::mutex> lock(mutex);
  const Handle from = parent ? static_cast<const Members*>(parent)->comm() : mpi.world;
  return std::make_unique<Members>(from, color, rank, size);
}

void EndMpi() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!started) return;
  started = false;
  mpi.Finalize();
}

}  // namespace distributed
}  // namespace flashmask
