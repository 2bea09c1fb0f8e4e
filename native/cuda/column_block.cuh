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

// The query blocks [first, end) that may see a key block. Number i of the walk is block At(i).
struct QueryWalk {
  int first, end;
  bool backwards;
  __device__ int At(int i) const { return backwards ? first + end - 1 - i : i; }
};

// Key blocks that add to dq in order walk backwards. Then those that see all rows to the end of a document, or of the
// problem, begin together and follow each other. Forwards, each begins at the triangle, two blocks after the one before
// has begun there, but must come after it in all others.
template <int kBlockQ>
__device__ inline QueryWalk QueryWalkOf(const KeyBlock& keys, const Sizes& s, bool causal, bool backwards) {
  return {causal ? max(keys.c0 - (s.Sk - s.Sq), 0) / kBlockQ : 0, (s.Sq + kBlockQ - 1) / kBlockQ, backwards};
}

// A query block of one of the query heads that share the key head.
struct QueryBlock {
  int head;   // within the group
  int block;  // -1: there is none
  bool partial;
};

}  // namespace flashmask::cuda
