// The copy engine's boxes of tensors.
#include "tensor_map.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "machine.h"

namespace flashmask::emulator {
namespace {

constexpr uint32_t kChunk = 16;

uint32_t BytesOf(const CUtensorMap& map) {
  uint32_t bytes = map.elementBytes;
  for (uint32_t i = 0; i < map.rank; ++i) bytes *= map.box[i];
  return bytes;
}

// Calls act(address in shared memory, element in memory or null if it is outside of the tensor) for each element of a
// box. The first coordinate is the one that is contiguous.
template <class Act>
void ForBox(const CUtensorMap& map, uint32_t shared, const Coordinates& first, Act act) {
  const uint32_t bytes = BytesOf(map);
  for (uint32_t at = 0; at < bytes; at += map.elementBytes) {
    uint32_t rest = at / map.elementBytes;
    char* element = map.data;
    bool inside = true;
    for (uint32_t i = 0; i < map.rank; ++i) {
      const int64_t coordinate = int64_t{first[i]} + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && coordinate >= 0 && static_cast<uint64_t>(coordinate) < map.sizes[i];
      element += coordinate * static_cast<int64_t>(map.strides[i]);
    }
    const uint32_t place = shared + at;
    act(map.swizzles ? place ^ ((place >> 7 & 7) << 4) : place, inside ? element : nullptr);
  }
}

float FloatAt(uint32_t shared) {
  float x;
  std::memcpy(&x, SharedAt(shared, sizeof x), sizeof x);
  return x;
}

// What is added to floats in memory.
using Terms = std::vector<std::pair<float*, float>>;

std::function<void()> AddTerms(Terms terms) {
  return [terms = std::move(terms)] {
    for (const auto& [to, x] : terms) *to += x;
  };
}

void RequireAligned(const CUtensorMap& map, uint32_t shared) {
  if (shared % (map.swizzles ? 1024 : 128) != 0) Fail("a box is not aligned");
}

}  // namespace

void CopyBox(uint32_t shared, const CUtensorMap& map, uint32_t barrier, const Coordinates& first) {
  const uint32_t bytes = BytesOf(map);
  RequireAligned(map, shared);
  PoisonShared(shared, bytes);
  StartCopy(barrier, bytes, [=] {
    ForBox(map, shared, first, [&](uint32_t address, const char* element) {
      char* to = SharedAt(address, map.elementBytes);
      if (element == nullptr) {
        std::memset(to, 0, map.elementBytes);
      } else {
        std::memcpy(to, element, map.elementBytes);
      }
    });
  });
}

void CopyBulk(uint32_t shared, const void* from, uint32_t bytes, uint32_t barrier) {
  if (shared % kChunk != 0 || reinterpret_cast<uintptr_t>(from) % kChunk != 0 || bytes % kChunk != 0) {
    Fail("a bulk copy is not aligned");
  }
  PoisonShared(shared, bytes);
  StartCopy(barrier, bytes, [=] { std::memcpy(SharedAt(shared, bytes), from, bytes); });
}

void CopyShared(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
  if (to % kChunk != 0 || from % kChunk != 0 || bytes % kChunk != 0) Fail("a bulk copy is not aligned");
  RequireFenced(from, bytes);
  PoisonShared(to, bytes);
  StartCopy(barrier, bytes, [=] { std::memcpy(SharedAt(to, bytes), SharedAt(from, bytes), bytes); });
}

void StoreThere(uint32_t to, const std::array<int, 4>& values, uint32_t barrier) {
  if (to % kChunk != 0) Fail("a store to another thread block is not aligned");
  PoisonShared(to, sizeof values);
  StartCopy(barrier, sizeof values, [=] { std::memcpy(SharedAt(to, sizeof values), values.data(), sizeof values); });
}

void AddBox(const CUtensorMap& map, uint32_t shared, const Coordinates& first) {
  RequireAligned(map, shared);
  RequireFenced(shared, BytesOf(map));
  StartAddition([=] {
    Terms terms;
    ForBox(map, shared, first, [&](uint32_t address, char* element) {
      if (element != nullptr) terms.emplace_back(reinterpret_cast<float*>(element), FloatAt(address));
    });
    return AddTerms(std::move(terms));
  });
}

void StoreBox(const CUtensorMap& map, uint32_t shared, const Coordinates& first) {
  RequireAligned(map, shared);
  RequireFenced(shared, BytesOf(map));
  StartAddition([=] {
    std::vector<std::pair<char*, uint32_t>> elements;
    ForBox(map, shared, first, [&](uint32_t address, char* element) {
      if (element == nullptr) return;
      elements.emplace_back(element, 0);
      std::memcpy(&elements.back().second, SharedAt(address, map.elementBytes), map.elementBytes);
    });
    return [elements, bytes = map.elementBytes] {
      for (const auto& [to, bits] : elements) std::memcpy(to, &bits, bytes);
    };
  });
}

void AddBulk(float* to, uint32_t shared, uint32_t bytes) {
  if (shared % kChunk != 0 || reinterpret_cast<uintptr_t>(to) % kChunk != 0 || bytes % kChunk != 0) {
    Fail("a bulk addition is not aligned");
  }
  RequireFenced(shared, bytes);
  StartAddition([=] {
    Terms terms;
    for (uint32_t i = 0; i < bytes / sizeof(float); ++i)
      terms.emplace_back(to + i, FloatAt(shared + i * sizeof(float)));
    return AddTerms(std::move(terms));
  });
}

}  // namespace flashmask::emulator

namespace {

uint32_t ElementBytes(CUtensorMapDataType type) { return type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2; }

// What the driver refuses.
bool IsValid(const CUtensorMap& map, const cuuint32_t* steps) {
  const uint64_t row = uint64_t{map.box[0]} * map.elementBytes;
  bool valid = reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && row % 16 == 0 && (!map.swizzles || row <= 128);
  for (uint32_t i = 0; i < map.rank; ++i) {
    valid = valid && map.sizes[i] > 0 && map.box[i] > 0 && map.box[i] <= 256 && steps[i] == 1;
    valid = valid && (i == 0 || map.strides[i] % 16 == 0);
  }
  return valid;
}

}  // namespace

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  if (rank < 1 || rank > 5) return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<char*>(data), rank, ElementBytes(type), {}, {}, {}, swizzle == CU_TENSOR_MAP_SWIZZLE_128B};
  std::copy(sizes, sizes + rank, map->sizes);
  std::copy(box, box + rank, map->box);
  map->strides[0] = map->elementBytes;
  std::copy(strides, strides + rank - 1, map->strides + 1);
  return IsValid(*map, steps) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
