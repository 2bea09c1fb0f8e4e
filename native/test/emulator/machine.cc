// Thread blocks, their scheduler, and what threads wait for.
#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "block.h"

namespace flashmask::cuda {

// The dynamic shared memory of all kernels.
alignas(1024) uint8_t shared[256 * 1024];

}  // namespace flashmask::cuda

namespace flashmask::emulator {

Place place;
Block* block = nullptr;
Thread* self = nullptr;

namespace {

constexpr uint32_t kSharedBase = 1024;  // an address of 0 is nobody's
constexpr size_t kMostThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;
// The stacks begin in different sets of the processor's caches.
constexpr size_t kStackStep = kStackBytes + 4096 + 64;

uint64_t state;  // of the generator of draws: xorshift64* (Vigna 2016)
bool failed = false;
Order orderLeftOut;
int placeLeftOut;
std::vector<const void*> places[kOrders];
const std::function<void()>* kernel = nullptr;

size_t Draw(size_t count) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (state * 0x2545f4914f6cdd1du >> 32) * count >> 32;
}

char* Stacks() {
  static char* const stacks = static_cast<char*>(
      mmap(nullptr, kMostThreads * kStackStep, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return stacks;
}

Warp& WarpOf(const Thread& thread) { return block->warps[static_cast<size_t>(thread.index / kLanes)]; }

void MakeReady(Thread* thread) {
  Warp& warp = WarpOf(*thread);
  if (warp.ready.empty()) block->ready.push_back(&warp);
  warp.ready.push_back(thread);
}

void ReleaseIfComplete(NamedBarrier* barrier, int threads) {
  if (barrier->arrived < threads) return;
  for (Thread* thread : barrier->waiting) MakeReady(thread);
  *barrier = {};
}

void RequireFinished() {
  if (!self->products.empty()) Fail("a thread ends before its products");
  if (!self->additions.empty() || !self->committedAdditions.empty()) {
    Fail("a thread ends before its additions have read shared memory");
  }
}

void RunThread() {
  (*kernel)();
  RequireFinished();
  self->done = true;
  --block->running;
  ReleaseIfComplete(&block->namedBarriers[0], std::max(block->running, 1));
  for (;;) Fiber::GiveWay();
}

void RunEngine() {
  std::swap(block->engine[Draw(block->engine.size())], block->engine.back());
  const std::function<void()> copy = std::move(block->engine.back());
  block->engine.pop_back();
  copy();
}

void Resume(Thread* thread) {
  self = thread;
  place.thread = thread->place;
  thread->fiber.Resume();
}

// Experiments fail as they should.
bool Reports() { return placeLeftOut < 0 && !failed; }

void ReportStandstill() {
  if (!Reports()) {
    failed = true;
    return;
  }
  std::fprintf(stderr, "emulator: all threads wait\n");
  const char* last = "";
  for (const auto& thread : block->threads) {
    if (thread->done || thread->waitsFor == last) continue;
    last = thread->waitsFor;
    std::fprintf(stderr, "  thread %d: %s\n", thread->index, last);
  }
  failed = true;
}

// Lets the lanes of a warp run that are ready, from any of them on. Sometimes a part of them is delayed until nobody
// else can go on.
void RunWarp() {
  static std::vector<Thread*> lanes;
  const size_t drawn = Draw(block->ready.size());
  Warp* warp = block->ready[drawn];
  block->ready[drawn] = block->ready.back();
  block->ready.pop_back();
  lanes.swap(warp->ready);
  std::rotate(lanes.begin(), lanes.begin() + static_cast<std::ptrdiff_t>(Draw(lanes.size())), lanes.end());
  const size_t count = Draw(32) == 0 ? Draw(lanes.size()) + 1 : lanes.size();
  block->delayed.insert(block->delayed.end(), lanes.begin() + static_cast<std::ptrdiff_t>(count), lanes.end());
  for (size_t i = 0; i < count && !failed; ++i) Resume(lanes[i]);
  lanes.clear();
}

void RunBlock() {
  while (!failed) {
    const bool copies = !block->engine.empty();
    if (copies && (block->ready.empty() || Draw(8) == 0)) {
      RunEngine();
    } else if (!block->ready.empty()) {
      RunWarp();
    } else if (!block->delayed.empty()) {
      for (Thread* thread : block->delayed) MakeReady(thread);
      block->delayed.clear();
    } else if (block->running == 0) {
      return;
    } else {
      ReportStandstill();
    }
  }
}

void PrepareBlock(unsigned threads, size_t sharedBytes) {
  std::memset(cuda::shared, 0xff, sharedBytes);
  block->sharedBytes = sharedBytes;
  block->writers.assign(sharedBytes / 4 + 1, 0);
  block->warps.resize((threads + kLanes - 1) / kLanes);
  block->running = static_cast<int>(threads);
  for (unsigned i = 0; i < threads; ++i) {
    block->threads.push_back(std::make_unique<Thread>(static_cast<int>(i), Extent(i, 0, 0), Stacks() + i * kStackStep,
                                                      kStackBytes, RunThread));
    MakeReady(block->threads.back().get());
  }
}

PhasedBarrier& BarrierAt(uint32_t address) {
  const auto found = block->phasedBarriers.find(address);
  if (found == block->phasedBarriers.end()) Fail("a barrier is used before it is made");
  return found->second;
}

void FinishPhase(PhasedBarrier* barrier) {
  if (barrier->missing > 0 || barrier->missingBytes != 0) return;
  barrier->missing = barrier->arrivals;
  ++barrier->phase;
  auto waiting = std::move(barrier->waiting);
  barrier->waiting.clear();
  for (const auto& [thread, parity] : waiting) {
    if ((barrier->phase & 1) != parity) {
      MakeReady(thread);
    } else {
      barrier->waiting.emplace_back(thread, parity);
    }
  }
}

}  // namespace

void Begin(uint64_t seed, Order order, int leftOut) {
  state = seed * 2 + 1;
  failed = false;
  orderLeftOut = order;
  placeLeftOut = leftOut;
  for (auto& met : places) met.clear();
}

int PlacesOf(Order order) { return static_cast<int>(places[static_cast<int>(order)].size()); }

bool LeavesOut(Order order, const void* at) {
  auto& met = places[static_cast<int>(order)];
  const auto found = std::find(met.begin(), met.end(), at);
  const int number = static_cast<int>(found - met.begin());
  if (found == met.end()) met.push_back(at);
  return order == orderLeftOut && number == placeLeftOut;
}

void Fail(const char* message) {
  if (Reports()) {
    std::fprintf(stderr, "emulator: thread %u of block %u: %s\n", place.thread.x, place.block.x, message);
  }
  failed = true;
  for (;;) Fiber::GiveWay();
}

bool TakeFailure() {
  const bool taken = failed;
  failed = false;
  return taken;
}

void Wait(const char* what) {
  self->waitsFor = what;
  Thread* const thread = self;
  Fiber::GiveWay();
  if (self != thread) std::abort();
}

void Run(Extent grid, unsigned threads, size_t sharedBytes, const std::function<void()>& thread) {
  kernel = &thread;
  place.grid = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x && !failed; ++x) {
        Block own;
        block = &own;
        place.block = Extent(x, y, z);
        PrepareBlock(threads, sharedBytes);
        RunBlock();
      }
    }
  }
}

