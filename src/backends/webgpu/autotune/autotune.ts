/**
 * @file Measures, when the user asks, which tiles of a pass are the fastest on the current WebGPU device, and keeps
 * them.
 */
import * as tf from '@tensorflow/tfjs-core';
import {checkFlag, describe, fail} from '../../../call/errors.js';
import {type FlashMaskAttentionAttrs, FlashMaskAttention, FlashMaskAttentionGrad} from '../../../call/kernel_names.js';
import {boundsTensorOf} from '../../../mask/bounds/bounds_cache.js';
import {causalDocument, document} from '../../../mask/builders/packed.js';
import type {FlashMask} from '../../../mask/flash_mask.js';
import {variantFor} from '../plan/choose_plan.js';
import type {Pass, Variant} from '../plan/vector_plan.js';
import {tilesThatFit, tunedTiles, tuningKey, type Tiles} from '../plan/tuned_tiles.js';
import {capabilitiesOf} from '../device/capabilities.js';
import {isSoftwareAdapter} from '../device/software_adapter.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';
import {type CallKind, checkPositive, readCallKind, webgpuBackend} from './call_kind.js';
import {timeRuns} from './timing.js';
import {storeTunedTiles, tunedTilesOf} from '../device/tuned_tiles_store.js';

/** Options of {@link autotune}: the kind of calls to tune, and the size of the trial. */
export interface AutotuneOptions extends CallKind {
  /**
   * Whether the masks of the calls have row intervals, as those of packed documents do. Default true: the trial then
   * has four documents.
   */
  intervals?: boolean;
  /** Queries and keys of the trial. Default 4096, and 256 on software adapters. */
  length?: number;
  /** Heads of the trial. Default 8, and 1 on software adapters. */
  heads?: number;
  /** Measures again, in place of returning the remembered choice. Default false. */
  force?: boolean;
  /**
   * Milliseconds after which no further tiles are tried. Default 60 000. Every pass tries its own default tiles at
   * least, which may take longer. What was the fastest until then is remembered.
   */
  budgetMs?: number;
  /** Called after each trial. */
  onProgress?: (progress: AutotuneProgress) => void;
}

/** What {@link autotune} reports after a trial. */
export interface AutotuneProgress {
  /** `'forward'`, `'dq'` or `'dkdv'`. */
  pass: Pass;
  /** The tiles that were tried. */
  tiles: Tiles;
  /** The shortest time of a run. Null for tiles that failed. */
  milliseconds: number | null;
  /** Trials done or left out so far. */
  done: number;
  /** Trials of all passes. */
  total: number;
}

/** Tiles that {@link autotune} timed. */
export interface TriedTiles {
  /** Sides and threads of the tiles. */
  tiles: Tiles;
  /** The shortest time of a run. */
  milliseconds: number;
}

/** The result of {@link autotune} for one pass. */
export interface TunedPass {
  /** `'forward'`, `'dq'` or `'dkdv'`. */
  pass: Pass;
  /** The fastest tiles. Calls of this kind use them from now on. */
  tiles: Tiles;
  /**
   * All tiles that were tried, fastest first; none if the choice was remembered. `dq` and `dkdv` are timed within the
   * whole backward pass.
   */
  tried: TriedTiles[];
  /** How many tiles the time budget left untried. */
  untried: number;
}

const PASSES = ['forward', 'dq', 'dkdv'] as const;
const BUDGET_MS = 60_000;
const DOCUMENTS = 4;
const DROPOUT = 0.1;
/** Difference of results, relative to the largest value, that rounding cannot explain. */
const WRONG = 0.02;

/** The op, as a trial calls it. It checks its arguments. */
export type Attention = (
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  mask: FlashMask | null,
  options: object,
) => unknown;

