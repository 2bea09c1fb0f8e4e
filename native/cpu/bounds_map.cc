#include "bounds_map.h"

#include <algorithm>
#include <limits>

#include "geometry.h"
#include "parallel.h"

namespace flashmask {
namespace cpu {
namespace {

constexpr int kBlockBounds = 8;
constexpr int32_t kNone[kBlockBounds] = {0};

void Widen(int32_t* range, int32_t low, int32_t high) {
  range[0] = std::min(range[0], low);
  range[1] = std::max(range[1], high);
}

void StartRange(int32_t* blockBounds) {
  for (int i = 0; i < kBlockBounds; i += 2) {
    blockBounds[i] = std::numeric_limits<int32_t>::max();
    blockBounds[i + 1] = std::numeric_limits<int32_t>::min();
  }
}

// Whether no interval from the smallest start to the largest end has a row in [r0, r1).
bool Misses(const int32_t* range, int64_t r0, int64_t r1) {
  return r1 <= range[0] || r0 >= range[3] || range[0] >= range[3];
}

// The first row from `reached` on that neither interval [start, end) covers. Two rounds, because the lower interval may
// begin where the upper one ends, or the other way round.
int64_t SkipIntervals(int64_t reached, int32_t start, int32_t end, int32_t upperStart, int32_t upperEnd) {
  for (int i = 0; i < 2; ++i) {
    if (start <= reached) reached = std::max<int64_t>(reached, end);
    if (upperStart <= reached) reached = std::max<int64_t>(reached, upperEnd);
  }
  return reached;
}

// The first row, from r0 on, in which the causal triangle does not mask key j.
int64_t FirstRow(const BoundsMap& map, int64_t r0, int64_t j) {
  return map.causal ? std::max(r0, j - (map.keys - map.rows)) : r0;
}

const int32_t* TileBounds(const BoundsMap& map, int64_t maskHead, int64_t tile) {
  return map.n == 0 ? kNone : map.byTile + (maskHead * map.tiles + tile) * kBlockBounds;
}

const int32_t* GroupBounds(const BoundsMap& map, int64_t maskHead, int64_t group) {
  return map.n == 0 ? kNone : map.byGroup + (maskHead * map.groups + group) * kBlockBounds;
}

// A group takes a microsecond; for a few of them, waking a thread takes longer.
void FillGroup(const BoundsMap& map, int64_t maskHead, int64_t group) {
  int32_t* ofGroup = map.byGroup + (maskHead * map.groups + group) * kBlockBounds;
  StartRange(ofGroup);
  const int64_t lastTile = std::min((group + 1) * kGroupTiles, map.tiles);
  for (int64_t tile = group * kGroupTiles; tile < lastTile; ++tile) {
    int32_t* ofTile = map.byTile + (maskHead * map.tiles + tile) * kBlockBounds;
    StartRange(ofTile);
    const int64_t end = std::min((tile + 1) * kKeyTile, map.keys);
    for (int64_t j = tile * kKeyTile; j < end; ++j) {
      const Intervals column = IntervalsAt(map.bounds + (maskHead * map.keys + j) * map.n, map.n, map.causal);
      for (int i = 0; i < 4; ++i) Widen(ofTile + 2 * i, column.v[i], column.v[i]);
    }
    for (int i = 0; i < kBlockBounds; i += 2) Widen(ofGroup + i, ofTile[i], ofTile[i + 1]);
  }
}

}  // namespace

Intervals IntervalsAt(const int32_t* bounds, int64_t n, bool causal) {
  constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  if (n == 0) return {{0, 0, 0, 0}};
  if (n == 1) return {{bounds[0], kMax, 0, 0}};
  if (n == 4) return {{bounds[0], bounds[1], bounds[2], bounds[3]}};
  return causal ? Intervals{{bounds[0], bounds[1], 0, 0}} : Intervals{{bounds[0], kMax, kMin, bounds[1]}};
}

TileKind Classify(const BoundsMap& map, const int32_t* at, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  if (SkipIntervals(FirstRow(map, r0, c0), at[1], at[2], at[5], at[6]) >= r1) return TileKind::kEmpty;
  const bool belowTriangle = !map.causal || FirstRow(map, r0, c1 - 1) == r0;
  return belowTriangle && Misses(at, r0, r1) && Misses(at + 4, r0, r1) ? TileKind::kFull : TileKind::kPartial;
}

size_t BoundsMapBytes(const Problem& problem) {
  if (problem.n == 0) return 0;
  const int64_t tiles = CeilDiv(problem.Sk, kKeyTile);
  const int64_t groups = CeilDiv(tiles, kGroupTiles);
  return static_cast<size_t>(problem.maskB * problem.Hm * (tiles + groups) * kBlockBounds) * sizeof(int32_t);
}

BoundsMap BuildBoundsMap(const Problem& problem, const int32_t* bounds, void* memory, int threads) {
  BoundsMap map = {};
  map.bounds = bounds;
  map.rows = problem.Sq;
  map.keys = problem.Sk;
  map.n = problem.n;
  map.causal = problem.causal;
  map.tiles = CeilDiv(problem.Sk, kKeyTile);
  map.groups = CeilDiv(map.tiles, kGroupTiles);
  if (map.n == 0) return map;
  const int64_t heads = problem.maskB * problem.Hm;
  map.byTile = static_cast<int32_t*>(memory);
  map.byGroup = map.byTile + heads * map.tiles * kBlockBounds;
  constexpr int64_t kSmall = 16;  // A group takes a microsecond: waking a thread for a few takes longer.
  const int64_t items = heads * map.groups;
  ParallelFor(items < kSmall ? 1 : threads, items,
              [&](int64_t item, int) { FillGroup(map, item / map.groups, item % map.groups); });
  return map;
}

int64_t MaskHeadOf(const Problem& p, int64_t b, int64_t h) { return (p.maskB == 1 ? 0 : b) * p.Hm + h / (p.H / p.Hm); }

LiveTile NextLiveTile(const BoundsMap& map, int64_t maskHead, int64_t r0, int64_t r1, int64_t from, int64_t to) {
  int64_t end = to;
  if (map.causal) end = std::min(end, CeilDiv(std::max<int64_t>(r1 + map.keys - map.rows, 0), kKeyTile));
  for (int64_t tile = from; tile < end; ++tile) {
    const int64_t c0 = tile * kKeyTile;
    if (tile % kGroupTiles == 0) {
      const int64_t groupEnd = std::min(c0 + kGroupTiles * kKeyTile, map.keys);
      if (Classify(map, GroupBounds(map, maskHead, tile / kGroupTiles), r0, r1, c0, groupEnd) == TileKind::kEmpty) {
        tile += kGroupTiles - 1;
        continue;
      }
    }
    const int64_t c1 = std::min(c0 + kKeyTile, map.keys);
    const TileKind kind = Classify(map, TileBounds(map, maskHead, tile), r0, r1, c0, c1);
    if (kind != TileKind::kEmpty) return {tile, kind == TileKind::kPartial};
  }
  return {to, false};
}

void ReadTile(const BoundsMap& map, int64_t maskHead, int64_t r0, int64_t r1, const LiveTile& tile, TileKeys* keys) {
  const int64_t first = tile.index * kKeyTile;
  keys->begin = 0;
  keys->count = std::min<int64_t>(kKeyTile, map.keys - first);
  keys->partial = tile.partial;
  if (!tile.partial) return;
  const auto column = [&](int64_t i) {
    const int32_t* at = map.bounds + (maskHead * map.keys + first + i) * map.n;
    return IntervalsAt(at, map.n, map.causal);
  };
  const auto unseen = [&](int64_t i) {
    const Intervals at = column(i);
    return SkipIntervals(FirstRow(map, r0, first + i), at.v[0], at.v[1], at.v[2], at.v[3]) >= r1;
  };
  int64_t begin = 0;
  int64_t end = keys->count;
  const int64_t all = end;
  while (end > 0 && unseen(end - 1)) --end;
  while (begin < end && unseen(begin)) ++begin;
  if (begin == end) {
    keys->count = 0;
    return;
  }
  keys->begin = begin / kTrim * kTrim;
  keys->count = std::min(RoundUp(end, kTrim), all) - keys->begin;
  for (int64_t i = 0; i < keys->count; ++i) keys->columns[i] = column(keys->begin + i);
}

bool SeesKey(const BoundsMap& map, int64_t maskHead, int64_t row) {
  const auto next = [&](int64_t from) { return NextLiveTile(map, maskHead, row, row + 1, from, map.tiles); };
  for (LiveTile tile = next(0); tile.index < map.tiles; tile = next(tile.index + 1)) {
    TileKeys keys;
    ReadTile(map, maskHead, row, row + 1, tile, &keys);
    if (keys.count > 0) return true;
  }
  return false;
}

}  // namespace cpu
}  // namespace flashmask
