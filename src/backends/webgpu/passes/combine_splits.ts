/**
 * @file Buffers for the results of key splits (src/backends/webgpu/plan/decoding.ts), and the passes that combine them.
 */
import {FLOAT} from '../../../call/numbers.js';
import type {KeySplit} from '../plan/decoding.js';
import type {Problem} from '../../../call/problem.js';
import type {BufferRange, PassRun} from '../run/dispatch.js';
import type {Scratch} from '../run/scratch.js';
import {combineDq, combineOut, elementsOf} from '../wgsl/vector/combine.js';
import {elementType, type UniformValues} from '../wgsl/header.js';
import {specialize} from '../wgsl/shader.js';

/** Buffers that a pass over queries writes, and the passes that combine the results of its splits. */
export interface SplitResults {
  buffers: BufferRange[];
  /** Passes to run next: none if there is a single split. */
  combine: PassRun[];
}

/**
 * Number of splits that a buffer has room for: a power of two. tfjs reuses a released buffer only for a request of
 * exactly its size, so a growing key cache would leave one buffer of each size behind.
 */
const roomFor = (splits: number): number => 2 ** Math.ceil(Math.log2(splits));

/** Bytes per key head of the largest buffer with results of splits, by its name in errors. */
export function splitBytes(p: Problem, {splits}: KeySplit, channels: number): Record<string, number> {
  if (splits === 1) return {};
  return {
    'the results of few queries before they are added up': roomFor(splits) * FLOAT * (p.H / p.Hkv) * p.Sq * channels,
  };
}

/**
 * The buffers and passes of a forward pass with `uniforms.splits` splits. out, lse and rowStats end up in `results`.
 */
export function splitOut(p: Problem, uniforms: UniformValues, results: BufferRange[], scratch: Scratch): SplitResults {
  const rows = p.B * p.H * p.Sq;
  // The lse of the splits is not read: their row statistics hold more.
  const shader = specialize(combineOut, p);
  return split({out: rows * p.Dv, lse: rows, rowStats: 2 * rows}, ['out', 'rowStats'], results, scratch, {
    shader,
    uniforms,
    items: rows * elementsOf(p.Dv),
    flopsPerWorkgroup: 16 * shader.threads * uniforms.splits,
  });
}

/** The buffers and passes of a dq pass with `uniforms.splits` splits. dq ends up in `result`. */
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
 * A single split writes the results themselves. Several splits write scratch buffers, which `combine` reads. With
 * CUT_LIMITS these take at most 64 MiB, and mostly a few MiB: fewer than 2048 workgroups in all, each with 16 rows of
 * at most 256 channels.
 *
 * @param floats Number of floats of each result.
 * @param read Names of the split results that `combine` reads.
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
