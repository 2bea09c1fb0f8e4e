#include "cuda_order.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

namespace flashmask {
namespace cuda {

// Created once per context and kept: TensorFlow works in the primary contexts of its devices, which live as long as the
// process.
struct OrderedStream::PerContext {
  std::mutex mutex;
  Stream stream = nullptr;
  Event before = nullptr;
  Event after = nullptr;
  bool events = false;  // else synchronise
};

namespace {

bool EventsAllowed() {
  const char* order = std::getenv("FLASHMASK_CUDA_ORDER");
  return !order || std::strcmp(order, "synchronize") != 0;
}

}  // namespace

OrderedStream::OrderedStream(const void* devicePointer) : driver_(FindDriver()) {
  if (!driver_) {
    error_ = "CUDA_ERROR_NO_DEVICE: libcuda.so.1 cannot be used";
    return;
  }
  if (!EnterDeviceOf(devicePointer)) return;
  PerContext* state = Find(*driver_, context_, &error_);
  if (!state) return;
  lock_ = std::unique_lock<std::mutex>(state->mutex);
  state_ = state;
  WaitForProducers();
}

OrderedStream::~OrderedStream() {
  if (lock_) lock_.unlock();
  Context popped = nullptr;
  if (pushed_) driver_->ContextPopCurrent(&popped);
}

void* OrderedStream::stream() const { return state_->stream; }

bool OrderedStream::Check(Result result) {
  if (result != kSuccess && error_.empty()) error_ = Describe(*driver_, result);
  return result == kSuccess;
}

// TensorFlow has made current the context of the op's device, where the inputs are. If another context is current, this
// enters the context of the inputs.
bool OrderedStream::EnterDeviceOf(const void* devicePointer) {
  int wanted = 0;
  Device current = -1;
  const Result asked =
      driver_->PointerGetAttribute(&wanted, kPointerDeviceOrdinal, reinterpret_cast<size_t>(devicePointer));
  if (!Check(asked) || !Check(driver_->ContextGetCurrent(&context_))) return false;
  if (context_ && !Check(driver_->ContextGetDevice(&current))) return false;
  if (context_ && current == wanted) return true;
  if (!Check(driver_->PrimaryContextRetain(&context_, wanted))) return false;
  pushed_ = Check(driver_->ContextPushCurrent(context_));
  return pushed_;
}

OrderedStream::PerContext* OrderedStream::Find(const Driver& driver, Context context, std::string* error) {
  static std::mutex mutex;
  // Never destroyed: at exit a thread may still be in a call, and the driver may be gone.
  static auto& states = *new std::map<Context, std::unique_ptr<PerContext>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<PerContext>& state = states[context];
  if (state) return state.get();
  auto made = std::make_unique<PerContext>();
  Result result = driver.StreamCreate(&made->stream, kStreamNonBlocking);
  if (result == kSuccess) result = driver.EventCreate(&made->before, kEventDisableTiming);
  if (result == kSuccess) result = driver.EventCreate(&made->after, kEventDisableTiming);
  if (result != kSuccess) {
    *error = Describe(driver, result);
    return nullptr;
  }
  made->events = driver.ContextRecordEvent && driver.ContextWaitEvent && EventsAllowed();
  state = std::move(made);
  return state.get();
}

void OrderedStream::WaitForProducers() {
  if (state_->events) {
    const Result recorded = driver_->ContextRecordEvent(context_, state_->before);
    if (recorded != kNotSupported) {
      if (Check(recorded)) Check(driver_->StreamWaitEvent(state_->stream, state_->before, 0));
      return;
    }
    state_->events = false;
  }
  Check(driver_->ContextSynchronize());
}

void OrderedStream::Finish() {
  if (!state_) return;
  if (state_->events && driver_->EventRecord(state_->after, state_->stream) == kSuccess &&
      driver_->ContextWaitEvent(context_, state_->after) == kSuccess) {
    return;
  }
  // Without events, or if they fail, no memory of the call may be freed before the work is done.
  Check(driver_->StreamSynchronize(state_->stream));
}

}  // namespace cuda
}  // namespace flashmask
