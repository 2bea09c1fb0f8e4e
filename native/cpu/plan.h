// How a call is divided into items of work, and where in the scratch everything lies. Plain data: kernels of all
// instruction sets read it.
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

// How the query rows of one key head are cut into panels.
struct Panels {
  bool folded;   // rows of several query heads share a panel: fewer queries than a panel has, and one mask for them
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

// What forward and backward have in common.
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

// An item is a run of panels of one key head, by all keys or one of `splits` runs of tiles.
struct ForwardPlan : Plan {
  ForwardTensors tensors;
  int64_t panelsPerItem;
  int64_t blocks;  // items of one key head and split
  int64_t splits;
  int64_t tilesPerSplit;
  float* partials;  // of each panel and split, if there are several: unscaled output, maximum and sum
};

// One panel in the forward pass. Query rows lie in lanes: column i is row i.
struct ForwardPanel {
  float* queries;  // [D, kPanel]
  float* out;      // [padded Dv, kPanel]: sum of the weights times V, not yet divided by `sum`
  float* max;      // [kPanel]: what scores are less; at most kRescale below the largest score seen
  float* sum;      // [kPanel]
};

struct ForwardScratch {
  float* keys;    // [kKeyTile / kMicroRows, D, kMicroRows]
  float* values;  // [kKeyTile, padded Dv]
  float* scores;  // [kKeyTile, kPanel]
  float* panels;  // [panelsPerItem, PanelFloats]
  float* rows;    // [panelsPerItem, FewRowsFloats]: queries and outputs of panels of few rows
  float* finite;  // [kKeyTile, PackedRow(Dv)]: values of a tile without those that are not finite
};

// An item is a run of panels of one key head by a run of its tiles.
struct BackwardPlan : Plan {
  BackwardTensors tensors;
  int64_t keySplits;
  int64_t tilesPerSplit;
  int64_t panelSplits;
  int64_t panelsPerSplit;
  int64_t chunkTiles;
  float* rowShift;    // [B, H, Sq]: delta - dLse, with delta = rowsum(dO ∘ O)
  uint8_t* hasPart;   // [keySplits, B, Hkv, panels]: whether the split has a part of the panel's dq
  float* dqPartials;  // [keySplits - 1] tensors like dq: the first split writes dq itself
  float* dkPartials;  // [panelSplits - 1] like dk
  float* dvPartials;
};

struct BackwardScratch {
  // Of a chunk of key tiles.
  float* keys;     // [chunk / kMicroRows, D, kMicroRows]
  float* values;   // [chunk / kMicroRows, Dv, kMicroRows]
  float* keyRows;  // [chunk, PackedRow(D)]
  float* dKeys;    // [chunk, PackedRow(D)]
  float* dValues;  // [chunk, PackedRow(Dv)]
  // Of a panel.
  float* queries;    // [D, kPanel]
  float* dOuts;      // [Dv, kPanel]
  float* queryRows;  // [kPanel, PackedRow(D)]
  float* dOutRows;   // [kPanel, PackedRow(Dv)]
  float* dQueries;   // [kPanel, PackedRow(D)]
  float* max;        // [kPanel]: what scores are less
  float* factor;     // [kPanel]: of the exponentials of that: 1 over their sum
  float* rowShift;   // [kPanel]
  // Of a tile.
  float* weights;  // [kKeyTile, kPanel]: scores, then dropped weights
  float* dScores;  // [kKeyTile, kPanel]: gradients of dropped weights, then of scores
  float* finite;   // [kKeyTile, PackedRow of D or Dv]: rows of a product without numbers that are not finite
};

// Floats of the queries and outputs, row by row, of a panel of few rows.
int64_t FewRowsFloats(const Problem& problem);

// Floats of a ForwardPanel.
int64_t PanelFloats(const Problem& problem);
ForwardPanel PanelAt(const Problem& problem, float* memory);

// The rows of one panel of a batch and key head.
void ListRows(const Plan& plan, int64_t b, int64_t keyHead, int64_t panel, PanelRows* rows);

// Plans a call and places its buffers in `scratch`, which may be null to learn `*bytes`.
ForwardPlan PlanForward(const Problem& problem, int threads, void* scratch, size_t* bytes);
BackwardPlan PlanBackward(const Problem& problem, int threads, void* scratch, size_t* bytes);

// The buffers of one thread.
ForwardScratch ForwardScratchOf(const ForwardPlan& plan, int thread);
BackwardScratch BackwardScratchOf(const BackwardPlan& plan, int thread);

}  // namespace cpu
}  // namespace flashmask
