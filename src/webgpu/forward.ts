/** @file FlashMaskAttention on WebGPU: tile map, then the forward pass. */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionInputs} from '../kernel_names.js';
import {CUT_LIMITS, cutOf, keysOf, workgroupsOf} from '../few_queries.js';
import {FEW_QUERIES, plan, type Variant} from '../plan.js';
import {problemOf, shapeOf, type Problem} from '../problem.js';
import {bufferOf, submitRecorded, type WebGPUBackend} from './backend.js';
import {submitPasses, type PassRun} from './dispatch.js';
import {checkBindable, guarded} from './errors.js';
import {partsOfOut} from './splits.js';
import {tileMap} from './tile_map.js';
import {uniformsOf} from './uniforms.js';
import {forwardBindings, forwardShader} from './wgsl/forward.js';

/** What the shaders of a call depend on. */
export function variantOf(p: Problem, attrs: FlashMaskAttentionAttrs): Variant {
  return {
    D: p.D,
    Dv: p.Dv,
    causal: p.causal,
    intervals: p.n > 0,
    dropout: attrs.dropout > 0,
    half: attrs.precision === 'float16',
    fewQueries: p.Sq <= FEW_QUERIES,
  };
}

export const bytesOf = ({shape}: TensorInfo): number => 4 * shape.reduce((a, b) => a * b, 1);

/**
 * out and lse; q, k, v and the bounds stay as they are.
 *
 * @param cutLimits When keys are split; tests split few.
 */
export function forward(
  backend: WebGPUBackend,
  inputs: FlashMaskAttentionInputs,
  attrs: FlashMaskAttentionAttrs,
  cutLimits = CUT_LIMITS,
): TensorInfo[] {
  const p = problemOf(inputs, attrs);
  const outShape = shapeOf(p, p.Sq, p.H, p.Dv);
  const lseShape = [p.B, p.H, p.Sq];
  const {q, k, v, bounds} = inputs;
  if (p.B * p.H * p.Sq * p.Sk === 0) return [constant(backend, outShape, 0), constant(backend, lseShape, -Infinity)];
  checkBindable(backend.device, {q: bytesOf(q), k: bytesOf(k), v: bytesOf(v), out: 4 * p.B * p.H * p.Sq * p.Dv});
  const pass = plan('forward', variantOf(p, attrs), backend.device.limits);
  const cut = cutOf(p, pass, cutLimits);
  return guarded(backend, 'FlashMaskAttention', () => {
    const out = backend.makeTensorInfo(outShape, 'float32');
    const lse = backend.makeTensorInfo(lseShape, 'float32');
    const buffer = (t: TensorInfo): GPUBuffer => bufferOf(backend, t);
    const uniforms = {...uniformsOf(p, attrs), ...cut};
    const parts = partsOfOut(backend, p, uniforms, [out, lse].map(buffer));
    const passes: PassRun[] = [];
    const mask = p.n > 0 ? [tileMap(backend, bounds, p, uniforms, passes)] : [];
    passes.push({
      key: pass.key,
      code: () => forwardShader(pass),
      bindings: forwardBindings(pass),
      buffers: [buffer(q), buffer(k), buffer(v), ...mask, ...parts.buffers],
      uniforms,
      items: workgroupsOf(p, pass, cut),
      itemsPerWorkgroup: 1,
      flopsPerWorkgroup: 2 * pass.blockQ * keysOf(p, pass, cut) * (p.D + p.Dv),
    });
    passes.push(...parts.combine);
    submitRecorded(backend);
    submitPasses(backend, passes);
    parts.release();
    return [out, lse];
  });
}

/** A tensor of one value, for calls without a single pair to compute. */
export function constant(backend: WebGPUBackend, shape: number[], value: number): TensorInfo {
  return backend.makeTensorInfo(shape, 'float32', new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value));
}
