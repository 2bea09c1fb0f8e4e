/** @file FlashMaskAttentionGrad on WebGPU: delta, dq, then dk and dv. */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionGradInputs} from '../kernel_names.js';
import {CUT_LIMITS, cutOf, keysOf, UNCUT, workgroupsOf, type Cut} from '../few_queries.js';
import {plan, type PassPlan} from '../plan.js';
import {problemOf, type Problem} from '../problem.js';
import {bufferOf, isHostZeros, submitRecorded, type WebGPUBackend} from './backend.js';
import {submitPasses, type PassRun} from './dispatch.js';
import {checkBindable, guarded} from './errors.js';
import {bytesOf, constant, variantOf} from './forward.js';
import {partsOfDq} from './splits.js';
import {tileMap} from './tile_map.js';
import {uniformsOf} from './uniforms.js';
import {backwardBindings, dkdvShader, dqShader} from './wgsl/backward.js';
import {DELTA_THREADS, deltaBindings, deltaKey, deltaShader} from './wgsl/delta.js';
import type {UniformValues} from './wgsl/header.js';

/**
 * dq, dk and dv.
 *
 * @param cutLimits When keys are split; tests split few.
 */
export function backward(
  backend: WebGPUBackend,
  inputs: FlashMaskAttentionGradInputs,
  attrs: FlashMaskAttentionAttrs,
  cutLimits = CUT_LIMITS,
): TensorInfo[] {
  const p = problemOf(inputs, attrs);
  const {q, k, v, out, lse, dOut, dLse} = inputs;
  if (p.B * p.H * p.Sq * p.Sk === 0) return [q, k, v].map(({shape}) => constant(backend, shape, 0));
  const statsBytes = 8 * p.B * p.H * p.Sq;
  checkBindable(backend.device, {
    q: bytesOf(q),
    k: bytesOf(k),
    v: bytesOf(v),
    out: bytesOf(out),
    'the row statistics': statsBytes,
  });
  const variant = variantOf(p, attrs);
  const {limits} = backend.device;
  return guarded(backend, 'FlashMaskAttentionGrad', () => {
    const [dq, dk, dv] = [q, k, v].map(({shape}) => backend.makeTensorInfo(shape, 'float32'));
    const buffer = (t: TensorInfo): GPUBuffer => bufferOf(backend, t);
    const rowStats = backend.bufferManager.acquireBuffer(statsBytes, GPUBufferUsage.STORAGE);
    const read = [q, k, v, dOut].map(buffer);
    const uniforms = uniformsOf(p, attrs);
    const lseGradient = isHostZeros(backend, dLse) ? [] : [dLse];
    const passes = [deltaRun(p, [out, dOut, lse, ...lseGradient].map(buffer), rowStats, uniforms)];
    const add = (pass: PassPlan, code: () => string, results: readonly GPUBuffer[], cut: Cut): void => {
      const mask = p.n > 0 ? [tileMap(backend, inputs.bounds, p, uniforms, passes)] : [];
      passes.push({
        key: pass.key,
        code,
        bindings: backwardBindings(pass),
        buffers: [...read, rowStats, ...mask, ...results],
        uniforms: {...uniforms, ...cut},
        itemsPerWorkgroup: 1,
        ...workOf(p, pass, cut),
      });
    };
    const dqPlan = plan('dq', variant, limits);
    const cut = cutOf(p, dqPlan, cutLimits);
    const parts = partsOfDq(backend, p, {...uniforms, ...cut}, buffer(dq));
    add(dqPlan, () => dqShader(dqPlan), parts.buffers, cut);
    passes.push(...parts.combine);
    const dkdvPlan = plan('dkdv', variant, limits);
    add(dkdvPlan, () => dkdvShader(dkdvPlan), [dk, dv].map(buffer), UNCUT);
    submitRecorded(backend);
    submitPasses(backend, passes);
    backend.bufferManager.releaseBuffer(rowStats);
    parts.release();
    return [dq, dk, dv];
  });
}

/** The pass that fills `rowStats` from out, dOut, lse and, if a gradient comes through lse, dLse. */
function deltaRun(p: Problem, read: GPUBuffer[], rowStats: GPUBuffer, uniforms: UniformValues): PassRun {
  const delta = {Dv: p.Dv, lseGradient: read.length === 4};
  return {
    key: deltaKey(delta),
    code: () => deltaShader(delta),
    bindings: deltaBindings(delta),
    buffers: [...read, rowStats],
    uniforms,
    items: p.B * p.H * p.Sq,
    itemsPerWorkgroup: DELTA_THREADS,
    flopsPerWorkgroup: 2 * DELTA_THREADS * p.Dv,
  };
}

/** Workgroups of a pass, and an upper bound of what each computes: 3 products a pair for dq, 4 for dk and dv. */
function workOf(p: Problem, pass: PassPlan, cut: Cut): {items: number; flopsPerWorkgroup: number} {
  if (pass.pass === 'dq') {
    return {
      items: workgroupsOf(p, pass, cut),
      flopsPerWorkgroup: 2 * pass.blockQ * keysOf(p, pass, cut) * (2 * p.D + p.Dv),
    };
  }
  return {
    items: p.B * p.Hkv * Math.ceil(p.Sk / pass.blockK),
    flopsPerWorkgroup: 4 * pass.blockK * p.Sq * (p.H / p.Hkv) * (p.D + p.Dv),
  };
}
