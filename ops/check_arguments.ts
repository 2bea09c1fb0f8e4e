/** @file Checks of tensors, mask and backend, all before any kernel runs. */
import {type Tensor, type Tensor4D, engine, getKernel, tensor4d} from '@tensorflow/tfjs-core';
import {FlashMaskAttention, type KernelWithPrecisions, type Precision} from '../src/call/kernel_names.js';
import {describe} from '../src/call/errors.js';
import {checkFields, checkReading, vectorsOf} from '../src/mask/fields.js';
import {isFlashMask} from '../src/mask/is_flash_mask.js';
import type {FlashMask} from '../src/mask/flash_mask.js';
import {MAX_HEAD_SIZE} from '../src/call/constants.js';
import {readNested} from '../src/mask/builders/nested.js';
import {isTensor} from '../src/call/values.js';
import {type ReadOptions, WHO, fail} from './options.js';

/** Sizes read from checked q, k and v. */
export interface Sizes {
  B: number;
  H: number;
  Hkv: number;
  Sq: number;
  Sk: number;
  D: number;
  Dv: number;
}

/** The current backend, initialized. */
export function readyBackend(): {name: string; backend: object} {
  try {
    const backend = engine().backend;
    return {name: engine().backendName, backend};
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    return fail(
      'a tfjs backend must be ready',
      describe(detail),
      "Import a backend (for example '@tensorflow/tfjs-backend-webgpu') and `await tf.setBackend('webgpu')` first.",
    );
  }
}

/** Refuses half precisions where the backend or device has none. */
export function checkPrecision(precision: Precision, name: string, backend: object): void {
  if (precision === 'auto' || precision === 'float32') return;
  const kernel = getKernel(FlashMaskAttention, name) as KernelWithPrecisions | undefined;
  if (kernel?.precisionsOn?.(backend).includes(precision)) return;
  const features = (backend as {device?: {features?: {has(name: string): boolean}}}).device?.features;
  if (!features || precision === 'bfloat16') {
    const has = features ? "'auto', 'float32' and, on devices with shader-f16, 'float16'" : "'auto' and 'float32'";
    fail(`precision on the backend '${name}' must be one of its own (${has})`, `'${precision}'`, "Use 'auto'.");
  }
  if (!features.has('shader-f16')) {
    fail(
      "precision 'float16' needs a WebGPU device with the feature shader-f16",
      'a device without it',
      "Use 'auto', or, where the adapter offers it, make the device with createWebGPUBackend() (in Node: useWebGPU({device: 'full'})).",
    );
  }
}

/** Accepts a live tensor, or nested arrays of numbers, of rank 4 and float32. */
export function toInput(name: 'q' | 'k' | 'v', x: unknown, axes: string): Tensor4D {
  const t = Array.isArray(x) ? tensorOf(name, x) : x;
  if (!isTensor(t)) {
    return fail(`${name} must be a tensor ${axes}`, describe(x), 'Make one with tf.tensor4d().');
  }
  checkAlive(name, t);
  if (t.rank !== 4) fail(`${name} must have rank 4, ${axes}`, `shape ${shapeText(t)}`, `Reshape ${name} to four axes.`);
  if (t.dtype !== 'float32') fail(`${name} must be float32`, t.dtype, `Cast it with ${name}.toFloat().`);
  return t as Tensor4D;
}

function tensorOf(name: string, values: readonly unknown[]): Tensor4D {
  const {data, shape} = readNested(values, {
    who: WHO,
    what: name,
    ranks: [4],
    shape: null,
    Store: Float32Array,
    isValue: (value) => typeof value === 'number',
    rule: 'a number',
    remedy: 'Pass a tensor, or arrays of numbers.',
  });
  return tensor4d(data, shape as [number, number, number, number]);
}

/** Checks that q, k and v fit each other and reads their sizes. */
export function checkSizes(q: Tensor4D, k: Tensor4D, v: Tensor4D, layout: ReadOptions['layout']): Sizes {
  const [row, head] = layout === 'bshd' ? [1, 2] : [2, 1];
  const shapes = `q ${shapeText(q)}, k ${shapeText(k)}, v ${shapeText(v)}`;
  const same = (what: string, a: number, b: number, names: string, remedy: string): void => {
    if (a !== b) fail(`${names} must have the same ${what}`, `${a} and ${b} (${shapes}, layout '${layout}')`, remedy);
  };
  const other = layout === 'bshd' ? "'bhsd'" : "'bshd'";
  const swap = `If the axes are in the other order, pass {layout: ${other}}.`;
  same('batch size', q.shape[0], k.shape[0], 'q and k', 'Repeat k and v, or slice q, to one batch size.');
  same('batch size', k.shape[0], v.shape[0], 'k and v', 'k and v come in pairs.');
  same('number of heads', k.shape[head], v.shape[head], 'k and v', swap);
  same('length', k.shape[row], v.shape[row], 'k and v', swap);
  same('head size', q.shape[3], k.shape[3], 'q and k', 'Project q and k to one head size; only v may differ.');
  const sizes = {
    B: q.shape[0],
    H: q.shape[head],
    Hkv: k.shape[head],
    Sq: q.shape[row],
    Sk: k.shape[row],
    D: q.shape[3],
    Dv: v.shape[3],
  };
  const {H, Hkv} = sizes;
  if (H < 1 || Hkv < 1 || H % Hkv !== 0) {
    const got = `H ${H} and Hkv ${Hkv} (${shapes}, layout '${layout}')`;
    fail('the number of query heads must be a positive multiple of the number of key heads', got, swap);
  }
  for (const [name, size] of [
    ['D (the last axis of q and k)', sizes.D],
    ['Dv (the last axis of v)', sizes.Dv],
  ] as const) {
    if (size < 1 || size > MAX_HEAD_SIZE) {
      fail(`${name} must be from 1 to ${MAX_HEAD_SIZE}`, `${size} (${shapes})`, 'Split the channels into more heads.');
    }
  }
  return sizes;
}