/** Implements `autotune` of src/entries/autotune.ts, which passes the op: backends import no ops. */
export async function autotuneWith(op: Attention, options: AutotuneOptions): Promise<TunedPass[]> {
  const backend = webgpuBackend('autotune');
  const given = readOptions(options, trialSize(backend.device.adapterInfo));
  const variant = variantOfTrial(given);
  const remembered = given.force ? null : rememberedTiles(backend.device, variant);
  if (remembered !== null) return remembered;
  const trial = makeTrial(op, given);
  try {
    const fitting = PASSES.map((pass) => tilesThatFit(capabilitiesOf(backend.device), pass, variant));
    const total = fitting.reduce((sum, {length}) => sum + length, 0);
    const start = performance.now();
    const found: TunedPass[] = [];
    for (const [i, pass] of PASSES.entries()) {
      const deadline = start + (given.budgetMs * (i + 1)) / PASSES.length;
      const before = fitting.slice(0, i).reduce((sum, {length}) => sum + length, 0);
      const report: Report = (tiles, milliseconds, done) =>
        given.onProgress?.({pass, tiles, milliseconds, done: before + done, total});
      found.push(await tune(backend, pass, {...trial, variant, tiles: fitting[i], deadline, report}));
    }
    storeTunedTiles(backend.device);
    return found;
  } finally {
    tf.dispose(trial.tensors);
  }
}

/** The choice of an earlier call; null if a pass has none. */
function rememberedTiles(device: GPUDevice, variant: Variant): TunedPass[] | null {
  const chosen = PASSES.map((pass) => tunedTiles(capabilitiesOf(device), pass, variant));
  return chosen.every((tiles) => tiles !== undefined)
    ? chosen.map((tiles, i) => ({pass: PASSES[i], tiles, tried: [], untried: 0}))
    : null;
}

/** Length and heads of a trial that takes seconds on the adapter. */
export function trialSize(info?: Partial<GPUAdapterInfo>): {length: number; heads: number} {
  return isSoftwareAdapter(info) ? {length: 256, heads: 1} : {length: 4096, heads: 8};
}

type Given = Required<Omit<AutotuneOptions, 'onProgress'>> & Pick<AutotuneOptions, 'onProgress'>;

function readOptions(options: AutotuneOptions, size: ReturnType<typeof trialSize>): Given {
  const more = ['intervals', 'length', 'heads', 'force', 'budgetMs', 'onProgress'] as const;
  const given = readCallKind('autotune', options, more);
  const {length = size.length, heads = size.heads, intervals = true} = given;
  const {force = false, budgetMs = BUDGET_MS, onProgress} = given;
  for (const [name, value] of Object.entries({length, heads})) checkPositive('autotune', name, value);
  for (const [name, value] of Object.entries({intervals, force})) checkFlag('autotune', name, value);
  if (!(typeof budgetMs === 'number' && budgetMs > 0)) {
    fail('autotune', 'budgetMs must be a positive number', describe(budgetMs), 'Pass for example {budgetMs: 20000}.');
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    fail(
      'autotune',
      'onProgress must be a function',
      describe(onProgress),
      'Pass for example {onProgress: console.log}.',
    );
  }
  return {...given, length, heads, intervals, force, budgetMs, onProgress};
}

function variantOfTrial({D, Dv, causal, intervals, dropout, precision, length}: Given): Variant {
  return variantFor({D, Dv, causal, intervals, dropout, precision, Sq: length});
}

/** A problem to measure: its tensors and a function that runs a pass of it. */
interface Trial {
  tensors: tf.NamedTensorMap;
  /** Runs the forward pass, or the whole backward pass. The caller disposes the results. */
  run(pass: Pass): tf.Tensor[];
}

