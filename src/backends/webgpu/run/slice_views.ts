/**
 * @file Finds the heads of a slice in the tensors of a call and lets a shader access them: as a buffer range if they
 * are contiguous and aligned, otherwise as a copy.
 */
import {FLOAT} from '../../../call/numbers.js';
import type {Layout} from '../../../call/kernel_names.js';
import type {Problem} from '../../../call/problem.js';
import {bindingLimit, limitsOf} from './size_limits.js';
import type {PassRun} from './dispatch.js';
import {specialize} from '../wgsl/shader.js';
import {copyRows} from '../wgsl/vector/copy.js';
import {elementType, type UniformValues} from '../wgsl/header.js';

/** The float32 tensors of a call, by the names of docs/design.md. */
export type TensorName = 'q' | 'k' | 'v' | 'out' | 'lse' | 'rowStats' | 'dOut' | 'dLse' | 'dq' | 'dk' | 'dv';

/** Heads of a call that run as a smaller call: whole batches, or some key heads of one batch with their query heads. */
export interface Slice {
  batch: number;
  batches: number;
  keyHead: number;
  keyHeads: number;
}

/**
 * The elements of a tensor that belong to a slice: `rows` rows of `length` elements, the first at `first`, `stride`
 * elements from one row to the next.
 */
export interface Region {
  first: number;
  rows: number;
  length: number;
  stride: number;
  /** Channels of a head. A row is a whole number of heads. */
  channels: number;
}

/** Estimated operations of a copy workgroup, whose threads move one vec4 each. */
const COPY_FLOPS = 1e5;

interface TensorSizes {
  /** Heads per key head. */
  heads: number;
  rows: number;
  channels: number;
  layout: Layout;
}

function tensorSizes(p: Problem, name: TensorName): TensorSizes {
  const {layout} = p;
  const group = p.H / p.Hkv;
  switch (name) {
    case 'q':
    case 'dq':
      return {heads: group, rows: p.Sq, channels: p.D, layout};
    case 'k':
    case 'dk':
      return {heads: 1, rows: p.Sk, channels: p.D, layout};
    case 'v':
    case 'dv':
      return {heads: 1, rows: p.Sk, channels: p.Dv, layout};
    case 'out':
    case 'dOut':
      return {heads: group, rows: p.Sq, channels: p.Dv, layout};
    case 'lse':
    case 'dLse':
      return {heads: group, rows: p.Sq, channels: 1, layout: 'bhsd'};
    case 'rowStats':
      return {heads: group, rows: p.Sq, channels: 2, layout: 'bhsd'};
  }
}

/** Bytes of a tensor that belong to one key head of one batch. */
export function bytesPerKeyHead(p: Problem, name: TensorName): number {
  const {heads, rows, channels} = tensorSizes(p, name);
  return FLOAT * heads * rows * channels;
}

export function regionOf(p: Problem, name: TensorName, slice: Slice): Region {
  const {heads, rows, channels, layout} = tensorSizes(p, name);
  const allHeads = heads * p.Hkv;
  const firstHead = heads * slice.keyHead;
  const sliceHeads = heads * slice.keyHeads;
  const batchStart = slice.batch * allHeads * rows * channels;
  return layout === 'bshd'
    ? {
        first: batchStart + firstHead * channels,
        rows: slice.batches * rows,
        length: sliceHeads * channels,
        stride: allHeads * channels,
        channels,
      }
    : {
        first: batchStart + firstHead * rows * channels,
        rows: slice.batches * sliceHeads * rows,
        length: channels,
        stride: channels,
        channels,
      };
}

/** Bytes of the elements of a region, without the gaps between its rows. */
export const regionBytes = ({rows, length}: Region): number => FLOAT * rows * length;

/** Whether a binding can cover the region and nothing else. */
export function isBindable(device: GPUDevice, {first, length, stride}: Region): boolean {
  return length === stride && (FLOAT * first) % limitsOf(device).minStorageBufferOffsetAlignment === 0;
}

/** The region of a buffer as a binding. Call it only if `isBindable`. */
export function rangeOf(buffer: GPUBuffer, region: Region): GPUBufferBinding {
  return {buffer, offset: FLOAT * region.first, size: regionBytes(region)};
}

/**
 * Passes that copy a region of the buffer `tensor` to the start of `copy`, row after row ('gather'), or back
 * ('scatter'). The tensor does not fit a binding, so each pass binds some of its rows.
 *
 * @param uniforms Uniforms of the call. The fields of the copy are filled in here.
 */
export function copyRegion(
  device: GPUDevice,
  direction: 'gather' | 'scatter',
  tensor: GPUBuffer,
  copy: GPUBuffer,
  region: Region,
  uniforms: UniformValues,
): PassRun[] {
  const {rows, length, stride, channels} = region;
  const unit = elementType(channels) === 'vec4f' ? 4 : 1;
  const alignment = limitsOf(device).minStorageBufferOffsetAlignment;
  const rowsAtOnce = Math.max(1, Math.floor((bindingLimit(device) - alignment) / (FLOAT * stride)));
  const passes: PassRun[] = [];
  for (let row = 0; row < rows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - row);
    const start = region.first + row * stride;
    const end = start + (count - 1) * stride + length;
    const offset = Math.floor((FLOAT * start) / alignment) * alignment;
    const inTensor = {
      buffer: {buffer: tensor, offset, size: FLOAT * end - offset},
      first: start - offset / FLOAT,
      stride,
    };
    const inCopy = {buffer: copy, first: row * length, stride: length};
    const [source, result] = direction === 'gather' ? [inTensor, inCopy] : [inCopy, inTensor];
    passes.push({
      shader: specialize(copyRows, {element: elementType(channels)}),
      buffers: [source.buffer, result.buffer],
      uniforms: {
        ...uniforms,
        copyLength: length / unit,
        sourceFirst: source.first / unit,
        sourceStride: source.stride / unit,
        resultFirst: result.first / unit,
        resultStride: result.stride / unit,
      },
      items: (count * length) / unit,
      flopsPerWorkgroup: COPY_FLOPS,
    });
  }
  return passes;
}
