// Tells which tiles of a mask are empty, partial or full, with the bounds map: the smallest and largest bounds of each
// tile of keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../attention.h"
#include "geometry.h"

namespace flashmask {
namespace cpu {

struct BoundsMap {
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

// The intervals that the n bounds of a column mean. TWIN: src/mask/bounds/intervals.ts
Intervals IntervalsAt(const int32_t* bounds, int64_t n, bool causal);

enum class TileKind { kEmpty, kPartial, kFull };

// The kind of the tile of rows [r0, r1) and columns [c0, c1), from the eight numbers of the bounds map for these
// columns. kEmpty and kFull are always right; kPartial may be too careful. TWIN: src/mask/bounds/classify.ts
TileKind Classify(const BoundsMap& map, const int32_t* columnBounds, int64_t r0, int64_t r1, int64_t c0, int64_t c1);

size_t BoundsMapBytes(const Problem& problem);

// `memory` holds BoundsMapBytes.
BoundsMap BuildBoundsMap(const Problem& problem, const int32_t* bounds, void* memory, int threads);

// The head of the bounds that query head h of batch b reads, counted over batches. TWIN: src/call/problem.ts
int64_t MaskHeadOf(const Problem& problem, int64_t b, int64_t h);

// The first tile in [from, to) that is not empty for the query rows [r0, r1).
LiveTile NextLiveTile(const BoundsMap& map, int64_t maskHead, int64_t r0, int64_t r1, int64_t from, int64_t to);

// The keys of a tile that a panel reads, and their masks if the tile is partial.
struct TileKeys {
  int64_t begin;  // within the tile, a multiple of kTrim
  int64_t count;  // 0 if no row sees any
  bool partial;
  Intervals columns[kKeyTile];  // of the keys from `begin` on
};

// Reads a live tile for the query rows [r0, r1). Drops keys that no row sees from both ends of a partial tile.
void ReadTile(const BoundsMap& map, int64_t maskHead, int64_t r0, int64_t r1, const LiveTile& tile, TileKeys* keys);

// Whether a query row sees any key.
bool SeesKey(const BoundsMap& map, int64_t maskHead, int64_t row);

}  // namespace cpu
}  // namespace flashmask
