// Which tiles of a mask are empty, partial or full: smallest and largest bounds of each tile of keys, as
// src/mask/bounds/tile_map.ts has it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../attention.h"
#include "geometry.h"

namespace flashmask {
namespace cpu {

struct MaskMap {
  const int32_t* bounds;  // [maskB, Hm, Sk, n]
  int64_t rows;           // Sq
  int64_t keys;           // Sk
  int64_t n;
  bool causal;
  int64_t tiles;     // tiles of kKeyTile keys
  int64_t groups;    // groups of kGroupTiles tiles
  int32_t* byTile;   // [maskB, Hm, tiles, 8]: LTSmin LTSmax LTEmin LTEmax UTSmin UTSmax UTEmin UTEmax; null if n is 0
  int32_t* byGroup;  // [maskB, Hm, groups, 8]
};

// A tile of keys that some row of a panel sees.
struct LiveTile {
  int64_t index;  // the end of the search if there is none
  bool partial;   // else full: no pair is masked
};

// The bounds of one key column: rows in [v[0], v[1]) and [v[2], v[3]) are masked.
struct Intervals {
  int32_t v[4];
};

size_t MaskMapBytes(const Problem& problem);

// `memory` holds MaskMapBytes.
MaskMap BuildMaskMap(const Problem& problem, const int32_t* bounds, void* memory, int threads);

// Which head of the bounds query head h of batch b reads, counted over batches.
int64_t MaskHead(const Problem& problem, int64_t b, int64_t h);

// The first tile in [from, to) that is not empty for the query rows [r0, r1).
LiveTile NextLiveTile(const MaskMap& map, int64_t maskHead, int64_t r0, int64_t r1, int64_t from, int64_t to);

// The keys of a tile that a panel works on, and their masks if it is partial.
struct TileKeys {
  int64_t begin;  // within the tile, a multiple of kTrim
  int64_t count;  // 0 if no row sees any
  bool partial;
  Intervals columns[kKeyTile];  // of keys begin on
};

// Reads a live tile for the query rows [r0, r1). Of a partial one, keys that no row sees are cut off at both ends.
void ReadTile(const MaskMap& map, int64_t maskHead, int64_t r0, int64_t r1, const LiveTile& tile, TileKeys* keys);

// Whether a query row sees any key.
bool SeesKey(const MaskMap& map, int64_t maskHead, int64_t row);

}  // namespace cpu
}  // namespace flashmask
