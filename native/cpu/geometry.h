// Block sizes of the CPU kernels. They do not depend on the instruction set, so that plans and the order of additions
// are the same everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../constants.h"

namespace flashmask {
namespace cpu {

// Query rows of a panel. They are the lanes of vectors: 3 vectors of AVX-512, 6 of AVX2, 12 of NEON.
constexpr int kPanel = 48;

// Keys of a tile. A tile is a panel's rows by this many keys: 12 KiB of scores.
constexpr int kKeyTile = 64;

// Tiles per group. A group has its own smallest and largest bounds, so that long runs of empty tiles are skipped at
// once.
constexpr int kGroupTiles = 16;

// Keys that no row of a panel sees are dropped from the ends of a tile in multiples of this number, the most rows of a
// micro-kernel.
constexpr int kTrim = 8;

// Most vectors of columns in a micro-kernel; kPanel is a multiple of 3 vectors in every instruction set.
constexpr int kMaxVectors = 3;

// Packed rows are padded to a multiple of this many floats, the widest vector.
constexpr int kRowPad = 16;

// In the forward pass, packed columns of V are padded to a multiple of this number, the most rows of a micro-kernel.
constexpr int kColumnPad = 8;

// Panels with at most this many rows, as in decoding, may be multiplied row by row, directly from K and V
// (few_rows.inc.h).
constexpr int kMaxFewRows = 8;

// Panels that share a packed tile of K and V in the forward pass.
constexpr int kMaxPanelsPerItem = 8;

// Bytes of the keys, values and their gradients that the backward pass holds at once, so that they stay in the level-2
// cache of a core.
constexpr size_t kChunkBytes = 512 * 1024;
constexpr int kMaxChunkTiles = 16;

// Work is divided into this many items, or fewer if they would be too small. The number does not depend on the threads,
// because it determines the memory of partial results and the order in which they are added.
constexpr int64_t kWantedItems = 32;
constexpr int64_t kMaxSplits = 8;
constexpr int64_t kMinSplitRows = 512;

// The scratch of each thread, and each buffer, begins at a multiple of this many bytes.
constexpr size_t kAlign = 64;

// Floats in a packed row of `channels`. The row takes an odd number of cache lines: rows a power of two apart would
// share a few cache sets.
static constexpr int64_t PackedRow(int64_t channels) { return (((channels + kRowPad - 1) / kRowPad) | 1) * kRowPad; }

static constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

static constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

static constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

static constexpr int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace cpu
}  // namespace flashmask
