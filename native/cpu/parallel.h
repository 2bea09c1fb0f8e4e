// The threads of the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace flashmask {
namespace cpu {

// `threads` itself if positive, else FLASHMASK_NUM_THREADS, else OMP_NUM_THREADS, else the cores that the process may
// use.
int ThreadCount(int threads);

// Calls body(item, thread) for each item in [0, items), thread in [0, threads). Threads take the next item when they
// are done with one; the caller's is thread 0. Returns when all are done. May be called from several threads at once.
void ParallelFor(int threads, int64_t items, const std::function<void(int64_t item, int thread)>& body);

}  // namespace cpu
}  // namespace flashmask
