/**
 * @file Runs calls whose tensors exceed a storage binding slice by slice: groups of key heads with their query heads,
 * each a smaller problem for the same pipelines. All other calls run as a single slice, by the same code.
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import type {KeySplit} from '../plan/decoding.js';
import type {FlashMaskAttentionAttrs} from '../../../call/kernel_names.js';
import {type Problem, maskHeadOf} from '../../../call/problem.js';
import {bufferOf, submitRecorded, type WebGPUBackend} from './tfjs_backend.js';
import {bindingLimit} from './size_limits.js';
import {submitPasses, type BufferRange, type PassRun} from './dispatch.js';
import {checkBindable, checkBuffer} from './device_errors.js';
import {
  bytesPerKeyHead,
  copyRegion,
  isBindable,
  rangeOf,
  regionBytes,
  regionOf,
  type Slice,
  type TensorName,
} from './slice_views.js';
import {Scratch} from './scratch.js';
import {uniformsOf} from './uniforms.js';
import type {UniformValues} from '../wgsl/header.js';

/** Tensors by name; one that is undefined is not bound. */
type Tensors = Partial<Record<TensorName, TensorInfo>>;

/** A slice view: what passes need to run on one slice of a call, or on the whole call. */
export interface SliceView<T> {
  /** Sizes of the slice, except `maskB` and `Hm`: all slices read the same mask. */
  p: Problem;
  uniforms: UniformValues;
  /** For each tensor of the call, the buffer range with the slice's elements, in the layout of `p`. */
  bound: {[N in keyof T]: BufferRange};
  /** Further buffers for the passes. */
  scratch: Scratch;
}

const REMEDY = 'Use a shorter sequence, or fewer query heads to a key head';

/**
 * Size limit of a slice's copy of a tensor in bytes: enough heads to fill a large GPU, and little compared to the
 * tensor.
 */
const COPIED_BYTES = 2 ** 28;

/**
 * Divides a call into slices: a single one if all tensors fit a binding.
 *
 * @param names Names of the call's tensors.
 * @param scratch Bytes per key head of the further buffers that the passes need, by their names in errors.
 * @throws Error naming the tensor, its bytes and the limit, if a tensor does not fit a buffer, or its elements of a
 *   single key head do not fit a binding.
 */
export function slicesOf(
  device: GPUDevice,
  p: Problem,
  names: readonly TensorName[],
  scratch: Record<string, number> = {},
): Slice[] {
  const bytes = {...Object.fromEntries(names.map((name) => [name, bytesPerKeyHead(p, name)])), ...scratch};
  const keyHeads = p.B * p.Hkv;
  const most = Math.max(...Object.values(bytes));
  const limit = bindingLimit(device);
  if (keyHeads * most <= limit) return divide(p, most, limit);
  for (const name of names) checkBuffer(device, name, keyHeads * bytes[name]);
  const ofOne = (name: string): string =>
    keyHeads === 1 ? name : `the part of a key head and its query heads in ${name}`;
  for (const [name, size] of Object.entries(bytes)) checkBindable(device, ofOne(name), size, REMEDY);
  const slices = divide(p, most, limit);
  const copies = slices.some((slice) => names.some((name) => !isBindable(device, regionOf(p, name, slice))));
  return copies ? divide(p, most, Math.min(limit, Math.max(most, COPIED_BYTES))) : slices;
}

/**
 * Puts whole batches in each slice if at least one fits, otherwise as many key heads as stay within `limit`. Each key
 * head has `bytes` bytes.
 */
function divide({B, Hkv}: Problem, bytes: number, limit: number): Slice[] {
  const batches = Math.floor(limit / (bytes * Hkv));
  if (batches > 0)
    return ranges(B, batches).map(([batch, count]) => ({batch, batches: count, keyHead: 0, keyHeads: Hkv}));
  const heads = ranges(Hkv, Math.floor(limit / bytes));
  return ranges(B, 1).flatMap(([batch]) =>
    heads.map(([keyHead, keyHeads]) => ({batch, batches: 1, keyHead, keyHeads})),
  );
}

