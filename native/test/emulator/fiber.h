// A fiber: a function with a stack of its own, which runs until it gives way.
#pragma once

#include <cstddef>

namespace flashmask::emulator {

class Fiber {
 public:
  // `run` never returns: it gives way for ever at its end.
  Fiber(void* stack, size_t bytes, void (*run)());

  // Runs the fiber until it gives way.
  void Resume();
  // Called on a fiber: goes back to Resume().
  static void GiveWay();

 private:
#if defined(__x86_64__) && defined(__linux__)
  void* stackPointer_;
#else
  alignas(16) char context_[2048];
#endif
};

}  // namespace flashmask::emulator
