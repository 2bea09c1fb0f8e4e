/** @file FlashMaskAttentionGrad on WebGPU: delta, dq, then dk and dv. */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionGradInputs} from '../kernel_names.js';
import {plan, type PassPlan} from '../plan.js';
import {problemOf, type Problem} from '../problem.js';
import {tunedShapes} from '../tuning.js';
import {bufferOf, isHostZeros, submitRecorded, type WebGPUBackend} from './backend.js';
import {submitPasses, type PassRun} from './dispatch.js';
import {checkBindable, guarded} from './errors.js';
import {bytesOf, constant, variantOf} from './forward.js';
import {tileMap} from './tile_map.js';
import {traitsOf} from './traits.js';
import {uniformsOf} from './uniforms.js';
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
  const statsBytes = 8 * p.B * p.H * p.Sq;
  checkBindable(backend.device, {
    q: bytesOf(q),
    k: bytesOf(k),
    v: bytesOf(v),
    out: bytesOf(out),
    'the row statistics': statsBytes,
  });
  const variant = variantOf(p, attrs);
  const traits = traitsOf(backend.device);
  return guarded(backend, 'FlashMaskAttentionGrad', () => {
    const [dq, dk, dv] = [q, k, v].map(({shape}) => backend.makeTensorInfo(shape, 'float32'));
    const buffer = (t: TensorInfo): GPUBuffer => bufferOf(backend, t);
    const rowStats = backend.bufferManager.acquireBuffer(statsBytes, GPUBufferUsage.STORAGE);
    const read = [q, k, v, dOut].map(buffer);
    const uniforms = uniformsOf(p, attrs);
    const delta = {Dv: p.Dv, lseGradient: !isHostZeros(backend, dLse)};
    const passes: PassRun[] = [
      {
        key: deltaKey(delta),
        code: () => deltaShader(delta),
        bindings: deltaBindings(delta),
        buffers: [...[out, dOut, lse, ...(delta.lseGradient ? [dLse] : [])].map(buffer), rowStats],
        uniforms,
        items: p.B * p.H * p.Sq,
        itemsPerWorkgroup: DELTA_THREADS,
        flopsPerWorkgroup: 2 * DELTA_THREADS * p.Dv,
      },
    ];
    const add = (pass: PassPlan, code: () => string, results: TensorInfo[]): void => {
      const mask = p.n > 0 ? [tileMap(backend, inputs.bounds, p, uniforms, passes)] : [];
      passes.push({
        key: pass.key,
        code,
        bindings: backwardBindings(pass),
        buffers: [...read, rowStats, ...mask, ...results.map(buffer)],
        uniforms,
        itemsPerWorkgroup: 1,
        ...workOf(p, pass),
      });
    };
    const dqPlan = plan('dq', variant, traits.limits, tunedShapes(traits, 'dq', variant));
    add(dqPlan, () => dqShader(dqPlan), [dq]);
    const dkdvPlan = plan('dkdv', variant, traits.limits, tunedShapes(traits, 'dkdv', variant));
    add(dkdvPlan, () => dkdvShader(dkdvPlan), [dk, dv]);
    submitRecorded(backend);
    submitPasses(backend, passes);
    backend.bufferManager.releaseBuffer(rowStats);
    return [dq, dk, dv];
  });
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
