// The functions of native/cuda/instructions.cuh and hopper_instructions.cuh on the emulator.
#pragma once

#include "include/cuda.h"
#include "include/cuda_bf16.h"
#include "include/cuda_fp16.h"
#include "products.h"
#include "tensor_map.h"

namespace flashmask::cuda {

template <class T>
constexpr emulator::Number kNumber = emulator::Number::kHalf;
template <>
inline constexpr emulator::Number kNumber<__nv_bfloat16> = emulator::Number::kBfloat16;

// ---- instructions.cuh ----

inline uint32_t SharedAddress(const void* pointer) { return emulator::SharedAddress(pointer); }

inline void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  emulator::CopyAsync(shared, global, 16, valid);
}
inline void CopyAsync4(uint32_t shared, const void* global, bool valid) {
  emulator::CopyAsync(shared, global, 4, valid);
}

inline void CommitCopies() { emulator::CommitCopies(); }

template <int kPending>
void WaitCopies() {
  emulator::WaitCopies(kPending);
}

template <bool kTransposed>
void LoadMatrix(uint32_t (&r)[4], uint32_t shared) {
  emulator::LoadMatrix(r, shared, kTransposed);
}

inline void StoreShared(uint32_t shared, uint32_t value) { emulator::StoreShared(shared, &value, sizeof value); }

inline void StoreSharedPair(uint32_t shared, float x, float y) {
  const float pair[] = {x, y};
  emulator::StoreShared(shared, pair, sizeof pair);
}

template <class T>
void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Mma(c, a, b0, b1, kNumber<T>);
}

template <class T>
uint32_t Pack(float low, float high) {
  const auto round = kNumber<T> == emulator::Number::kHalf ? emulator::HalfOf : emulator::Bfloat16Of;
  return round(low) | static_cast<uint32_t>(round(high)) << 16;
}

// Numbers below the normal ones become 0.
inline float Exp2(float x) { return std::exp2(x < -126 ? -HUGE_VALF : x); }

inline void AddPair(float* at, float x, float y) {
  at[0] += x;
  at[1] += y;
}

inline void FenceAsync() { emulator::FenceAsync(); }
inline void AddBulkRow(float* to, uint32_t from, int bytes) {
  emulator::AddBulk(to, from, static_cast<uint32_t>(bytes));
}
inline void CommitBulk() { emulator::CommitBulk(); }
template <int kPending = 0>
void WaitBulkRead() {
  emulator::WaitBulkRead(kPending);
}

// ---- hopper_instructions.cuh ----

inline void InitBarrier(uint32_t barrier, int arrivals) { emulator::InitBarrier(barrier, arrivals); }
inline void FenceBarrierInit() {}
inline void Arrive(uint32_t barrier) { emulator::Arrive(barrier, 0); }
inline void ArriveExpecting(uint32_t barrier, uint32_t bytes) { emulator::Arrive(barrier, bytes); }
inline void WaitParity(uint32_t barrier, uint32_t parity) { emulator::WaitParity(barrier, parity); }

template <int kThreads>
void SyncThreads(int id) {
  emulator::SyncThreads(id, kThreads);
}

template <int kThreads>
void ArriveThreads(int id) {
  emulator::ArriveThreads(id, kThreads);
}

inline void CopyBox(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int channel, int row, int head,
                    int batch) {
  emulator::CopyBox(shared, *map, barrier, {channel, row, head, batch});
}

inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  emulator::CopyBulk(shared, global, bytes, barrier);
}

// To several thread blocks of a cluster, one bit of `blocks` each.
template <class Copy>
void CopyToBlocks(uint32_t shared, uint32_t barrier, uint16_t blocks, Copy copy) {
  for (int rank = 0; blocks >> rank != 0; ++rank) {
    if (blocks >> rank & 1) copy(emulator::InBlock(shared, rank), emulator::InBlock(barrier, rank));
  }
}

inline void CopyBox(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int channel, int row, int head,
                    int batch, uint16_t blocks) {
  CopyToBlocks(shared, barrier, blocks, [&](uint32_t to, uint32_t barrierThere) {
    emulator::CopyBox(to, *map, barrierThere, {channel, row, head, batch});
  });
}

inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier, uint16_t blocks) {
  CopyToBlocks(shared, barrier, blocks,
               [&](uint32_t to, uint32_t barrierThere) { emulator::CopyBulk(to, global, bytes, barrierThere); });
}

inline void StoreBox(const CUtensorMap* map, uint32_t shared, int channel, int row, int head, int batch) {
  emulator::StoreBox(*map, shared, {channel, row, head, batch});
}
inline void AddBox(const CUtensorMap* map, uint32_t shared, int channel, int row, int head, int batch) {
  emulator::AddBox(*map, shared, {channel, row, head, batch});
}

inline void WaitBulk() { emulator::WaitBulk(); }

inline void SetMark(int* mark, int value) { emulator::SetMark(mark, value); }
inline void WaitMark(const int* mark, int value) { emulator::WaitMark(mark, value); }

template <int kRegisters>
void GiveRegisters() {}
template <int kRegisters>
void TakeRegisters() {}

inline void FenceProducts() {}
inline void CommitProducts() { emulator::CommitProducts(); }

template <int kPending>
void WaitProducts() {
  emulator::WaitProducts(kPending);
}

// Lets the compiler assume that the accumulators have changed.
template <int kN>
void Pin(float (&acc)[kN][4]) {
  asm volatile("" ::"r"(&acc[0][0]) : "memory");
}

template <bool kColumns, bool kColumnsA = false, int kN, class T>
void Product16(float (&c)[kN][4], uint64_t a, uint64_t b, bool add, T) {
  emulator::StartProduct({&c[0][0], kN * 8, {}, a, b, false, add, kColumnsA, kColumns, kNumber<T>});
}

template <bool kColumns, int kN, class T>
void Product16(float (&c)[kN][4], const uint32_t (&a)[4], uint64_t b, bool add, T) {
  emulator::StartProduct({&c[0][0], kN * 8, {a[0], a[1], a[2], a[3]}, 0, b, true, add, false, kColumns, kNumber<T>});
}

// ---- Clusters ----

inline int BlockInCluster() { return emulator::BlockInCluster(); }

inline uint32_t InBlock(uint32_t shared, int rank) { return emulator::InBlock(shared, rank); }

template <int kBlocks>
void SyncCluster() {
  if constexpr (kBlocks == 1) {
    __syncthreads();
  } else {
    emulator::SyncCluster();
  }
}

inline void ArriveThere(uint32_t barrier) { emulator::Arrive(barrier, 0); }
inline void ArriveThereExpecting(uint32_t barrier, uint32_t bytes) { emulator::Arrive(barrier, bytes); }
inline void StoreThere(uint32_t shared, int4 value, uint32_t barrier) {
  emulator::StoreThere(shared, {value.x, value.y, value.z, value.w}, barrier);
}

inline void CopyThere(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
  emulator::CopyShared(to, from, bytes, barrier);
}

// ---- TF32 ----

// Rounds to nearest, away from zero in the middle.
inline uint32_t RoundToTf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  return std::isfinite(x) ? (bits + 0x1000) & ~0x1fffu : bits;
}

inline void MmaTf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::MmaTf32(c, a, b0, b1);
}

}  // namespace flashmask::cuda
