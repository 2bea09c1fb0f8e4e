/**
 * @file Numbers that the kernels of several languages must agree on. scripts/constants.ts writes native/constants.h
 * from them.
 */

/** Largest D and Dv: channels of a head. */
export const MAX_HEAD_SIZE = 256;

/**
 * Key columns per block of the bounds map on GPUs. It divides the key count of every tile, so all passes read one map.
 */
export const MAP_BLOCK = 32;

/**
 * Number of heads whose row blocks take turns under a mask with intervals. The longest row blocks, often the same ones
 * in each head, then start first. The tensors of more heads would not fit the cache that all cores share. The CUDA
 * kernels ran fastest with 8.
 */
export const HEADS_IN_TURN = 8;
