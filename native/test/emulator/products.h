// Products of matrices, by a warp and by a warpgroup.
#pragma once

#include <cstdint>

#include "machine.h"

namespace flashmask::emulator {

// Four matrices of 8 rows of 16 bytes; a lane gives the address of one row.
void LoadMatrix(uint32_t (&r)[4], uint32_t address, bool transposed);

// c[16 x 8] += a[16 x 16] b[16 x 8].
void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Number number);

// c[16 x 8] += a[16 x 8] b[8 x 8] of floats with the precision of TF32.
void MmaTf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// A thread's part in a product of its warpgroup.
struct Product {
  float* accumulators;
  int columns;
  uint32_t left[4];  // unless the left operand is in shared memory
  uint64_t leftAt, rightAt;
  bool leftInRegisters, adds;
  bool leftColumns, rightColumns;  // the operand is summed over its rows
  Number number;
};

// Starts a product of the warpgroup. The accumulators are poison until it is waited for.
void StartProduct(const Product& product);
void CommitProducts();
void WaitProducts(int pending);

}  // namespace flashmask::emulator
