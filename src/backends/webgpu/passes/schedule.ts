/**
 * @file The schedule of a mask on the device: its size and the passes that make it. Its layout is in
 * src/backends/webgpu/wgsl/mask/schedule.ts.
 */
import {MAP_BLOCK} from '../../../call/constants.js';
import type {Problem} from '../../../call/problem.js';
import type {PassRun} from '../run/dispatch.js';
import type {UniformValues} from '../wgsl/header.js';
import type {RowBlocks} from '../wgsl/mask/row_blocks.js';
import {scheduleOf, scheduleOrder, scheduleRanges} from '../wgsl/mask/schedule.js';
import {specialize} from '../wgsl/shader.js';

/** Approximate operations of a classification: it reads and compares, and multiplies nothing. */
const CLASSIFY_OPS = 32;

/** Number of vec4i elements of a schedule in the mask buffer: one per row block of each mask head. */
export const scheduleLength = (p: Problem, blocks: RowBlocks): number => p.maskB * p.Hm * blocksOf(p, blocks).rows;

/**
 * Number of mask heads that share one order of row blocks. In dkdv these are all mask heads of the query heads of a key
 * head.
 */
export const headsOfOrder = ({pass}: RowBlocks, {groupSize, maskGroup}: UniformValues): number =>
  pass === 'dkdv' ? Math.max(1, groupSize / maskGroup) : 1;

/** The passes that write the schedule to `mask`. They run after the bounds map pass. */
export function schedulePasses(p: Problem, blocks: RowBlocks, mask: GPUBuffer, uniforms: UniformValues): PassRun[] {
  const {rows, cols} = blocksOf(p, blocks);
  const maskHeads = p.maskB * p.Hm;
  const heads = headsOfOrder(blocks, uniforms);
  const order = specialize(scheduleOrder, scheduleOf(blocks));
  return [
    {
      shader: specialize(scheduleRanges, scheduleOf(blocks)),
      buffers: [mask],
      uniforms,
      items: maskHeads * rows,
      flopsPerWorkgroup: cols * (blocks.blockK / MAP_BLOCK) * CLASSIFY_OPS,
    },
    {
      shader: order,
      buffers: [mask],
      uniforms,
      items: (maskHeads / heads) * rows,
      flopsPerWorkgroup: 4 * order.threads * rows * heads,
    },
  ];
}

/** Numbers of row blocks and of column blocks of a pass. */
function blocksOf(p: Problem, {pass, blockQ, blockK}: RowBlocks): {rows: number; cols: number} {
  const queries = Math.ceil(p.Sq / blockQ);
  const keys = Math.ceil(p.Sk / blockK);
  return pass === 'dkdv' ? {rows: keys, cols: queries} : {rows: queries, cols: keys};
}
