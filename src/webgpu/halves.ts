/** @file The float16 copies of a call's tensors that the passes on subgroup matrices read. */
import {PADDED_ROWS, roundUp} from '../plan.js';
import type {Problem} from '../problem.js';
import type {WebGPUBackend} from './backend.js';
import type {PassRun} from './dispatch.js';
import {checkBindable} from './errors.js';
import {
  HALVES_THREADS,
  halvesBindings,
  halvesKey,
  halvesShader,
  paddedChannels,
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
  uniforms: UniformValues,
  tensors: readonly GPUBuffer[],
  passes: PassRun[],
): Halves {
  const variants: HalvesVariant[] = [
    {stride: 'q', channels: p.D},
    {stride: 'k', channels: p.D},
    {stride: 'v', channels: p.Dv},
    {stride: 'o', channels: p.Dv},
  ];
  const buffers = tensors.map((source, i) => {
    const variant = variants[i];
    const items = quadsOf(p, variant);
    const bytes = 8 * items;
    checkBindable(backend.device, {'a float16 copy': bytes});
    const copy = backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE);
    passes.push({
      key: halvesKey(variant),
      code: () => halvesShader(variant),
      bindings: halvesBindings(variant),
      buffers: [source, copy],
      uniforms,
      items,
      itemsPerWorkgroup: HALVES_THREADS,
      flopsPerWorkgroup: 16 * HALVES_THREADS,
    });
    return copy;
  });
  return {buffers, release: () => buffers.forEach((buffer) => backend.bufferManager.releaseBuffer(buffer))};
}

/** Groups of four channels in the copy of a tensor, padding included. */
function quadsOf(p: Problem, {stride, channels}: HalvesVariant): number {
  const [length, heads] = stride === 'k' || stride === 'v' ? [p.Sk, p.Hkv] : [p.Sq, p.H];
  return p.B * heads * roundUp(length, PADDED_ROWS) * (paddedChannels(channels) / 4);
}
