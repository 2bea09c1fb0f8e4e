/**
 * @file Which rows and tiles a workgroup of a pass over queries (forward, dq) has, as WGSL. Rows are a block of queries of one head,
 * and tiles the key blocks that they may see. Where queries are few (src/few_queries.ts), rows are those of `foldedHeads` heads, one
 * after the other, and tiles every `splits`-th key block.
 *
 * Results of a split go where the tensors have theirs, `splits` times over, as if the splits were more batch rows. With one split
 * that is the tensors themselves, so that a single shader serves any number.
 */
import type {PassPlan} from '../../plan.js';

/** Whether heads are folded and keys split. */
const isCut = (p: PassPlan): boolean => p.fewQueries && p.pass !== 'dkdv';

/** Declares the first head of the workgroup, b H + h, its first row and, where there are few queries, its split. */
export function rowsOfWorkgroup(p: PassPlan): string {
  if (isCut(p)) {
    return `  let split = workgroup % u.splits;
  let bh = workgroup / u.splits * u.foldedHeads;
  let qFirst = 0u;`;
  }
  return `  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let bh = workgroup / queryBlocks;
  // The last query blocks see most keys under a causal mask: start them first.
  let qFirst = (queryBlocks - 1u - workgroup % queryBlocks) * BLOCK_Q;`;
}

/** End of the rows. */
export const rowEndOf = (p: PassPlan): string => (isCut(p) ? 'u.foldedHeads * u.Sq' : 'u.Sq');

/** The query of a row. */
export const queryOf = (p: PassPlan, row: string): string => (isCut(p) ? `((${row}) % u.Sq)` : row);

/** The head of a row, b H + h. */
export const headOf = (p: PassPlan, row: string): string => (isCut(p) ? `(bh + (${row}) / u.Sq)` : 'bh');

/** Where a row of a tensor with so named strides starts, counted from the tensor's base. */
export function rowOffset(p: PassPlan, stride: string, row: string): string {
  if (!isCut(p)) return `${row} * u.${stride}Row`;
  return `(${row} / u.Sq) * u.${stride}Head + (${row} % u.Sq) * u.${stride}Row`;
}

/** The batch row that results of batch row b go to. */
export const resultBatchOf = (p: PassPlan): string => (isCut(p) ? '(split * u.B + b)' : 'b');

/** Declares the tiles to walk over, from `firstTile` to `lastTile`. */
export function tilesOfWorkgroup(p: PassPlan): string {
  return `  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let firstTile = 0u;
  let lastTile = ${lastTileOf(p)};`;
}

function lastTileOf(p: PassPlan): string {
  // No triangle ends before the last key: these are all rows, and the last one sees all keys.
  if (isCut(p)) return '(keyBlocks + u.splits - 1u - split) / u.splits';
  if (!p.causal) return 'keyBlocks';
  return 'u32(clamp((r1 + u.causalOffset + i32(BLOCK_K) - 1) / i32(BLOCK_K), 0, i32(keyBlocks)))';
}

/** The key block of a tile. */
export const keyBlockOf = (p: PassPlan, tile: string): string => (isCut(p) ? `(${tile} * u.splits + split)` : tile);
