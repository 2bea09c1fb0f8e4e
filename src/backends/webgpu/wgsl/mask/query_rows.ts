/**
 * @file WGSL that maps a workgroup of the forward or dq pass to its query rows and key tiles. The rows are a block of
 * queries of one head, and the tiles are the key blocks that they may see. With few queries
 * (src/backends/webgpu/plan/decoding.ts) the rows are those of `foldedHeads` heads, one head after the other, and the
 * tiles are every `splits`-th key block. row_blocks.ts declares which rows and tiles a workgroup has.
 *
 * Results of splits are stored as if the splits were further batch rows, so they take `splits` times the memory of the
 * tensors. With one split they are the tensors themselves, so that a single shader serves any number of splits.
 */
import type {ShaderPlan} from '../../plan/vector_plan.js';

/** One past the last row, as WGSL. */
export const rowEndOf = (p: ShaderPlan): string => (p.fewQueries ? 'u.foldedHeads * u.Sq' : 'u.Sq');

/** The query of a row, as WGSL. */
export const queryOf = (p: ShaderPlan, row: string): string => (p.fewQueries ? `((${row}) % u.Sq)` : row);

/** The head of a row, b H + h, as WGSL. */
export const headOf = (p: ShaderPlan, row: string): string => (p.fewQueries ? `(bh + (${row}) / u.Sq)` : 'bh');

/** The start of a row, counted from the tensor's base, as WGSL. `stride` names the tensor's strides. */
export function rowOffset(p: ShaderPlan, stride: string, row: string): string {
  if (!p.fewQueries) return `${row} * u.${stride}Row`;
  return `(${row} / u.Sq) * u.${stride}Head + (${row} % u.Sq) * u.${stride}Row`;
}

/** The batch row that results of batch row b are stored to, as WGSL. */
export const resultBatchOf = (p: ShaderPlan): string => (p.fewQueries ? '(split * u.B + b)' : 'b');

/** The key block of a tile, as WGSL. */
export const keyBlockOf = (p: ShaderPlan, tile: string): string =>
  p.fewQueries ? `(${tile} * u.splits + split)` : tile;
