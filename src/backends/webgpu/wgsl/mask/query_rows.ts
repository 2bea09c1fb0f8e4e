/**
 * @file What the rows and tiles are that a workgroup of a pass over queries (forward, dq) has, as WGSL. Rows are a
 * block of queries of one head, and tiles the key blocks that they may see. Where queries are few
 * (src/backends/webgpu/plan/decoding.ts), rows are those of `foldedHeads` heads, one after the other, and tiles every
 * `splits`-th key block. row_blocks.ts declares which a workgroup has.
 *
 * Results of a split go where the tensors have theirs, `splits` times over, as if the splits were more batch rows. With
 * one split that is the tensors themselves, so that a single shader serves any number.
 */
import type {ShaderPlan} from '../../plan/vector_plan.js';

/** End of the rows. */
export const rowEndOf = (p: ShaderPlan): string => (p.fewQueries ? 'u.foldedHeads * u.Sq' : 'u.Sq');

/** The query of a row. */
export const queryOf = (p: ShaderPlan, row: string): string => (p.fewQueries ? `((${row}) % u.Sq)` : row);

/** The head of a row, b H + h. */
export const headOf = (p: ShaderPlan, row: string): string => (p.fewQueries ? `(bh + (${row}) / u.Sq)` : 'bh');

/** Where a row of a tensor with so named strides starts, counted from the tensor's base. */
export function rowOffset(p: ShaderPlan, stride: string, row: string): string {
  if (!p.fewQueries) return `${row} * u.${stride}Row`;
  return `(${row} / u.Sq) * u.${stride}Head + (${row} % u.Sq) * u.${stride}Row`;
}

/** The batch row that results of batch row b go to. */
export const resultBatchOf = (p: ShaderPlan): string => (p.fewQueries ? '(split * u.B + b)' : 'b');

/** The key block of a tile. */
export const keyBlockOf = (p: ShaderPlan, tile: string): string =>
  p.fewQueries ? `(${tile} * u.splits + split)` : tile;