/**
 * Divides `count` items into the fewest ranges of at most `most` items. Lengths are as equal as possible, and the first
 * range is the longest. Returns the first item and the length of each range.
 */
function ranges(count: number, most: number): [first: number, length: number][] {
  const pieces = Math.ceil(count / most);
  const border = (i: number): number => Math.ceil((i * count) / pieces);
  return Array.from({length: pieces}, (_, i) => [border(i), border(i + 1) - border(i)]);
}

/** A call, and the slices that it runs in. */
export interface SlicedCall<T extends Tensors> {
  p: Problem;
  attrs: FlashMaskAttentionAttrs;
  /** Head folding and key splits of the whole call: every slice then adds up its splits as the unsliced call would. */
  keySplit: KeySplit;
  slices: readonly Slice[];
  tensors: T;
  /** Names of the tensors that the passes write. They write every element. */
  results: readonly (keyof T & TensorName)[];
}

/**
 * Runs a call slice by slice. For each slice it submits the passes that `passesOf` lists, and before and after them the
 * copies of regions that cannot be bound in place. Memory beyond the tensors is the scratch memory of one slice.
 */
export function runSlices<T extends Tensors>(
  backend: WebGPUBackend,
  call: SlicedCall<T>,
  passesOf: (view: SliceView<T>) => PassRun[],
): void {
  const {p, slices} = call;
  const scratch = new Scratch(backend);
  try {
    for (const slice of slices) {
      const sliceProblem = problemOfSlice(p, slice);
      const uniforms = sliceUniforms(call, sliceProblem, slice);
      const {bound, gather, scatter} = accessTo(backend, call, slice, uniforms, scratch);
      const passes = passesOf({
        p: sliceProblem,
        uniforms,
        bound: bound as SliceView<T>['bound'],
        scratch,
      });
      submitPasses(backend, [...gather, ...passes, ...scatter]);
    }
  } finally {
    // Only another sliced call could reuse buffers of these sizes: destroy them instead of pooling them.
    if (slices.length > 1) submitRecorded(backend);
    scratch.release(slices.length === 1);
  }
}

/** The buffer ranges that a slice's passes bind, and the copies before and after them. */
interface Access {
  bound: Partial<Record<TensorName, BufferRange>>;
  gather: PassRun[];
  scatter: PassRun[];
}

function accessTo<T extends Tensors>(
  backend: WebGPUBackend,
  {p, slices, tensors, results}: SlicedCall<T>,
  slice: Slice,
  uniforms: UniformValues,
  scratch: Scratch,
): Access {
  const access: Access = {bound: {}, gather: [], scatter: []};
  const {device} = backend;
  for (const [name, tensor] of Object.entries(tensors) as [TensorName, TensorInfo][]) {
    const buffer = bufferOf(backend, tensor);
    const region = regionOf(p, name, slice);
    if (isBindable(device, region)) {
      access.bound[name] = rangeOf(buffer, region);
      continue;
    }
    // The size is that of the first slice, the largest: a later slice may be the first that needs a copy.
    const copy = scratch.buffer(`copy of ${name}`, regionBytes(regionOf(p, name, slices[0])));
    access.bound[name] = copy;
    const direction = results.includes(name) ? 'scatter' : 'gather';
    access[direction].push(...copyRegion(device, direction, buffer, copy, region, uniforms));
  }
  return access;
}

/** The sizes of a slice. The mask is not sliced. */
function problemOfSlice(p: Problem, {batches, keyHeads}: Slice): Problem {
  return {...p, B: batches, H: keyHeads * (p.H / p.Hkv), Hkv: keyHeads};
}

function sliceUniforms<T extends Tensors>(
  {p, attrs, keySplit}: SlicedCall<T>,
  sliceProblem: Problem,
  slice: Slice,
): UniformValues {
  const uniforms = uniformsOf(sliceProblem, attrs);
  const head = slice.keyHead * (p.H / p.Hkv);
  return {
    ...uniforms,
    ...keySplit,
    maskGroup: p.H / p.Hm,
    firstHead: slice.batch * p.H + head,
    // A slice starts at the first head of a mask head, or all heads share one mask head.
    firstMaskHead: maskHeadOf(p, slice.batch, head),
  };
}
