#include <cstdlib>
#include <cstring>

#include "../attention.h"
#include "kernels.h"

namespace flashmask {
namespace cpu {
namespace {

#if defined(__x86_64__)
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

// The kernels that this machine can run, best first; returns their number.
int ListKernels(const Kernels* list[4]) {
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (HasAvx512()) list[count++] = &avx512::kKernels;
  if (HasAvx2()) list[count++] = &avx2::kKernels;
#elif defined(__aarch64__)
  list[count++] = &neon::kKernels;
#endif
  list[count++] = &generic::kKernels;
  return count;
}

const Kernels& Choose() {
  const Kernels* list[4];
  const int count = ListKernels(list);
  const char* wanted = std::getenv("FLASHMASK_CPU");
  for (int i = 0; wanted != nullptr && i < count; ++i) {
    if (std::strcmp(list[i]->name, wanted) == 0) return *list[i];
  }
  return *list[0];
}

}  // namespace

const Kernels& SelectedKernels() {
  static const Kernels& kernels = Choose();
  return kernels;
}

const char* InstructionSet() { return SelectedKernels().name; }

}  // namespace cpu
}  // namespace flashmask