/**
 * Checks a mask against the sizes and the `causal` option.
 *
 * @returns the kernels' `causal` attribute.
 */
export function checkMask(mask: unknown, causal: boolean | undefined, sizes: Sizes): boolean {
  if (mask === null || mask === undefined) return causal ?? false;
  if (isFlashMask(mask)) return checkFlashMask(mask, causal, sizes);
  if (isTensor(mask)) {
    checkBoundsTensor(mask, causal, sizes);
    return causal ?? false;
  }
  return fail('mask must be a FlashMask, an int32 tensor of row bounds or null', describe(mask), remedyOf(mask));
}

/** The remedy for a mask of another kind. */
function remedyOf(mask: unknown): string {
  if (Array.isArray(mask)) {
    return 'Convert a dense mask with masks.fromDense(), row bounds with masks.fromStartEndRowIndices().';
  }
  if (typeof mask === 'object' && mask !== null && 'queryLength' in mask) {
    return 'Make a FlashMask of such fields with new FlashMask(fields).';
  }
  return 'Build one with `masks`, and pass options as the fifth argument.';
}

function checkFlashMask(mask: FlashMask, causal: boolean | undefined, sizes: Sizes): boolean {
  checkFields(WHO, mask);
  const {Sq, Sk} = sizes;
  const name = `the mask ${describe(mask.name)}`;
  if (causal !== undefined && causal !== mask.causal) {
    const remedy = 'Leave the option out: a FlashMask says itself whether it is causal.';
    fail(`the option causal must agree with ${name} (causal: ${mask.causal})`, `causal: ${causal}`, remedy);
  }
  if (mask.queryLength !== Sq || mask.keyLength !== Sk) {
    const got = `a mask for ${mask.queryLength} queries and ${mask.keyLength} keys`;
    fail(`${name} must be for ${Sq} queries and ${Sk} keys`, got, 'Build a mask for these lengths.');
  }
  if (mask.boundsTensor) {
    checkBoundsTensor(mask.boundsTensor, mask.causal, sizes);
  } else {
    checkBroadcast(name, mask.batch, mask.heads, sizes);
  }
  return mask.causal;
}

function checkBoundsTensor(bounds: Tensor, causal: boolean | undefined, s: Sizes): void {
  checkAlive('mask', bounds);
  const ifDense = looksDense(bounds, s) ? denseRemedy(bounds) : null;
  if (bounds.rank !== 4) {
    const axes =
      'Give row bounds four axes: batch (or 1), heads (or 1), keys, vectors; convert a dense mask with masks.fromDense().';
    fail('mask must have rank 4, [B, Hm, Sk, n]', `shape ${shapeText(bounds)}`, ifDense ?? axes);
  }
  if (bounds.dtype !== 'int32') fail('mask must be int32', bounds.dtype, ifDense ?? 'Cast it with mask.toInt().');
  const [batch, heads, keys, n] = bounds.shape as [number, number, number, number];
  if (keys !== s.Sk) {
    const got = `${keys} (shape ${shapeText(bounds)})`;
    fail(`mask must have ${s.Sk} keys (its third axis)`, got, ifDense ?? 'One bound a key.');
  }
  const {allowed, remedy} = vectorsOf(causal ?? false);
  if (!allowed.includes(n)) {
    const rule = `the last axis of mask must be ${allowed.join(' or ')} with causal: ${causal ?? false}`;
    fail(rule, `${n}`, ifDense ?? remedy);
  }
  checkBroadcast('mask', batch, heads, s);
  checkReading(WHO, causal, n);
}

/** Whether a tensor that cannot be row bounds looks like a dense mask. */
function looksDense({dtype, shape}: Tensor, {Sq, Sk}: Sizes): boolean {
  return dtype === 'bool' || (shape.length >= 2 && shape[shape.length - 2] === Sq && shape[shape.length - 1] === Sk);
}

function denseRemedy({rank}: Tensor): string {
  const axes = rank === 3 ? ' Give three axes their heads first, by mask.expandDims(1).' : '';
  return (
    'It holds row bounds: convert a dense mask of 0 and 1 with masks.fromDense(await mask.data(), {shape: mask.shape}), ' +
    `an additive one by mask.equal(0) before that.${axes}`
  );
}

function checkBroadcast(name: string, batch: number, heads: number, s: Pick<Sizes, 'B' | 'H' | 'Hkv'>): void {
  if (batch !== 1 && batch !== s.B) {
    fail(
      `the batch size of ${name} must be ${[...new Set([1, s.B])].join(' or ')}`,
      `${batch}`,
      'Build it for one row, or for each row of the batch.',
    );
  }
  const allowed = [...new Set([1, s.Hkv, s.H])];
  if (!allowed.includes(heads)) {
    fail(
      `the number of heads of ${name} must be ${allowed.join(' or ')}`,
      `${heads}`,
      'Use 1 to share it between heads.',
    );
  }
}

function checkAlive(name: string, t: Tensor): void {
  if (!t.isDisposed) return;
  const remedy = 'Use it before its tidy() ends or keep it with tf.keep().';
  fail(`${name} must not be disposed`, `a disposed tensor of shape ${shapeText(t)}`, remedy);
}

function shapeText(t: Tensor): string {
  return `[${t.shape.join(', ')}]`;
}
