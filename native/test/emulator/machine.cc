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
Cluster* cluster = nullptr;
Block* block = nullptr;
Thread* self = nullptr;

namespace {

constexpr uint32_t kSharedBase = 1024;  // an address of 0 is nobody's
constexpr int kRankBits = 24;           // from here on an address has the number of a block of the cluster, and 1
constexpr size_t kMostThreads = 4096;
constexpr size_t kStackBytes = 256 * 1024;
// The stacks begin in different sets of the processor's caches.
constexpr size_t kStackStep = kStackBytes + 4096 + 64;

uint64_t state;  // of the generator of draws: xorshift64* (Vigna 2016)
bool failed = false;
Order orderLeftOut;
int placeLeftOut = -1;
std::vector<const void*> places[kOrders];
const std::function<void()>* kernel = nullptr;
Block* mapped = nullptr;  // whose shared memory is in place

// A thread that waits for a mark.
struct MarkWait {
  Thread* thread;
  const int* mark;
  int value;
};
std::vector<MarkWait> markWaits;

std::vector<std::unique_ptr<Cluster>> clusters;  // those that run

size_t Draw(size_t count) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (state * 0x2545f4914f6cdd1du >> 32) * count >> 32;
}

char* Stacks() {
  static char* const stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackStep, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return stacks;
}

Warp& WarpOf(const Thread& thread) { return thread.block->warps[static_cast<size_t>(thread.index / kLanes)]; }

void MakeReady(Thread* thread) {
  Warp& warp = WarpOf(*thread);
  if (warp.ready.empty()) thread->block->ready.push_back(&warp);
  warp.ready.push_back(thread);
}

void ReleaseIfComplete(NamedBarrier* barrier, int threads) {
  if (barrier->arrived < threads) return;
  for (Thread* thread : barrier->waiting) MakeReady(thread);
  *barrier = {};
}

void RequireFinished() {
  if (!self->products.empty()) Fail("a thread ends before its products");
  const auto& groups = self->additions;
  if (std::any_of(groups.begin(), groups.end(), [](const auto& group) { return !group.empty(); })) {
    Fail("a thread ends before its additions have read shared memory");
  }
}

int RunningIn(const Cluster& some) {
  int running = 0;
  for (const auto& other : some.blocks) running += other->running;
  return running;
}

void RunThread() {
  (*kernel)();
  RequireFinished();
  self->done = true;
  --block->running;
  ReleaseIfComplete(&block->namedBarriers[0], std::max(block->running, 1));
  ReleaseIfComplete(&cluster->barrier, std::max(RunningIn(*cluster), 1));
  for (;;) Fiber::GiveWay();
}

void RunEngine() {
  auto& engine = cluster->engine;
  std::swap(engine[Draw(engine.size())], engine.back());
  const EngineCopy copy = std::move(engine.back());
  engine.pop_back();
  block = copy.block;
  copy.run();
}

uint8_t* MemoryOf(Block* owner) { return owner == mapped ? cuda::shared : owner->memory.data(); }

// Puts the shared memory of a block in place.
void Map(Block* next) {
  if (next == mapped) return;
  if (mapped != nullptr) std::copy(cuda::shared, cuda::shared + mapped->memory.size(), mapped->memory.begin());
  std::copy(next->memory.begin(), next->memory.end(), cuda::shared);
  mapped = next;
}

void Resume(Thread* thread) {
  self = thread;
  place.thread = Extent(static_cast<unsigned>(thread->index), 0, 0);
  thread->fiber.Resume();
}

// Experiments fail as they should.
bool Reports() { return placeLeftOut < 0 && !failed; }

void ReportWaiting(const Block& waiting) {
  const char* last = "";
  for (const auto& thread : waiting.threads) {
    if (!Reports() || thread->done || thread->waitsFor == last) continue;
    last = thread->waitsFor;
    std::fprintf(stderr, "  thread %d of block %u: %s\n", thread->index, waiting.place.x, last);
  }
}

