/** @file Results of the splits of a pass over few queries (src/backends/webgpu/plan/decoding.ts): where they go, and the passes that combine them. */
import {FLOAT} from '../../../call/numbers.js';
import type {Cut} from '../plan/decoding.js';
import type {Problem} from '../../../call/problem.js';
import type {BufferRange, PassRun} from '../run/dispatch.js';
import type {Scratch} from '../run/scratch.js';
import {combineDq, combineOut, elementsOf} from '../wgsl/vector/combine.js';
import {elementType, type UniformValues} from '../wgsl/header.js';
import {specialize} from '../wgsl/shader.js';

/** Where a pass over queries writes its results, and what makes one result of those of its splits. */
export interface SplitResults {
  buffers: BufferRange[];
  /** Passes to run next: none after a single split. */
  combine: PassRun[];
}

/**
 * Room for the results of so many splits. Rounded up, for tfjs keeps a released buffer for the next of its very size: a growing cache of keys
 * would leave one of each.
 */
const roomFor = (splits: number): number => 2 ** Math.ceil(Math.log2(splits));

/** Bytes, for each key head, of the results of a cut pass: the largest of its buffers, by a name for errors. */
export function splitBytes(p: Problem, {splits}: Cut, channels: number): Record<string, number> {
  if (splits === 1) return {};
  return {
    'the results of few queries before they are added up': roomFor(splits) * FLOAT * (p.H / p.Hkv) * p.Sq * channels,
  };
}

/** out, lse and rowStats of a forward pass of `uniforms.splits` splits, which go to `results`. */
export function splitOut(p: Problem, uniforms: UniformValues, results: BufferRange[], scratch: Scratch): SplitResults {
  const rows = p.B * p.H * p.Sq;
  // Their lse is not read: the statistics say more.
  const shader = specialize(combineOut, p);
  return split({out: rows * p.Dv, lse: rows, rowStats: 2 * rows}, ['out', 'rowStats'], results, scratch, {
    shader,
    uniforms,
    items: rows * elementsOf(p.Dv),
    flopsPerWorkgroup: 16 * shader.threads * uniforms.splits,
  });
}

/** dq of a pass of `uniforms.splits` splits, which goes to `result`. */
export function splitDq(p: Problem, uniforms: UniformValues, result: BufferRange, scratch: Scratch): SplitResults {
  const rows = p.B * p.H * p.Sq;
  const shader = specialize(combineDq, {element: elementType(p.D)});
  return split({dq: rows * p.D}, ['dq'], [result], scratch, {
    shader,
    uniforms,
    items: rows * elementsOf(p.D),
    flopsPerWorkgroup: 4 * shader.threads * uniforms.splits,
  });
}

/**
 * One split writes the results themselves; several write scratch, which `combine` reads. With CUT_LIMITS that is at most 64 MiB,
 * and mostly a few: splits of less than 2048 workgroups in all, of 16 rows of at most 256 channels.
 *
 * @param floats of each result.
 * @param read by `combine`: names of results of the splits.
 */
function split(
  floats: Record<string, number>,
  read: readonly string[],
  results: BufferRange[],
  scratch: Scratch,
  combine: Omit<PassRun, 'buffers'>,
): SplitResults {
  const {splits} = combine.uniforms;
  if (splits === 1) return {buffers: results, combine: []};
  const buffers = new Map(
    Object.entries(floats).map(([name, count]) => [
      name,
      scratch.buffer(`${name} of splits`, roomFor(splits) * FLOAT * count),
    ]),
  );
  const inputs = read.map((name) => buffers.get(name)!);
  return {buffers: [...buffers.values()], combine: [{...combine, buffers: [...inputs, ...results]}]};
}
