// The state of the thread block that runs.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "fiber.h"
#include "machine.h"
#include "products.h"

namespace flashmask::emulator {

// A copy of a few bytes to shared memory; from null: zeros.
struct SmallCopy {
  uint32_t to;
  const void* from;
  size_t bytes;
};

// The accumulators of products that are not finished. The thread's own registers hold poison meanwhile.
struct Accumulators {
  float* registers;
  std::vector<float> values;
  int products;  // that are not finished
};

struct Block;
struct Cluster;

struct Thread {
  Thread(Block* block, int index, void* stack, size_t stackBytes, void (*run)())
      : block(block), index(index), fiber(stack, stackBytes, run) {}

  Block* block;
  int index;
  Fiber fiber;
  bool done = false;
  const char* waitsFor = "";
  std::vector<std::vector<SmallCopy>> copies{1};                   // groups, the last of which is open
  std::vector<std::vector<Addition>> additions{1};                 // the same
  std::vector<std::shared_ptr<std::function<void()>>> unfinished;  // additions that have read shared memory
  size_t votes = 0;                                                // that the thread took part in
  std::vector<Product> products;                                   // not finished
  std::vector<size_t> productGroups;                               // the number of products at the end of each group
  std::vector<Accumulators> accumulators;
  std::vector<uint32_t> unfenced;  // words that the thread has written
};

struct Warp {
  std::vector<Thread*> ready;
  int arrived = 0;
  int round = 0;
  const char* kind = "";
  std::array<uint64_t, kLanes> brought[2];  // a lane may go on before another has read
};

struct NamedBarrier {
  int arrived = 0;
  std::vector<Thread*> waiting;
};

struct PhasedBarrier {
  int arrivals;
  int missing;
  int64_t missingBytes = 0;
  uint32_t phase = 0;
  std::vector<std::pair<Thread*, uint32_t>> waiting;  // with the parity of the phase
};

struct Block {
  Cluster* cluster;
  Extent place;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<Warp*> ready;  // those with threads that are ready
  std::vector<Thread*> delayed;
  std::map<int, NamedBarrier> namedBarriers;
  std::map<uint32_t, PhasedBarrier> phasedBarriers;
  bool voted[3] = {};             // by the number of the vote
  std::vector<uint8_t> memory;    // while another block of the cluster runs
  std::vector<uint16_t> writers;  // of each word that is not fenced, the thread and 1; otherwise 0
  int running = 0;
};

// A copy of the copy engine that is under way, of a thread block.
struct EngineCopy {
  Block* block;
  std::function<void()> run;
};

// Thread blocks that run together and reach each other's shared memory.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<EngineCopy> engine;
  std::vector<EngineCopy> late;  // copies that wait until nobody else can go on
  NamedBarrier barrier;
  size_t sharedBytes = 0;
  Block* last = nullptr;  // the block that ran last
  size_t stacks = 0;      // which stacks its threads have
};

extern Cluster* cluster;
extern Block* block;  // of the thread or copy that runs
extern Thread* self;

// Lets others run until a thread or the scheduler has made this one ready.
void Wait(const char* what);
// Whether the experiment leaves out the instruction at this place.
bool LeavesOut(Order order, const void* at);

}  // namespace flashmask::emulator
