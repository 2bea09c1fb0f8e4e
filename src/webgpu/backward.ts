/** @file FlashMaskAttentionGrad on WebGPU: delta, dq, then dk and dv. */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionGradInputs} from '../kernel_names.js';
import {plan, type PassPlan} from '../plan.js';
import {problemOf, type Problem} from '../problem.js';
import {isHostZeros, submitRecorded, type WebGPUBackend} from './backend.js';
import {submitPasses, type BufferRange, type PassRun} from './dispatch.js';
import {guarded} from './errors.js';
import {constant, variantOf} from './forward.js';
import {forEachSlice, slicesOf, type Part} from './slices.js';
import {tileMap} from './tile_map.js';
import {backwardBindings, dkdvShader, dqShader} from './wgsl/backward.js';
import {DELTA_THREADS, deltaBindings, deltaKey, deltaShader} from './wgsl/delta.js';

/** dq, dk and dv. */
export function backward(
  backend: WebGPUBackend,
  inputs: FlashMaskAttentionGradInputs,
  attrs: FlashMaskAttentionAttrs,
): TensorInfo[] {
  const p = problemOf(inputs, attrs);
  const {q, k, v, out, lse, dOut, dLse} = inputs;
  if (p.B * p.H * p.Sq * p.Sk === 0) return [q, k, v].map(({shape}) => constant(backend, shape, 0));
  const slices = slicesOf(backend.device, p, ['q', 'k', 'v', 'out', 'lse'], {
    'the row statistics': (ROW_STATS_BYTES * p.Sq * p.H) / p.Hkv,
  });
  const variant = variantOf(p, attrs);
  const {limits} = backend.device;
  const plans = {dq: plan('dq', variant, limits), dkdv: plan('dkdv', variant, limits)};
  return guarded(backend, 'FlashMaskAttentionGrad', () => {
    const [dq, dk, dv] = [q, k, v].map(({shape}) => backend.makeTensorInfo(shape, 'float32'));
    const lseGradient = isHostZeros(backend, dLse) ? {} : {dLse};
    const tensors: BackwardTensors = {q, k, v, out, lse, dOut, dq, dk, dv, ...lseGradient};
    forEachSlice(backend, {p, attrs, slices, tensors, results: ['dq', 'dk', 'dv']}, (part) =>
      runBackward(backend, plans, inputs.bounds, part),
    );
    return [dq, dk, dv];
  });
}

const ROW_STATS_BYTES = 8;

/** dLse only if a gradient comes through lse. */
type BackwardTensors = Record<'q' | 'k' | 'v' | 'out' | 'lse' | 'dOut' | 'dq' | 'dk' | 'dv', TensorInfo> & {
  dLse?: TensorInfo;
};

/** The passes of a call or a slice of it. */
function runBackward(
  backend: WebGPUBackend,
  plans: Record<'dq' | 'dkdv', PassPlan>,
  bounds: TensorInfo,
  {p, uniforms, bound}: Part<BackwardTensors>,
): void {
  const rowStats = backend.bufferManager.acquireBuffer(ROW_STATS_BYTES * p.B * p.H * p.Sq, GPUBufferUsage.STORAGE);
  const delta = {Dv: p.Dv, lseGradient: bound.dLse !== undefined};
  const passes: PassRun[] = [
    {
      key: deltaKey(delta),
      code: () => deltaShader(delta),
      bindings: deltaBindings(delta),
      buffers: [bound.out, bound.dOut, bound.lse, ...(bound.dLse ? [bound.dLse] : []), rowStats],
      uniforms,
      items: p.B * p.H * p.Sq,
      itemsPerWorkgroup: DELTA_THREADS,
      flopsPerWorkgroup: 2 * DELTA_THREADS * p.Dv,
    },
  ];
  const add = (pass: PassPlan, code: () => string, results: BufferRange[]): void => {
    const mask = p.n > 0 ? [tileMap(backend, bounds, p, uniforms, passes)] : [];
    passes.push({
      key: pass.key,
      code,
      bindings: backwardBindings(pass),
      buffers: [bound.q, bound.k, bound.v, bound.dOut, rowStats, ...mask, ...results],
      uniforms,
      itemsPerWorkgroup: 1,
      ...workOf(p, pass),
    });
  };
  add(plans.dq, () => dqShader(plans.dq), [bound.dq]);
  add(plans.dkdv, () => dkdvShader(plans.dkdv), [bound.dk, bound.dv]);
  submitRecorded(backend);
  submitPasses(backend, passes);
  backend.bufferManager.releaseBuffer(rowStats);
}

/** Workgroups of a pass, and an upper bound of what each computes: 3 products a pair for dq, 4 for dk and dv. */
function workOf(p: Problem, pass: PassPlan): {items: number; flopsPerWorkgroup: number} {
  if (pass.pass === 'dq') {
    return {
      items: p.B * p.H * Math.ceil(p.Sq / pass.blockQ),
      flopsPerWorkgroup: 2 * pass.blockQ * p.Sk * (2 * p.D + p.Dv),
    };
  }
  return {
    items: p.B * p.Hkv * Math.ceil(p.Sk / pass.blockK),
    flopsPerWorkgroup: 4 * pass.blockK * p.Sq * (p.H / p.Hkv) * (p.D + p.Dv),
  };
}