function makeTrial(op: Attention, given: Given): Trial {
  const {D, Dv, length, heads, causal, intervals, precision} = given;
  const mask = intervals ? documentsMask(length, causal) : null;
  const options = {causal, dropout: given.dropout ? DROPOUT : 0, seed: 1, precision};
  const noise = (channels: number, seed: number): tf.Tensor4D =>
    tf.randomNormal([1, length, heads, channels], 0, 1, 'float32', seed);
  const [q, k, v, dOut] = tf.tidy(() => {
    const drawn = [noise(D, 1), noise(D, 2), noise(Dv, 3), noise(Dv, 4)];
    // The op checks its arguments: head sizes, the precision on this device, and so on.
    op(drawn[0], drawn[1], drawn[2], mask, options);
    return drawn;
  });
  const attrs: FlashMaskAttentionAttrs = {...options, scale: 1 / Math.sqrt(D), layout: 'bshd', deterministic: false};
  const runKernel = (name: string, inputs: tf.NamedTensorMap): tf.Tensor[] => {
    const all = {...inputs, q, k, v, bounds: boundsTensorOf(mask, length)};
    return tf.engine().runKernel<tf.Tensor[]>(name, all, attrs as unknown as tf.NamedAttrMap);
  };
  const [out, lse, rowStats] = runKernel(FlashMaskAttention, {});
  lse.dispose();
  const saved = {out, rowStats, dOut, dLse: tf.zeros([1, heads, length])};
  return {
    tensors: {q, k, v, ...saved},
    run: (pass) => (pass === 'forward' ? runKernel(FlashMaskAttention, {}) : runKernel(FlashMaskAttentionGrad, saved)),
  };
}

/** A mask of up to DOCUMENTS documents of about equal length. */
function documentsMask(length: number, causal: boolean): FlashMask {
  const each = Math.ceil(length / DOCUMENTS);
  const lengths = Array.from({length: Math.ceil(length / each)}, (_, i) => Math.min(each, length - i * each));
  return causal ? causalDocument(lengths) : document(lengths);
}

type Report = (tiles: Tiles, milliseconds: number | null, done: number) => void;

/** The trials of a pass. */
interface Trials extends Trial {
  variant: Variant;
  tiles: Tiles[];
  /** By `performance.now()`. */
  deadline: number;
  report: Report;
}

/** Times the tiles of a pass until the deadline, one at least. Later calls use the fastest. */
async function tune(backend: WebGPUBackend, pass: Pass, trial: Trials): Promise<TunedPass> {
  const {device} = backend;
  const tuned = tunedTilesOf(device);
  const key = tuningKey(pass, trial.variant);
  const before = tuned.get(key);
  const tried: TunedPass['tried'] = [];
  let expected: Float32Array[] | undefined;
  let failure: unknown;
  let done = 0;
  try {
    for (const tiles of trial.tiles) {
      if (tried.length > 0 && performance.now() > trial.deadline) break;
      let milliseconds: number | null = null;
      tuned.set(key, tiles);
      try {
        const values = await valuesOf(trial.run(pass));
        expected ??= values;
        if (!isSame(values, expected)) throw new Error(`tiles ${JSON.stringify(tiles)} give another result`);
        milliseconds = (await timeRuns(backend, () => tf.dispose(trial.run(pass)))).ms;
        tried.push({tiles, milliseconds});
      } catch (error) {
        // A driver may fail on some tiles. These are skipped.
        failure ??= error;
      }
      trial.report(tiles, milliseconds, ++done);
    }
  } finally {
    if (before === undefined) tuned.delete(key);
    else tuned.set(key, before);
  }
  if (tried.length === 0) throw failure;
  tried.sort((a, b) => a.milliseconds - b.milliseconds);
  tuned.set(key, tried[0].tiles);
  return {pass, tiles: tried[0].tiles, tried, untried: trial.tiles.length - done};
}

/** Reads and disposes results. Device errors surface here. */
async function valuesOf(results: tf.Tensor[]): Promise<Float32Array[]> {
  try {
    return await Promise.all(results.map(async (result) => (await result.data()) as Float32Array));
  } finally {
    tf.dispose(results);
  }
}

function isSame(actual: Float32Array[], expected: Float32Array[]): boolean {
  return expected.every((values, i) => {
    const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    return values.every((x, j) => Math.abs(x - actual[i][j]) <= WRONG * largest);
  });
}
