// Hands out buffers of one piece of memory.
#pragma once

#include <cstddef>

#include "host.h"

namespace flashmask::cuda {

// With a null base it only counts bytes.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* Take(int64_t count) {
    T* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += CeilDivide(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    return result;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  int64_t bytes_ = 0;
};

}  // namespace flashmask::cuda