void ReportStandstill() {
  if (Reports()) std::fprintf(stderr, "emulator: all threads wait\n");
  for (const auto& some : clusters) {
    for (const auto& waiting : some->blocks) ReportWaiting(*waiting);
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

// A block with threads that are ready, mostly the one that ran last; null if there is none.
Block* NextBlock() {
  Block* last = cluster->last;
  if (last != nullptr && !last->ready.empty() && (cluster->blocks.size() == 1 || Draw(64) != 0)) return last;
  const size_t first = Draw(cluster->blocks.size());
  for (size_t i = 0; i < cluster->blocks.size(); ++i) {
    Block* next = cluster->blocks[(first + i) % cluster->blocks.size()].get();
    if (!next->ready.empty()) return next;
  }
  return nullptr;
}

// Makes delayed threads ready. Gives whether there are any.
bool EndDelays() {
  bool any = false;
  for (const auto& other : cluster->blocks) {
    for (Thread* thread : other->delayed) MakeReady(thread);
    any = any || !other->delayed.empty();
    other->delayed.clear();
  }
  return any;
}

// Gives the engine one of the copies that are late. Gives whether there are any.
bool StartLateCopy() {
  auto& late = cluster->late;
  if (late.empty()) return false;
  const auto drawn = late.begin() + static_cast<std::ptrdiff_t>(Draw(late.size()));
  cluster->engine.push_back(std::move(*drawn));
  late.erase(drawn);
  return true;
}

// Lets one warp or one copy of the cluster go on. Gives whether there was one.
bool StepCluster() {
  Block* const next = NextBlock();
  if (!cluster->engine.empty() && (next == nullptr || Draw(8) == 0)) {
    RunEngine();
    return true;
  }
  cluster->last = next;
  if (next == nullptr) return false;
  block = next;
  place.block = next->place;
  Map(next);
  RunWarp();
  return true;
}

// The same for any cluster, mostly the one that ran last.
bool Step() {
  const bool stays = std::any_of(clusters.begin(), clusters.end(), [](const auto& x) { return x.get() == cluster; });
  if (stays && (clusters.size() == 1 || Draw(64) != 0) && StepCluster()) return true;
  const size_t first = Draw(clusters.size());
  for (size_t i = 0; i < clusters.size(); ++i) {
    cluster = clusters[(first + i) % clusters.size()].get();
    if (StepCluster()) return true;
  }
  // Nobody can go on but those that are late.
  for (size_t i = 0; i < clusters.size(); ++i) {
    cluster = clusters[(first + i) % clusters.size()].get();
    if (EndDelays() || StartLateCopy()) return true;
  }
  return false;
}

bool HasEnded(const Cluster& some) { return RunningIn(some) == 0 && some.engine.empty() && some.late.empty(); }

std::unique_ptr<Block> MakeBlock(const Extent& at, unsigned threads, char* stacks) {
  auto made = std::make_unique<Block>();
  made->cluster = cluster;
  made->place = at;
  made->memory.assign(cluster->sharedBytes, 0xff);
  made->writers.assign(cluster->sharedBytes / 4 + 1, 0);
  made->warps.resize((threads + kLanes - 1) / kLanes);
  made->running = static_cast<int>(threads);
  for (unsigned i = 0; i < threads; ++i) {
    made->threads.push_back(
        std::make_unique<Thread>(made.get(), static_cast<int>(i), stacks + i * kStackStep, kStackBytes, RunThread));
    MakeReady(made->threads.back().get());
  }
  return made;
}

// Stacks that no running cluster has.
size_t FreeStacks() {
  size_t free = 0;
  const auto taken = [&](const auto& some) { return some->stacks == free; };
  while (std::any_of(clusters.begin(), clusters.end(), taken)) ++free;
  return free;
}

void StartCluster(const Extent& first, unsigned count, unsigned threads, size_t sharedBytes) {
  auto own = std::make_unique<Cluster>();
  cluster = own.get();
  own->sharedBytes = sharedBytes;
  own->stacks = FreeStacks();
  char* const stacks = Stacks() + own->stacks * count * threads * kStackStep;
  for (unsigned i = 0; i < count; ++i) {
    own->blocks.push_back(MakeBlock(Extent(first.x + i, first.y, first.z), threads, stacks + i * threads * kStackStep));
  }
  clusters.push_back(std::move(own));
}

void EndClusters() {
  const auto ended = [](const auto& some) { return HasEnded(*some); };
  for (const auto& some : clusters) {
    if (mapped != nullptr && mapped->cluster == some.get() && ended(some)) mapped = nullptr;
  }
  clusters.erase(std::remove_if(clusters.begin(), clusters.end(), ended), clusters.end());
}

// How many clusters may run at a time.
size_t DrawRoom(unsigned threads, unsigned blocksOfCluster) {
  const size_t most = std::min(static_cast<size_t>(device.processors), kMostThreads / threads) / blocksOfCluster;
  return Draw(std::max<size_t>(most, 1)) + 1;
}

// An address of shared memory: whose it is, and its place there.
struct Shared {
  Block* owner;
  uint32_t offset;
};

Shared Find(uint32_t address, size_t bytes) {
  const uint32_t rank = address >> kRankBits;
  const uint32_t offset = (address & ((1u << kRankBits) - 1)) - kSharedBase;
  if (rank > cluster->blocks.size() || offset > cluster->sharedBytes || offset + bytes > cluster->sharedBytes) {
    Fail("an address is not of shared memory");
  }
  Block* owner = rank == 0 ? block : cluster->blocks[rank - 1].get();
  if (owner->running == 0 && owner != block) Fail("the shared memory of a thread block is used after its end");
  return {owner, offset};
}

PhasedBarrier& BarrierAt(uint32_t address) {
  const Shared at = Find(address, 8);
  const auto found = at.owner->phasedBarriers.find(at.offset);
  if (found == at.owner->phasedBarriers.end()) Fail("a barrier is used before it is made");
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
  if (leftOut >= 0) return;  // places keep their numbers
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

void Run(Extent grid, unsigned threads, size_t sharedBytes, const std::function<void()>& thread,
         unsigned blocksOfCluster) {
  kernel = &thread;
  place.grid = grid;
  mapped = nullptr;
  const size_t room = sharedBytes == 0 ? 1 : DrawRoom(threads, blocksOfCluster);
  const unsigned total = grid.x * grid.y * grid.z / blocksOfCluster;
  for (unsigned started = 0; !failed && (started < total || !clusters.empty());) {
    if (started < total && clusters.size() < room) {
      const unsigned first = started++ * blocksOfCluster;
      const Extent at(first % grid.x, first / grid.x % grid.y, first / grid.x / grid.y);
      StartCluster(at, blocksOfCluster, threads, sharedBytes);
    } else if (!Step()) {
      ReportStandstill();
    }
    EndClusters();
  }
  clusters.clear();
  markWaits.clear();
}

// ---- Barriers of threads ----

void WaitAt(NamedBarrier* barrier, int threads, const char* what) {
  ++barrier->arrived;
  barrier->waiting.push_back(self);
  ReleaseIfComplete(barrier, threads);
  Wait(what);
}

void SyncThreads(int barrier, int threads) {
  if (LeavesOut(Order::kSyncThreads, __builtin_return_address(0))) return;
  WaitAt(&block->namedBarriers[barrier], threads == kAllThreads ? block->running : threads,
         "a barrier of the thread block");
}

void ArriveThreads(int barrier, int threads) {
  NamedBarrier& arrived = block->namedBarriers[barrier];
  ++arrived.arrived;
  ReleaseIfComplete(&arrived, threads);
}

bool SyncThreadsOr(bool x) {
  const size_t vote = self->votes++;
  block->voted[vote % 3] |= x;
  SyncThreads(0, kAllThreads);
  // Nobody votes there before all have come to the next vote.
  block->voted[(vote + 2) % 3] = false;
  return block->voted[vote % 3];
}

int BlockInCluster() { return static_cast<int>(place.block.x % cluster->blocks.size()); }

uint32_t InBlock(uint32_t address, int rank) {
  Find(address, 1);
  return address | static_cast<uint32_t>(rank + 1) << kRankBits;
}

void SyncCluster() {
  if (LeavesOut(Order::kSyncThreads, __builtin_return_address(0))) return;
  WaitAt(&cluster->barrier, RunningIn(*cluster), "a barrier of the cluster");
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
      Thread* other = self->block->threads[static_cast<size_t>(first + lane)].get();
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
  const Shared at = Find(address, bytes);
  return reinterpret_cast<char*>(MemoryOf(at.owner) + at.offset);
}

void StoreShared(uint32_t address, const void* from, size_t bytes) {
  if (address % bytes != 0) Fail("a store is not aligned");
  const Shared at = Find(address, bytes);
  std::memcpy(MemoryOf(at.owner) + at.offset, from, bytes);
  if (at.owner != block) return;
  for (uint32_t word = at.offset / 4; word < (at.offset + bytes) / 4; ++word) {
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
  const Shared at = Find(address, bytes);
  const auto first = at.owner->writers.begin() + at.offset / 4;
  const auto last = first + static_cast<std::ptrdiff_t>((bytes + 3) / 4);
  if (std::any_of(first, last, [](uint16_t writer) { return writer != 0; })) {
    Fail("the copy engine or a product reads what FenceAsync() has not ordered before");
  }
}

void PoisonShared(uint32_t address, size_t bytes) {
  const Shared at = Find(address, bytes);
  std::memset(MemoryOf(at.owner) + at.offset, 0xff, bytes);
  const auto first = at.owner->writers.begin() + at.offset / 4;
  std::fill(first, first + static_cast<std::ptrdiff_t>(bytes / 4), 0);
}

// ---- Copies by threads ----

void CopyAsync(uint32_t to, const void* from, size_t bytes, bool valid) {
  if (to % bytes != 0 || (valid && reinterpret_cast<uintptr_t>(from) % bytes != 0)) Fail("a copy is not aligned");
  PoisonShared(to, bytes);
  self->copies.back().push_back({to, valid ? from : nullptr, bytes});
}

void CommitCopies() { self->copies.emplace_back(); }

void WaitCopies(size_t pending) {
  if (LeavesOut(Order::kWaitCopies, __builtin_return_address(0))) return;
  auto& groups = self->copies;
  while (groups.size() > pending + 1) {
    for (const SmallCopy& copy : groups.front()) {
      char* to = SharedAt(copy.to, copy.bytes);
      if (copy.from == nullptr) {
        std::memset(to, 0, copy.bytes);
      } else {
        std::memcpy(to, copy.from, copy.bytes);
      }
    }
    groups.erase(groups.begin());
  }
}

// ---- Barriers with phases ----

void InitBarrier(uint32_t barrier, int arrivals) {
  const Shared at = Find(barrier, 8);
  if (barrier % 8 != 0) Fail("a barrier is not aligned");
  PhasedBarrier phased;
  phased.arrivals = phased.missing = arrivals;
  at.owner->phasedBarriers[at.offset] = phased;
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
  const auto run = [=, copy = std::move(copy)] {
    copy();
    PhasedBarrier& phased = BarrierAt(barrier);
    phased.missingBytes -= bytes;
    FinishPhase(&phased);
  };
  (Draw(4) == 0 ? cluster->late : cluster->engine).push_back({block, run});
}

void StartAddition(Addition addition) { self->additions.back().push_back(std::move(addition)); }

namespace {

void Finish(std::function<void()>* add) {
  if (*add) (*add)();
  *add = nullptr;
}

// The engine does this at any later time, unless the thread waits for it.
void FinishLater(std::function<void()> add) {
  auto shared = std::make_shared<std::function<void()>>(std::move(add));
  self->unfinished.push_back(shared);
  (Draw(4) == 0 ? cluster->late : cluster->engine).push_back({block, [shared] { Finish(shared.get()); }});
}

void ReadAdditions(size_t pending) {
  auto& groups = self->additions;
  while (groups.size() > pending + 1) {
    for (const Addition& read : groups.front()) FinishLater(read());
    groups.erase(groups.begin());
  }
}

}  // namespace

void CommitBulk() { self->additions.emplace_back(); }

void WaitBulkRead(size_t pending) {
  if (!LeavesOut(Order::kWaitBulk, __builtin_return_address(0))) ReadAdditions(pending);
}

void WaitBulk() {
  if (LeavesOut(Order::kWaitBulk, __builtin_return_address(0))) return;
  ReadAdditions(0);
  for (const auto& add : self->unfinished) Finish(add.get());
  self->unfinished.clear();
}

// ---- Marks ----

void SetMark(int* mark, int value) {
  *mark = value;
  const auto ends = [&](const MarkWait& wait) { return wait.mark == mark && wait.value == value; };
  for (const MarkWait& wait : markWaits) {
    if (ends(wait)) MakeReady(wait.thread);
  }
  markWaits.erase(std::remove_if(markWaits.begin(), markWaits.end(), ends), markWaits.end());
}

void WaitMark(const int* mark, int value) {
  if (LeavesOut(Order::kWaitMark, __builtin_return_address(0))) return;
  if (*mark == value) return;
  markWaits.push_back({self, mark, value});
  Wait("a mark in memory");
}

}  // namespace flashmask::emulator
