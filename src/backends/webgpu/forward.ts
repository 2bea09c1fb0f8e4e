/**
 * @file FlashMaskAttention on WebGPU: bounds map, float16 copies for passes on subgroup matrices, the forward pass, and
 * the pass that combines key splits.
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {SPLIT_LIMITS, keySplitOf} from './plan/decoding.js';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionInputs} from '../../call/kernel_names.js';
import {planOn, variantOf} from './plan/choose_plan.js';
import {isMatrixPlan} from './plan/matrix_plan.js';
import {problemOf, shapeOf} from '../../call/problem.js';
import {attentionRun, type PassPlan} from './passes/attention_pass.js';
import type {WebGPUBackend} from './run/tfjs_backend.js';
import type {PassRun} from './run/dispatch.js';
import {guarded} from './run/device_errors.js';
import {matrixPasses} from './passes/loaded_matrix_passes.js';
import {runSlices, slicesOf, type SliceView} from './run/slices.js';
import {splitBytes, splitOut} from './passes/combine_splits.js';
import {maskBuffer} from './passes/mask_buffer.js';
import {capabilitiesOf} from './device/capabilities.js';

/**
 * Computes out, lse and rowStats. The inputs stay unchanged.
 *
 * @param splitLimits Limits of the key splits. Tests lower them to split short calls.
 */
export function forward(
  backend: WebGPUBackend,
  inputs: FlashMaskAttentionInputs,
  attrs: FlashMaskAttentionAttrs,
  splitLimits = SPLIT_LIMITS,
): TensorInfo[] {
  const p = problemOf(inputs, attrs);
  const outShape = shapeOf(p, p.Sq, p.H, p.Dv);
  const lseShape = [p.B, p.H, p.Sq];
  const statsShape = [...lseShape, 2];
  const {q, k, v, bounds} = inputs;
  if (p.B * p.H * p.Sq * p.Sk === 0) {
    return [constant(backend, outShape, 0), constant(backend, lseShape, -Infinity), constant(backend, statsShape, 0)];
  }
  const pass = planOn(capabilitiesOf(backend.device), 'forward', variantOf(p, attrs));
  const keySplit = keySplitOf(p, pass, splitLimits);
  const scratch = isMatrixPlan(pass) ? matrixPasses().float16Bytes(p, pass) : splitBytes(p, keySplit, p.Dv);
  const slices = slicesOf(backend.device, p, ['q', 'k', 'v', 'out', 'lse', 'rowStats'], scratch);
  return guarded(backend, 'FlashMaskAttention', () => {
    const out = backend.makeTensorInfo(outShape, 'float32');
    const lse = backend.makeTensorInfo(lseShape, 'float32');
    const rowStats = backend.makeTensorInfo(statsShape, 'float32');
    const tensors = {q, k, v, out, lse, rowStats};
    runSlices(backend, {p, attrs, keySplit, slices, tensors, results: ['out', 'lse', 'rowStats']}, (view) =>
      forwardPasses(backend, pass, bounds, view),
    );
    return [out, lse, rowStats];
  });
}

/** Lists the passes that fill `out`, `lse` and `rowStats` of a slice view. */
export function forwardPasses(
  backend: WebGPUBackend,
  pass: PassPlan,
  bounds: TensorInfo,
  {p, uniforms, bound, scratch}: SliceView<Record<'q' | 'k' | 'v' | 'out' | 'lse' | 'rowStats', TensorInfo>>,
): PassRun[] {
  const passes: PassRun[] = [];
  const mask = p.n > 0 ? [maskBuffer(backend, bounds, p, uniforms, passes, pass)] : [];
  const {q, k, v} = isMatrixPlan(pass)
    ? matrixPasses().copyToFloat16(p, pass, uniforms, bound, mask, scratch, passes)
    : bound;
  const results = splitOut(p, uniforms, [bound.out, bound.lse, bound.rowStats], scratch);
  passes.push(attentionRun(p, pass, uniforms, [q, k, v, ...mask, ...results.buffers]), ...results.combine);
  return passes;
}

/** Makes a tensor filled with one value: the result of a call without any query-key pair. */
export function constant(backend: WebGPUBackend, shape: number[], value: number): TensorInfo {
  return backend.makeTensorInfo(shape, 'float32', new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value));
}
