// Orders CUDA work with TensorFlow's work without TensorFlow's stream, because its C API gives that stream only to
// pluggable devices.
#pragma once

#include <mutex>
#include <string>

#include "cuda_driver.h"

namespace flashmask {
namespace cuda {

// While an object lives, the device of the pointer is current, and `stream()` is a stream on that device for the
// kernels of one call:
//
// producers of the inputs -> (event of the context) -> kernels on stream() -> (event) -> all later work of the
// context
//
// The events record, and hold back, the work of every stream of the context (cuCtxRecordEvent, cuCtxWaitEvent), so no
// stream need be known, and the host never waits. Drivers older than CUDA 12.5 have no such events. With them, or with
// FLASHMASK_CUDA_ORDER=synchronize in the environment, the host waits for the context before the kernels and for the
// stream after them.
//
// Memory: TensorFlow's allocator reuses freed memory at once, as seen from the host, and relies on the order of its
// stream. That is safe for all memory that the kernels still use (inputs, outputs and scratch), because Finish() comes
// before any of it is freed: the next user of the memory queues its work later, and that work waits for the event.
class OrderedStream {
 public:
  explicit OrderedStream(const void* devicePointer);
  ~OrderedStream();
  OrderedStream(const OrderedStream&) = delete;
  OrderedStream& operator=(const OrderedStream&) = delete;

  // Call it after the kernels are queued, and before anything that they use is freed.
  void Finish();

  // The first error, or an empty string. After an error in the constructor there is no stream.
  const std::string& error() const { return error_; }
  void* stream() const;

 private:
  struct PerContext;

  static PerContext* Find(const Driver& driver, Context context, std::string* error);
  bool Check(Result result);
  bool EnterDeviceOf(const void* devicePointer);
  void WaitForProducers();

  const Driver* driver_;
  std::string error_;
  Context context_ = nullptr;
  bool pushed_ = false;
  PerContext* state_ = nullptr;
  // Only one call at a time queues work in a context, so that no other call records its two events in between.
  std::unique_lock<std::mutex> lock_;
};

}  // namespace cuda
}  // namespace flashmask
