// Puts CUDA work into order with TensorFlow's, without TensorFlow's stream: its C API shows that stream to pluggable
// devices only.
#pragma once

#include <mutex>
#include <string>

#include "cuda_driver.h"

namespace flashmask {
namespace cuda {

// While it lives, the device of the pointer is current, and `stream()` is a stream there for the kernels of one call:
//
//   producers of the inputs -> (event of the context) -> kernels on stream() -> (event) -> all later work of the
//   context
//
// The events capture, and hold back, the work of every stream of the context (cuCtxRecordEvent, cuCtxWaitEvent), so
// none has to be known. The host never waits. Drivers older than CUDA 12.5 have no such events: there the host waits
// for the context before, and for the stream after the kernels. So it does too with FLASHMASK_CUDA_ORDER=synchronize in
// the environment.
//
// Memory: TensorFlow's allocator hands freed memory out anew at once, on the host's time, and relies on the order of
// its stream. That is safe for what the kernels still read and write, inputs, outputs and scratch alike, since Finish()
// comes before any of them is freed: whoever gets the memory next queues work after it, and that work waits for the
// event.
class OrderedStream {
 public:
  explicit OrderedStream(const void* devicePointer);
  ~OrderedStream();
  OrderedStream(const OrderedStream&) = delete;
  OrderedStream& operator=(const OrderedStream&) = delete;

  // To be called after the kernels are queued, and before anything that they use is freed.
  void Finish();

  // What went wrong so far, or nothing. After an error in the constructor there is no stream.
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
  // One call at a time queues work in a context, so that its two events are not recorded anew in between.
  std::unique_lock<std::mutex> lock_;
};

}  // namespace cuda
}  // namespace flashmask
