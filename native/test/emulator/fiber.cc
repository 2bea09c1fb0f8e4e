#include "fiber.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cstdint>

// Saves the registers that a call keeps, and goes on where the other stack did so. A jump, because processors predict
// that a return goes to the last call.
extern "C" void FlashmaskSwitchStack(void** from, void* to);
asm(R"(
.text
.p2align 4
FlashmaskSwitchStack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  pop %rcx
  jmp *%rcx
)");

namespace flashmask::emulator {
namespace {

void* resumed = nullptr;  // the stack of Resume()
void** running = nullptr;

}  // namespace

Fiber::Fiber(void* stack, size_t bytes, void (*run)()) {
  // A function begins 8 bytes after a multiple of 16, where its caller's address is.
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) / 16 * 16) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(run);
  stackPointer_ = top - 6;
}

void Fiber::Resume() {
  running = &stackPointer_;
  FlashmaskSwitchStack(&resumed, stackPointer_);
}

void Fiber::GiveWay() { FlashmaskSwitchStack(running, resumed); }

}  // namespace flashmask::emulator

#else

#include <ucontext.h>

#include <new>

namespace flashmask::emulator {
namespace {

ucontext_t resumed;
ucontext_t* running = nullptr;

}  // namespace

Fiber::Fiber(void* stack, size_t bytes, void (*run)()) {
  static_assert(sizeof(ucontext_t) <= sizeof context_, "a context fits");
  auto* context = new (context_) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  makecontext(context, run, 0);
}

void Fiber::Resume() {
  running = reinterpret_cast<ucontext_t*>(context_);
  swapcontext(&resumed, running);
}

void Fiber::GiveWay() { swapcontext(running, &resumed); }

}  // namespace flashmask::emulator

#endif
