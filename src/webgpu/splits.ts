/** @file Results of the splits of a pass over few queries (src/few_queries.ts): where they go, and the passes that combine them. */
import type {Problem} from '../problem.js';
import type {WebGPUBackend} from './backend.js';
import type {PassRun} from './dispatch.js';
import {
  COMBINE_THREADS,
  combineDqBindings,
  combineDqKey,
  combineDqShader,
  combineOutBindings,
  combineOutKey,
  combineOutShader,
  elementsOf,
} from './wgsl/combine.js';
import type {UniformValues} from './wgsl/header.js';

/** Where a pass writes its results, and what makes one result of those of its splits. */
export interface Parts {
  buffers: readonly GPUBuffer[];
  /** Passes to run next: none after a single split. */
  combine: readonly PassRun[];
  /** To be called once all passes are submitted. */
  release(): void;
}

/** out and lse of a forward pass of `uniforms.splits` splits. */
export function partsOfOut(backend: WebGPUBackend, p: Problem, uniforms: UniformValues, results: GPUBuffer[]): Parts {
  return partsOf(backend, results, {
    key: combineOutKey(p.Dv),
    code: () => combineOutShader(p.Dv),
    bindings: combineOutBindings(p.Dv),
    uniforms,
    items: p.B * p.H * p.Sq * elementsOf(p.Dv),
    itemsPerWorkgroup: COMBINE_THREADS,
    flopsPerWorkgroup: 16 * COMBINE_THREADS * uniforms.splits,
  });
}

/** dq of a pass of `uniforms.splits` splits. */
export function partsOfDq(backend: WebGPUBackend, p: Problem, uniforms: UniformValues, result: GPUBuffer): Parts {
  return partsOf(backend, [result], {
    key: combineDqKey(p.D),
    code: () => combineDqShader(p.D),
    bindings: combineDqBindings(p.D),
    uniforms,
    items: p.B * p.H * p.Sq * elementsOf(p.D),
    itemsPerWorkgroup: COMBINE_THREADS,
    flopsPerWorkgroup: 4 * COMBINE_THREADS * uniforms.splits,
  });
}

/**
 * One split writes the results themselves; several write scratch, which `combine` reads. With CUT_LIMITS that is at most 64 MiB,
 * and mostly a few: splits of less than 2048 workgroups in all, of 16 rows of at most 256 channels.
 */
function partsOf({bufferManager}: WebGPUBackend, results: GPUBuffer[], combine: Omit<PassRun, 'buffers'>): Parts {
  const {splits} = combine.uniforms;
  if (splits === 1) return {buffers: results, combine: [], release: () => {}};
  // tfjs keeps a released buffer for the next of its very size: round up, or a growing cache of keys would leave one of each.
  const room = 2 ** Math.ceil(Math.log2(splits));
  const buffers = results.map(({size}) => bufferManager.acquireBuffer(room * size, GPUBufferUsage.STORAGE));
  return {
    buffers,
    combine: [{...combine, buffers: [...buffers, ...results]}],
    release: () => buffers.forEach((buffer) => bufferManager.releaseBuffer(buffer)),
  };
}
