// The block of keys of one key head that the backward kernel keeps, and the query blocks that it walks over.
#pragma once

#include "mask.cuh"
#include "params.h"
#include "row_block.cuh"

namespace flashmask::cuda {

struct KeyBlock {
  int b, keyHead, keyBatchHead;
  int group;  // query heads that share the key head
  int block;
  int c0, c1;  // columns [c0, c1)
};

// The key block number `index` of a call, head by head or with heads in turn. The first key blocks have the most work
// under a causal mask, and if some keys are seen by all rows.
template <int kBlockK>
__device__ inline KeyBlock KeyBlockAt(int index, const Sizes& s, bool inTurn) {
  KeyBlock keys;
  keys.group = s.H / s.Hkv;
  const int blocks = (s.Sk + kBlockK - 1) / kBlockK;
  const BlockOfHead place = BlockOfHeadAt(index, blocks, s.B * s.Hkv, inTurn);
  keys.block = place.block;
  keys.keyBatchHead = place.batchHead;
  keys.b = keys.keyBatchHead / s.Hkv;
  keys.keyHead = keys.keyBatchHead % s.Hkv;
  keys.c0 = keys.block * kBlockK;
  keys.c1 = min(keys.c0 + kBlockK, s.Sk);
  return keys;
}

// A query block of one of the query heads that share the key head.
struct QueryBlock {
  int head;   // within the group
  int block;  // -1: there is none
  bool partial;
};

}  // namespace flashmask::cuda
