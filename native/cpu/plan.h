// How a call is divided into items of work, and where each buffer lies in the scratch. Plain data, because the kernels
// of all instruction sets read it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../attention.h"
#include "bounds_map.h"
#include "geometry.h"

namespace flashmask {
namespace cpu {

// Element strides of a tensor; the channel stride is 1.
struct Strides {
  int64_t batch;
  int64_t row;
  int64_t head;
};

// How the query rows of one key head are divided into panels.
struct Panels {
  bool folded;   // panels hold rows of several query heads: queries are few, and the heads share a mask
  int64_t rows;  // rows of a panel
  int64_t perHead;
  int64_t count;  // panels of one batch and key head
};

// The rows of one panel.
struct PanelRows {
  int count;
  int64_t firstRow;  // all rows are in [firstRow, endRow)
  int64_t endRow;
  int64_t maskHead;
  int32_t row[kPanel];
  int32_t head[kPanel];  // query head
};

// The common fields of the forward and backward plans.
struct Plan {
  Problem problem;
  Strides q, k, v, out;
  Panels panels;
  BoundsMap mask;
  int64_t tiles;  // tiles of kKeyTile keys
  int64_t items;
  int threads;
  void* maskMemory;  // BoundsMapBytes
  char* threadScratch;
  size_t threadBytes;  // scratch of one thread
};

// An item is a run of panels of one key head with all keys or one of `splits` runs of tiles.
struct ForwardPlan : Plan {
  ForwardTensors tensors;
  int64_t panelsPerItem;
  int64_t blocks;  // items of one key head and split
  int64_t splits;
  int64_t tilesPerSplit;
  float* partials;  // per panel and split, if there are several splits: unscaled output, maximum and sum
};

// One panel in the forward pass. Query rows are lanes: column i is row i.
struct ForwardPanel {
  float* queries;  // [D, kPanel]
  float* out;      // [padded Dv, kPanel]: sum of the weights times V, not yet divided by `sum`
  float* max;      // [kPanel]: subtracted from scores; at most kRescale below the largest score seen
  float* sum;      // [kPanel]
};

struct ForwardScratch {
  float* keys;    // [kKeyTile / kMicroRows, D, kMicroRows]
  float* values;  // [kKeyTile, padded Dv]
  float* scores;  // [kKeyTile, kPanel]
  float* panels;  // [panelsPerItem, PanelFloats]
  float* rows;    // [panelsPerItem, FewRowsFloats]: queries and outputs of panels of few rows
  float* finite;  // [kKeyTile, PackedRow(Dv)]: values of a tile, with 0 for numbers that are not finite
};

// An item is a run of panels of one key head with a run of its tiles.
struct BackwardPlan : Plan {
  BackwardTensors tensors;
  int64_t keySplits;
  int64_t tilesPerSplit;
  int64_t panelSplits;
  int64_t panelsPerSplit;
  int64_t chunkTiles;
  float* rowShift;    // [B, H, Sq]: delta - dLse, with delta = rowsum(dO ∘ O)
  uint8_t* hasPart;   // [keySplits, B, Hkv, panels]: whether the split has a partial dq of the panel
  float* dqPartials;  // [keySplits - 1] tensors like dq: the first split writes dq itself
  float* dkPartials;  // [panelSplits - 1] tensors like dk
  float* dvPartials;
};

struct BackwardScratch {
  // Per chunk of key tiles.
  float* keys;     // [chunk / kMicroRows, D, kMicroRows]
  float* values;   // [chunk / kMicroRows, Dv, kMicroRows]
  float* keyRows;  // [chunk, PackedRow(D)]
  float* dKeys;    // [chunk, PackedRow(D)]
  float* dValues;  // [chunk, PackedRow(Dv)]
  // Per panel.
  float* queries;    // [D, kPanel]
  float* dOuts;      // [Dv, kPanel]
  float* queryRows;  // [kPanel, PackedRow(D)]
  float* dOutRows;   // [kPanel, PackedRow(Dv)]
  float* dQueries;   // [kPanel, PackedRow(D)]
  float* max;        // [kPanel]: subtracted from scores
  float* factor;     // [kPanel]: 1 / sum of the exponentials of the differences
  float* rowShift;   // [kPanel]
  // Per tile.
  float* weights;  // [kKeyTile, kPanel]: scores, then dropped weights
  float* dScores;  // [kKeyTile, kPanel]: gradients of dropped weights, then of scores
  float* finite;   // [kKeyTile, PackedRow of D or Dv]: rows of an operand, with 0 for numbers that are not finite
};

// Floats of the queries and outputs, row by row, of a panel of few rows.
int64_t FewRowsFloats(const Problem& problem);

// Floats of a ForwardPanel.
int64_t PanelFloats(const Problem& problem);
ForwardPanel PanelAt(const Problem& problem, float* memory);

// The rows of one panel of a batch and key head.
void ListRows(const Plan& plan, int64_t b, int64_t keyHead, int64_t panel, PanelRows* rows);

// Plans a call and places its buffers in `scratch`. With a null `scratch` it only computes `*bytes`.
ForwardPlan PlanForward(const Problem& problem, int threads, void* scratch, size_t* bytes);
BackwardPlan PlanBackward(const Problem& problem, int threads, void* scratch, size_t* bytes);

// The buffers of one thread.
ForwardScratch ForwardScratchOf(const ForwardPlan& plan, int thread);
BackwardScratch BackwardScratchOf(const BackwardPlan& plan, int thread);

}  // namespace cpu
}  // namespace flashmask
