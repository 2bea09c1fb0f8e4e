/** @file Numbers that the kernels of several languages must agree on. scripts/constants.ts writes native/constants.h from them. */

/** Largest D and Dv: channels of a head. */
export const MAX_HEAD_SIZE = 256;

/** Key columns of a block of the bounds map on GPUs. It divides the keys of every tile, so that all passes read one map. */
export const MAP_BLOCK = 32;

/**
 * Heads whose row blocks take turns under a mask with intervals. The longest row blocks, often the same of each head, then start first. With
 * more heads in turn, their tensors would leave the cache that all cores share. The CUDA kernels ran fastest with 8.
 */
export const HEADS_IN_TURN = 8;
