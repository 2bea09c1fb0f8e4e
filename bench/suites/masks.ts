/**
 * @file The suite `masks`: flashMaskAttention against dense masked attention of tfjs ops, in the same run, on any
 * backend.
 *
 * On `tensorflow`, `--memory` runs each attention in its own process, which reports how much its memory grew at most.
 */
import * as tf from '@tensorflow/tfjs';
import type {FlashMask} from '../../src/entries/index.js';
import {
  denseAttention,
  denseBias,
  denseObstacle,
  difference,
  flashAttention,
  gradsOf,
  inputsOf,
  type Attention,
  type Sizes,
} from '../attention.js';
import {startBackend, startGrowth} from '../backend.js';
import {inOwnProcess} from '../child.js';
import {peakBytesOf, settle, time} from '../clock.js';
import {maskOf, type Source} from '../masks.js';
import {tflops, type Figures} from '../record.js';
import {callsOf, disposing, precisionField, type Bench, type CommonOptions} from './suite.js';

type Kind = 'flash' | 'dense';

export interface MasksOptions extends CommonOptions {
  documents: Source;
  dense: boolean;
  forwardOnly?: boolean;
  deterministic?: boolean;
  memory?: boolean;
  /** In a child of `--memory`: the attention to run. */
  child?: Kind;
}

interface Setting extends Sizes {
  mask: string;
}

function attentionOf(
  kind: Kind,
  mask: FlashMask,
  {precision, deterministic}: MasksOptions,
): {attention: Attention; tensors: tf.Tensor[]} {
  if (kind === 'flash') return {attention: flashAttention(mask, {precision, deterministic}), tensors: []};
  const bias = denseBias(mask);
  return {attention: denseAttention(bias), tensors: [bias]};
}

/** Runs in its own process. Gives the most bytes by which it grew in one forward and backward. */
export async function peakOf(kind: Kind, options: MasksOptions): Promise<Figures> {
  const {gpu} = await startBackend(options.backend, options.device);
  const [call] = callsOf(options);
  const {attention} = attentionOf(kind, maskOf(call.mask, call.N, options.documents), options);
  // Warm up: threads, tables and library contexts stay allocated and are not part of the growth.
  const [a, b, c] = inputsOf({N: 64, H: 1, D: 64});
  tf.dispose([flashAttention(maskOf('full', 64, 'paper'))(a, b, c), tf.matMul(a, b)]);
  const [q, k, v, dOut] = inputsOf(call);
  await settle();
  const growth = startGrowth(gpu);
  tf.dispose(options.forwardOnly ? attention(q, k, v) : gradsOf(attention)([q, k, v], dOut));
  await settle();
  return {peakBytes: growth()};
}

/** Peak bytes from `peakOf`, or undefined where it fails. */
async function childPeak(kind: Kind, {mask, N, D}: Setting, args: readonly string[]): Promise<number | undefined> {
  const own = ['--child', kind, '--masks', mask, '--lengths', String(N), '--dims', String(D)];
  const result = await inOwnProcess<Figures>([...args, ...own]);
  return 'peakBytes' in result ? result.peakBytes : undefined;
}

/** tf.matMul's TFLOP/s: the best of the two products of attention and of a large square. */
async function matMulTflops({H, N, D}: Sizes, seconds: number): Promise<number> {
  const SQUARE = 2048;
  const draw = (...shape: number[]): tf.Tensor => tf.randomNormal(shape);
  const rates: number[] = [];
  for (const [a, b, flops] of [
    [draw(H, N, D), draw(H, D, N), 2 * H * N * N * D],
    [draw(H, N, N), draw(H, N, D), 2 * H * N * N * D],
    [draw(SQUARE, SQUARE), draw(SQUARE, SQUARE), 2 * SQUARE ** 3],
  ] as const) {
    const {ms} = await disposing([a, b], () => time(() => [tf.matMul(a, b)], seconds));
    rates.push(flops / ms / 1e9);
  }
  return Math.max(...rates);
}

/** Times one attention, forward and forward with backward. */
async function figuresOf(
  attention: Attention,
  call: Sizes & {masked: number},
  options: MasksOptions,
): Promise<Figures> {
  const {seconds, forwardOnly, backend} = options;
  const [q, k, v, dOut] = inputsOf(call);
  const forward = (): tf.Tensor[] => [tf.tidy(() => attention(q, k, v))];
  const both = (): tf.Tensor[] => gradsOf(attention)([q, k, v], dOut);
  const {firstMs, ms: forwardMs} = await time(forward, seconds);
  const backwardMs = forwardOnly ? undefined : (await time(both, seconds)).ms - forwardMs;
  return {
    masked: call.masked,
    compileMs: firstMs - forwardMs,
    forwardMs,
    forwardTflops: tflops(call, 'forward', forwardMs),
    ...(backwardMs === undefined ? {} : {backwardMs, backwardTflops: tflops(call, 'backward', backwardMs)}),
    ...(backend === 'tensorflow' ? {} : {peakBytes: await peakBytesOf(forwardOnly ? forward : both)}),
  };
}

const kindsOf = ({dense}: MasksOptions): Kind[] => (dense ? ['dense', 'flash'] : ['flash']);

async function runCall(bench: Bench, call: Setting, peaks: Map<string, number | undefined>, options: MasksOptions) {
  const mask = maskOf(call.mask, call.N, options.documents);
  const {gpu} = bench.runtime;
  const sizes = {...call, masked: mask.sparsity().maskedPairs};
  // Figures of flash that only the run of dense attention can tell.
  let against: Figures = {};
  for (const kind of kindsOf(options)) {
    await bench.measure({...precisionField(options.precision), attention: kind, ...call}, async () => {
      const obstacle = kind === 'dense' ? denseObstacle(call, gpu) : undefined;
      if (obstacle) return {outcome: 'skipped', reason: obstacle};
      const peakBytes = peaks.get(peakKey(kind, call));
      const {attention, tensors} = attentionOf(kind, mask, options);
      return disposing(tensors, async () => {
        const figures = {
          ...(await figuresOf(attention, sizes, options)),
          ...(peakBytes === undefined ? {} : {peakBytes}),
        };
        if (kind === 'flash') return {...figures, ...against};
        against = {difference: await difference(mask, attention, inputsOf(call), options.precision)};
        if (options.backend === 'tensorflow' && !gpu) against.matMulTflops = await matMulTflops(call, options.seconds);
        return figures;
      });
    });
  }
}

const peakKey = (kind: Kind, {mask, N, D}: Setting): string => `${kind} ${mask} ${N} ${D}`;

/** @param args Arguments of the command line, for the child processes. */
export async function runMasks(options: MasksOptions, start: () => Promise<Bench>, args: string[]): Promise<void> {
  const peaks = new Map<string, number | undefined>();
  if (options.memory && options.backend === 'tensorflow') {
    // Run before this process takes the device's memory.
    for (const call of callsOf(options)) {
      for (const kind of kindsOf(options)) peaks.set(peakKey(kind, call), await childPeak(kind, call, args));
    }
  }
  const bench = await start();
  for (const call of callsOf(options)) await runCall(bench, call, peaks, options);
}
