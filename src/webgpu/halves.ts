/** @file The float16 copies of a call's tensors that the passes on subgroup matrices read. */
import type {MatrixPlan} from '../matrix_plan.js';
import {roundUp} from '../plan.js';
import type {Problem} from '../problem.js';
import type {WebGPUBackend} from './backend.js';
import type {PassRun} from './dispatch.js';
import {checkBindable} from './errors.js';
import {
  HALVES_THREADS,
  halvesBindings,
  halvesKey,
  halvesShader,
  magnitudeBindings,
  magnitudeKey,
  magnitudeShader,
  PADDED_ROWS,
  rowUnits,
  SEGMENTS,
  workgroupsPerHead,
  type HalvesVariant,
} from './wgsl/halves.js';
import type {UniformValues} from './wgsl/header.js';

/** Copies, in the order of the tensors; to be released once the passes that read them are submitted. */
export interface Halves {
  buffers: GPUBuffer[];
  release(): void;
}

/** Pushes the passes that copy `tensors`, the buffers of q, k, v and, in the backward, dOut. */
export function halves(
  backend: WebGPUBackend,
  p: Problem,
  {channels: padded, parts}: Pick<MatrixPlan, 'channels' | 'parts'>,
  uniforms: UniformValues,
  tensors: readonly GPUBuffer[],
  passes: PassRun[],
): Halves {
  const strides = ['q', 'k', 'v', 'o'] as const;
  const scratch: GPUBuffer[] = [];
  // All of the first kind before those of the second: a pass waits for the one before it only if it reads what that wrote.
  const measures: PassRun[] = [];
  const conversions: PassRun[] = [];
  const acquire = (bytes: number): GPUBuffer => {
    checkBindable(backend.device, {'a float16 copy': bytes});
    const buffer = backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE);
    scratch.push(buffer);
    return buffer;
  };
  const buffers = tensors.map((source, i) => {
    const stride = strides[i];
    const channels = stride === 'q' || stride === 'k' ? p.D : p.Dv;
    const variant: HalvesVariant = {stride, channels, padded, parts};
    const [rows, heads] = stride === 'k' || stride === 'v' ? [p.Sk, p.B * p.Hkv] : [p.Sq, p.B * p.H];
    const magnitudes = acquire(4 * heads * SEGMENTS);
    const copy = acquire(16 * (heads * roundUp(rows, PADDED_ROWS) * rowUnits(variant) + p.B * p.Hkv));
    const common = {uniforms, itemsPerWorkgroup: 1};
    measures.push({
      ...common,
      key: magnitudeKey(variant),
      code: () => magnitudeShader(variant),
      bindings: magnitudeBindings(variant),
      buffers: [source, magnitudes],
      items: heads * SEGMENTS,
      flopsPerWorkgroup: Math.ceil((rows * channels) / SEGMENTS),
    });
    conversions.push({
      ...common,
      key: halvesKey(variant),
      code: () => halvesShader(variant),
      bindings: halvesBindings(variant),
      buffers: [source, magnitudes, copy],
      items: heads * workgroupsPerHead(variant, rows),
      flopsPerWorkgroup: 8 * HALVES_THREADS,
    });
    return copy;
  });
  passes.push(...measures, ...conversions);
  return {buffers, release: () => scratch.forEach((buffer) => backend.bufferManager.releaseBuffer(buffer))};
}
