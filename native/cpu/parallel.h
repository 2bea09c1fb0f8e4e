// The threads of the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace flashmask {
namespace cpu {

// `threads` if positive, else FLASHMASK_NUM_THREADS, else OMP_NUM_THREADS, else the number of cores that the process
// may use.
int ThreadCount(int threads);

// Calls body(item, thread) for each item in [0, items), with thread in [0, threads). A thread that has finished an item
// takes the next; the caller is thread 0. Returns when all items are done. Several threads may call it at once.
void ParallelFor(int threads, int64_t items, const std::function<void(int64_t item, int thread)>& body);

}  // namespace cpu
}  // namespace flashmask
