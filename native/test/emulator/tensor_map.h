// The copy engine: bulk copies, and boxes of tensors.
#pragma once

#include <array>
#include <cstdint>

#include "include/cuda.h"

namespace flashmask::emulator {

using Coordinates = std::array<int, 5>;

// Copies a box to shared memory; elements outside of the tensor become zeros.
void CopyBox(uint32_t shared, const CUtensorMap& map, uint32_t barrier, const Coordinates& first);
void CopyBulk(uint32_t shared, const void* from, uint32_t bytes, uint32_t barrier);

// Copies from shared memory to that of another thread block of the cluster.
void CopyShared(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier);

// Stores 16 bytes of registers there.
void StoreThere(uint32_t to, const std::array<int, 4>& values, uint32_t barrier);

// Copies a box from shared memory to memory, or adds its floats; elements outside of the tensor are left out.
void StoreBox(const CUtensorMap& map, uint32_t shared, const Coordinates& first);
void AddBox(const CUtensorMap& map, uint32_t shared, const Coordinates& first);
void AddBulk(float* to, uint32_t shared, uint32_t bytes);

}  // namespace flashmask::emulator
