/** @file FlashMaskAttentionGrad on WebGPU: delta, float16 copies for passes on matrices, dq, then dk and dv. */
import {FLOAT} from '../../call/numbers.js';
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {SPLIT_LIMITS, keySplitOf} from './plan/decoding.js';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionGradInputs} from '../../call/kernel_names.js';
import {planOn, variantOf} from './plan/choose_plan.js';
import {isMatrixPlan} from './plan/matrix_plan.js';
import {problemOf, type Problem} from '../../call/problem.js';
import {attentionRun, type PassPlan} from './passes/attention_pass.js';
import {isHostZeros, type WebGPUBackend} from './run/tfjs_backend.js';
import type {BufferRange, PassRun} from './run/dispatch.js';
import {guarded} from './run/device_errors.js';
import {constant, forwardPasses} from './forward.js';
import {matrixPasses} from './passes/loaded_matrix_passes.js';
import {runSlices, slicesOf, type SliceView} from './run/slices.js';
import {splitBytes, splitDq} from './passes/combine_splits.js';
import {maskBuffer} from './passes/mask_buffer.js';
import {capabilitiesOf} from './device/capabilities.js';
import type {UniformValues} from './wgsl/header.js';
import {specialize} from './wgsl/shader.js';
import {delta} from './wgsl/vector/delta.js';

/**
 * Computes dq, dk and dv.
 *
 * @param splitLimits Limits of the key splits. Tests lower them to split short calls.
 */
export function backward(
  backend: WebGPUBackend,
  inputs: FlashMaskAttentionGradInputs,
  attrs: FlashMaskAttentionAttrs,
  splitLimits = SPLIT_LIMITS,
): TensorInfo[] {
  const p = problemOf(inputs, attrs);
  const {q, k, v, out, rowStats, dOut, dLse} = inputs;
  if (p.B * p.H * p.Sq * p.Sk === 0) return [q, k, v].map(({shape}) => constant(backend, shape, 0));
  const lseGradient = !attrs.lseUnused && !isHostZeros(backend, dLse);
  const device = capabilitiesOf(backend.device);
  const asked = variantOf(p, attrs);
  // Gradients through lse have no known bound and could overflow float16: such calls run on vectors.
  const variant = {...asked, ...(lseGradient && {halvesPerNumber: 0 as const})};
  const plans: BackwardPlans = {dq: planOn(device, 'dq', variant), dkdv: planOn(device, 'dkdv', variant)};
  // Weights recomputed on vectors do not match row statistics of a forward pass on matrices: the weights of a row would
  // not add up to 1. The forward pass then runs again, on vectors.
  if (lseGradient && isMatrixPlan(planOn(device, 'forward', asked))) plans.forward = planOn(device, 'forward', variant);
  const onMatrices = Object.values(plans).find(isMatrixPlan);
  const keySplit = keySplitOf(p, plans.dq, splitLimits);
  const slices = slicesOf(backend.device, p, ['q', 'k', 'v', 'out', 'rowStats'], {
    'the terms of the rows': (ROW_TERMS_BYTES * p.Sq * p.H) / p.Hkv,
    ...(onMatrices ? matrixPasses().float16Bytes(p, onMatrices) : splitBytes(p, keySplit, p.D)),
    ...(plans.forward && {'the output once more': (FLOAT * p.Sq * p.Dv * p.H) / p.Hkv}),
  });
  return guarded(backend, 'FlashMaskAttentionGrad', () => {
    const [dq, dk, dv] = [q, k, v].map(({shape}) => backend.makeTensorInfo(shape, 'float32'));
    const tensors: BackwardTensors = {q, k, v, out, rowStats, dOut, dq, dk, dv, ...(lseGradient && {dLse})};
    runSlices(backend, {p, attrs, keySplit, slices, tensors, results: ['dq', 'dk', 'dv']}, (view) =>
      backwardPasses(backend, plans, inputs.bounds, view),
    );
    return [dq, dk, dv];
  });
}

const ROW_TERMS_BYTES = 4 * FLOAT;

/** `forward` is set only where out and the row statistics are computed again. */
type BackwardPlans = Record<'dq' | 'dkdv', PassPlan> & {forward?: PassPlan};

/** `dLse` is set only if a gradient comes through lse. */
type BackwardTensors = Record<'q' | 'k' | 'v' | 'out' | 'rowStats' | 'dOut' | 'dq' | 'dk' | 'dv', TensorInfo> & {
  dLse?: TensorInfo;
};

function backwardPasses(
  backend: WebGPUBackend,
  plans: BackwardPlans,
  bounds: TensorInfo,
  view: SliceView<BackwardTensors>,
): PassRun[] {
  const {p, uniforms, bound, scratch} = view;
  const rowTerms = scratch.buffer('rowTerms', ROW_TERMS_BYTES * p.B * p.H * p.Sq);
  const onMatrices = Object.values(plans).find(isMatrixPlan);
  const passes: PassRun[] = [];
  const result = plans.forward ? forwardAgain(backend, plans.forward, bounds, view, passes) : bound;
  passes.push(deltaRun(p, uniforms, {...bound, ...result}, rowTerms, onMatrices?.halvesPerNumber === 1));
  const maskOf = (pass: PassPlan): GPUBuffer[] =>
    p.n > 0 ? [maskBuffer(backend, bounds, p, uniforms, passes, pass)] : [];
  const copies =
    onMatrices && matrixPasses().copyToFloat16(p, onMatrices, uniforms, bound, maskOf(plans.dq), scratch, passes);
  const add = (pass: PassPlan, results: BufferRange[]): void => {
    const mask = maskOf(pass);
    const {q, k, v, dOut} = isMatrixPlan(pass) ? copies! : bound;
    passes.push(attentionRun(p, pass, uniforms, [q, k, v, dOut, rowTerms, ...mask, ...results]));
  };
  const dq = splitDq(p, uniforms, bound.dq, scratch);
  add(plans.dq, dq.buffers);
  passes.push(...dq.combine);
  add(plans.dkdv, [bound.dk, bound.dv]);
  return passes;
}

/** Pushes a forward pass whose results go to scratch buffers. */
function forwardAgain(
  backend: WebGPUBackend,
  pass: PassPlan,
  bounds: TensorInfo,
  view: SliceView<BackwardTensors>,
  passes: PassRun[],
): Record<'out' | 'rowStats', BufferRange> {
  const {p, scratch} = view;
  const rows = p.B * p.H * p.Sq;
  const out = scratch.buffer('out', FLOAT * rows * p.Dv);
  const lse = scratch.buffer('lse', FLOAT * rows);
  const rowStats = scratch.buffer('rowStats', 2 * FLOAT * rows);
  passes.push(...forwardPasses(backend, pass, bounds, {...view, bound: {...view.bound, out, lse, rowStats}}));
  return {out, rowStats};
}

/**
 * The pass that fills `rowTerms` from out, dOut, rowStats and, if a gradient comes through lse, dLse.
 *
 * @param rounded Whether the products of the backward passes read dOut as float16.
 */
function deltaRun(
  p: Problem,
  uniforms: UniformValues,
  {out, dOut, rowStats, dLse}: SliceView<BackwardTensors>['bound'],
  rowTerms: GPUBuffer,
  rounded: boolean,
): PassRun {
  const shader = specialize(delta, {Dv: p.Dv, lseGradient: dLse !== undefined, rounded});
  return {
    shader,
    buffers: [out, dOut, rowStats, ...(dLse ? [dLse] : []), rowTerms],
    uniforms,
    items: p.B * p.H * p.Sq,
    flopsPerWorkgroup: 2 * shader.threads * p.Dv,
  };
}