// ---- Barriers of threads ----

void SyncThreads(int barrier, int threads) {
  if (LeavesOut(Order::kSyncThreads, __builtin_return_address(0))) return;
  NamedBarrier& named = block->namedBarriers[barrier];
  ++named.arrived;
  named.waiting.push_back(self);
  ReleaseIfComplete(&named, threads == kAllThreads ? block->running : threads);
  Wait("a barrier of the thread block");
}

const uint64_t* Meet(const char* kind, uint64_t own, void (*complete)(const uint64_t* all)) {
  Warp& warp = WarpOf(*self);
  auto& brought = warp.brought[warp.round & 1];
  if (warp.arrived == 0) warp.kind = kind;
  if (warp.kind != kind && std::strcmp(warp.kind, kind) != 0) Fail("lanes of a warp meet at different instructions");
  brought[static_cast<size_t>(self->index % kLanes)] = own;
  if (++warp.arrived < kLanes) {
    Wait(kind);
  } else {
    if (complete != nullptr) complete(brought.data());
    warp.arrived = 0;
    ++warp.round;
    const int first = self->index / kLanes * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      Thread* other = block->threads[static_cast<size_t>(first + lane)].get();
      if (other != self) MakeReady(other);
    }
  }
  return brought.data();
}

void SyncWarp() {
  if (LeavesOut(Order::kSyncWarp, __builtin_return_address(0))) return;
  Meet("__syncwarp", 0);
}

