// An emulated GPU: what kernels call for what plain C++ cannot do. Each thread of a thread block is a fiber. A fiber
// gives way only where it waits for others, and which one goes on is drawn by a seed. Whatever is asynchronous is done
// as late as the instructions allow, and until then its result is poison, so that a wait that is missing shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace flashmask::emulator {

struct Extent {
  unsigned x, y, z;
  Extent(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The thread that runs.
struct Place {
  Extent thread, block, grid;
};
extern Place place;

constexpr int kLanes = 32;
constexpr int kAllThreads = 0;

// What the kernels run on.
struct Device {
  int major = 9;  // of the compute capability
  int processors = 3;
  int sharedBytes = 232448;
};
inline Device device;

// Instructions that order others. An experiment leaves one of them out, at one place of the code, to see whether that
// is noticed.
enum class Order {
  kSyncThreads,
  kSyncWarp,
  kWaitCopies,
  kWaitBarrier,
  kWaitProducts,
  kWaitBulk,
  kFenceAsync,
  kWaitMark
};
constexpr int kOrders = 8;

// Begins anew: draws come from the seed, and the instruction `order` is left out at its place number `leftOut` (counted
// as they are met since one began without that). -1: none is.
void Begin(uint64_t seed, Order order = Order::kSyncThreads, int leftOut = -1);
// How many places with the instruction have been met.
int PlacesOf(Order order);

// Ends the kernel with an error.
[[noreturn]] void Fail(const char* message);
// Whether a kernel has failed since the last call.
bool TakeFailure();

// Runs a kernel: `thread` for each thread. Those with dynamic shared memory have several thread blocks (or clusters of
// them) at a time, up to a drawn number that may be less than the device has room for. They start in order.
void Run(Extent grid, unsigned threads, size_t sharedBytes, const std::function<void()>& thread,
         unsigned blocksOfCluster = 1);

// ---- Thread blocks ----

// Waits at a barrier of the thread block for as many threads, or for all that still run.
void SyncThreads(int barrier, int threads);
void ArriveThreads(int barrier, int threads);  // without waiting
// The same for all that still run; gives whether `x` is true for any.
bool SyncThreadsOr(bool x);

// ---- Clusters. An address of shared memory may be that of another thread block of the cluster. ----

int BlockInCluster();
uint32_t InBlock(uint32_t address, int rank);
void SyncCluster();

// ---- Warps ----

// Waits for all lanes of the warp, and gives what each brings. The last to come calls `complete` first. All must bring
// things of the same kind.
const uint64_t* Meet(const char* kind, uint64_t own, void (*complete)(const uint64_t* all) = nullptr);
void SyncWarp();

template <class T>
uint64_t BitsOf(T x) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "lanes exchange small things");
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}

template <class T>
T OfBits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <class T>
T FromLane(T x, int lane) {
  return OfBits<T>(Meet("shuffle", BitsOf(x))[lane % kLanes]);
}

inline unsigned Ballot(bool x) {
  const uint64_t* all = Meet("ballot", x);
  unsigned bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= static_cast<unsigned>(all[lane]) << lane;
  return bits;
}

template <class T, class Combine>
T Reduce(T x, Combine combine) {
  const uint64_t* all = Meet("reduction", BitsOf(x));
  T result = OfBits<T>(all[0]);
  for (int lane = 1; lane < kLanes; ++lane) result = combine(result, OfBits<T>(all[lane]));
  return result;
}

// ---- Shared memory ----

uint32_t SharedAddress(const void* pointer);
// Where an address of shared memory is. The bytes from there on must be within it.
char* SharedAt(uint32_t address, size_t bytes);

// Writes by the thread, which FenceAsync() orders before reads by the copy engine and by products.
void StoreShared(uint32_t address, const void* from, size_t bytes);
void FenceAsync();
// Fails if some of these bytes were written without FenceAsync().
void RequireFenced(uint32_t address, size_t bytes);

// ---- Copies by threads (cp.async) ----

void CopyAsync(uint32_t to, const void* from, size_t bytes, bool valid);
void CommitCopies();
void WaitCopies(size_t pending);

// ---- Barriers with phases (mbarrier) ----

void InitBarrier(uint32_t barrier, int arrivals);
void Arrive(uint32_t barrier, uint32_t bytes);
void WaitParity(uint32_t barrier, uint32_t parity);

// ---- The copy engine ----

// Does `copy` at any later time, whose `bytes` then arrive at the barrier.
void StartCopy(uint32_t barrier, uint32_t bytes, std::function<void()> copy);
// Does `add`, which reads shared memory, when the thread waits for its group of additions.
// An addition to memory: reads shared memory, and gives what adds to memory, at any later time.
using Addition = std::function<std::function<void()>()>;
void StartAddition(Addition addition);
void CommitBulk();
void WaitBulkRead(size_t pending);
// Waits until all additions of the thread are in memory.
void WaitBulk();

// ---- Marks in memory, for which threads of other thread blocks wait ----

void SetMark(int* mark, int value);
void WaitMark(const int* mark, int value);

// Overwrites shared memory by numbers that are not finite, until the copy is there.
void PoisonShared(uint32_t address, size_t bytes);

// ---- Numbers of 16 bits ----

enum class Number { kHalf, kBfloat16 };

float FloatOfHalf(uint16_t bits);
uint16_t HalfOf(float x);
float FloatOfBfloat16(uint16_t bits);
uint16_t Bfloat16Of(float x);

}  // namespace flashmask::emulator
