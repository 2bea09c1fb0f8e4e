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
__device__ inline KeyBlock KeyBlockAt(int index, const Sizes& s, bool inTurn, int headsInTurn = kHeadsInTurn) {
  KeyBlock keys;
  keys.group = s.H / s.Hkv;
  const int blocks = (s.Sk + kBlockK - 1) / kBlockK;
  const BlockOfHead place = BlockOfHeadAt(index, blocks, s.B * s.Hkv, inTurn, headsInTurn);
  keys.block = place.block;
  keys.keyBatchHead = place.batchHead;
  keys.b = keys.keyBatchHead / s.Hkv;
  keys.keyHead = keys.keyBatchHead % s.Hkv;
  keys.c0 = keys.block * kBlockK;
  keys.c1 = min(keys.c0 + kBlockK, s.Sk);
  return keys;
}

// Block number i of a walk over the query blocks [first, end). Key blocks that add to dq in order walk backwards. Then
// those that see all rows to the end of a document, or of the problem, begin together and follow each other. Forwards,
// each begins at the triangle, two blocks after the one before has begun there, but must come after it in all others.
__device__ inline int BlockOfWalk(int i, int first, int end, bool backwards) {
  return backwards ? first + end - 1 - i : i;
}

// A query block of one of the query heads that share the key head.
struct QueryBlock {
  int head;   // within the group
  int block;  // -1: there is none
  bool partial;
};

}  // namespace flashmask::cuda