// ---- Shared memory ----

uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const uint8_t*>(pointer) - cuda::shared) + kSharedBase;
}

char* SharedAt(uint32_t address, size_t bytes) {
  if (address < kSharedBase || address - kSharedBase + bytes > block->sharedBytes)
    Fail("an address is not of shared memory");
  return reinterpret_cast<char*>(cuda::shared) + (address - kSharedBase);
}

void StoreShared(uint32_t address, const void* from, size_t bytes) {
  if (address % bytes != 0) Fail("a store is not aligned");
  std::memcpy(SharedAt(address, bytes), from, bytes);
  for (uint32_t word = (address - kSharedBase) / 4; word < (address - kSharedBase + bytes) / 4; ++word) {
    block->writers[word] = static_cast<uint16_t>(self->index + 1);
    self->unfenced.push_back(word);
  }
}

void FenceAsync() {
  if (LeavesOut(Order::kFenceAsync, __builtin_return_address(0))) return;
  for (const uint32_t word : self->unfenced) {
    if (block->writers[word] == self->index + 1) block->writers[word] = 0;
  }
  self->unfenced.clear();
}

void RequireFenced(uint32_t address, size_t bytes) {
  SharedAt(address, bytes);
  const auto first = block->writers.begin() + (address - kSharedBase) / 4;
  const auto last = first + static_cast<std::ptrdiff_t>(bytes / 4);
  if (std::any_of(first, last, [](uint16_t writer) { return writer != 0; })) {
    Fail("the copy engine or a product reads what FenceAsync() has not ordered before");
  }
}

void PoisonShared(uint32_t address, size_t bytes) {
  std::memset(SharedAt(address, bytes), 0xff, bytes);
  const auto first = block->writers.begin() + (address - kSharedBase) / 4;
  std::fill(first, first + static_cast<std::ptrdiff_t>(bytes / 4), 0);
}

// ---- Copies by threads ----

void CopyAsync(uint32_t to, const void* from, bool valid) {
  if (to % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0)) Fail("a copy is not aligned");
  PoisonShared(to, 16);
  self->copies.back().push_back({to, valid ? from : nullptr});
}

void CommitCopies() { self->copies.emplace_back(); }

void WaitCopies(size_t pending) {
  if (LeavesOut(Order::kWaitCopies, __builtin_return_address(0))) return;
  auto& groups = self->copies;
  while (groups.size() > pending + 1) {
    for (const SmallCopy& copy : groups.front()) {
      char* to = SharedAt(copy.to, 16);
      if (copy.from == nullptr) {
        std::memset(to, 0, 16);
      } else {
        std::memcpy(to, copy.from, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

// ---- Barriers with phases ----

void InitBarrier(uint32_t barrier, int arrivals) {
  SharedAt(barrier, 8);
  if (barrier % 8 != 0) Fail("a barrier is not aligned");
  PhasedBarrier phased;
  phased.arrivals = phased.missing = arrivals;
  block->phasedBarriers[barrier] = phased;
}

void Arrive(uint32_t barrier, uint32_t bytes) {
  PhasedBarrier& phased = BarrierAt(barrier);
  phased.missingBytes += bytes;
  --phased.missing;
  FinishPhase(&phased);
}

void WaitParity(uint32_t barrier, uint32_t parity) {
  if (LeavesOut(Order::kWaitBarrier, __builtin_return_address(0))) return;
  PhasedBarrier& phased = BarrierAt(barrier);
  if ((phased.phase & 1) != parity) return;
  phased.waiting.emplace_back(self, parity);
  Wait("a phase of a barrier");
}

// ---- The copy engine ----

void StartCopy(uint32_t barrier, uint32_t bytes, std::function<void()> copy) {
  BarrierAt(barrier);
  block->engine.push_back([=, copy = std::move(copy)] {
    copy();
    PhasedBarrier& phased = BarrierAt(barrier);
    phased.missingBytes -= bytes;
    FinishPhase(&phased);
  });
}

void StartAddition(std::function<void()> add) { self->additions.push_back(std::move(add)); }

void CommitBulk() {
  for (auto& add : self->additions) self->committedAdditions.push_back(std::move(add));
  self->additions.clear();
}

void WaitBulkRead() {
  if (LeavesOut(Order::kWaitBulk, __builtin_return_address(0))) return;
  for (const auto& add : self->committedAdditions) add();
  self->committedAdditions.clear();
}

}  // namespace flashmask::emulator
