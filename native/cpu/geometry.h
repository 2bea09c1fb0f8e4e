// Sizes of the blocks that the CPU kernels work on. They do not depend on the instruction set, so that plans and
// results' order of additions are the same everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../constants.h"

namespace flashmask {
namespace cpu {

// Query rows of a panel. They lie in the lanes of vectors: 3 vectors of AVX-512, 6 of AVX2, 12 of NEON.
constexpr int kPanel = 48;

// Keys of a tile. A tile is a panel's rows by this many keys: 12 KiB of scores.
constexpr int kKeyTile = 64;

// Tiles whose bounds are summed up once more, so that long runs of empty tiles are skipped at once.
constexpr int kGroupTiles = 16;

// Keys that no row of a panel sees are cut off a tile's ends in multiples of this, the most rows of a micro-kernel.
constexpr int kTrim = 8;

// Vectors in the registers of a micro-kernel, across; kPanel is a multiple of 3 vectors of every instruction set.
constexpr int kMaxVectors = 3;

// Packed rows are padded to this many floats, the widest vector.
constexpr int kRowPad = 16;

// Packed columns of V, in the forward pass, are padded to this many, the most rows of a micro-kernel.
constexpr int kColumnPad = 8;

// Panels of at most this many rows, as in decoding, may be multiplied row by row, straight from K and V
// (few_rows.inc.h).
constexpr int kMaxFewRows = 8;

// Panels that share a packed tile of K and V in the forward pass.
constexpr int kMaxPanelsPerItem = 8;

// Keys, values and their gradients that the backward pass keeps at once: they stay in a core's level-2 cache.
constexpr size_t kChunkBytes = 512 * 1024;
constexpr int kMaxChunkTiles = 16;

// Work is divided until there are this many items (fewer if they would be too small). A fixed number, whatever the
// number of threads: the order in which partial results are added depends on it, and so does their memory.
constexpr int64_t kWantedItems = 32;
constexpr int64_t kMaxSplits = 8;
constexpr int64_t kMinSplitRows = 512;

// Scratch of each thread and buffer begins at a multiple of this.
constexpr size_t kAlign = 64;

// Floats in a packed row of `channels`. An odd number of cache lines: rows a power of two apart would share a few cache
// sets.
static constexpr int64_t PackedRow(int64_t channels) { return (((channels + kRowPad - 1) / kRowPad) | 1) * kRowPad; }

static constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

static constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

static constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

static constexpr int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace cpu
}  // namespace flashmask
