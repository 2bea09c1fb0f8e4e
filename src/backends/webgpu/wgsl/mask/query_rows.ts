/**
 * @file What the rows and tiles are that a workgroup of a pass over queries (forward, dq) has, as WGSL. Rows are a block of queries of one
 * head, and tiles the key blocks that they may see. Where queries are few (src/backends/webgpu/plan/decoding.ts), rows are those of `foldedHeads` heads, one
 * after the other, and tiles every `splits`-th key block. row_blocks.ts declares which a workgroup has.
 *
 * Results of a split go where the tensors have theirs, `splits` times over, as if the splits were more batch rows. With one split
 * that is the tensors themselves, so that a single shader serves any number.
 */
import type {PassPlan} from '../../plan/vector_plan.js';

/** Whether heads are folded and keys split. */
export const isCut = (p: Pick<PassPlan, 'fewQueries' | 'pass'>): boolean => p.fewQueries && p.pass !== 'dkdv';

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

/** The key block of a tile. */
export const keyBlockOf = (p: PassPlan, tile: string): string => (isCut(p) ? `(${tile} * u.splits + split)` : tile);
