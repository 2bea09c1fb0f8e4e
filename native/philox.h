// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the counter-based generator of
// dropout, for the host. The vector form is in native/cpu/dropout.inc.h. TWIN: src/call/dropout.ts
#pragma once

#include <cstdint>

namespace flashmask {

constexpr uint32_t kPhiloxM0 = 0xd2511f53u;
constexpr uint32_t kPhiloxM1 = 0xcd9e8d57u;
constexpr uint32_t kPhiloxW0 = 0x9e3779b9u;
constexpr uint32_t kPhiloxW1 = 0xbb67ae85u;
constexpr int kPhiloxRounds = 10;

// Replaces the counter by its four words.
inline void Philox4x32(uint32_t counter[4], uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxM0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxM1) * counter[2];
    counter[0] = static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0;
    counter[2] = static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1;
    counter[1] = static_cast<uint32_t>(product1);
    counter[3] = static_cast<uint32_t>(product0);
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
}

// Whether the pair of query row r and key column j of query head batchHead = b * H + h is dropped.
inline bool Dropped(uint64_t seed, uint32_t threshold, uint32_t batchHead, uint32_t r, uint32_t j) {
  uint32_t words[4] = {j >> 2, r, batchHead, 0};
  Philox4x32(words, seed);
  return words[j & 3] < threshold;
}

}  // namespace flashmask
