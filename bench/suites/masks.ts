/**
 * @file The suite `masks`: flashMaskAttention against dense masked attention of tfjs ops, in the same run, on any
 * backend.
 *
 * On `tensorflow`, `--memory` runs each attention in its own process, which reports how much its memory grew at most.
 */
import * as tf from '@tensorflow/tfjs';
import type {FlashMask} from '../../src/entries/index.js';
import {
  denseObstacle,
  difference,
  flashAttention,
  gradsOf,
  inputsOf,
  withDense,
  type Attention,
  type Sizes,
} from '../attention.js';
import {startBackend, startGrowth, type Backend} from '../backend.js';
import {inOwnProcess} from '../child.js';
import {settle, time} from '../clock.js';
import {figuresOf} from '../figures.js';
import {maskOf, type Source} from '../masks.js';
import type {Emit, Figures} from '../record.js';
import {Bench, callsOf, disposing, precisionField, type CommonOptions} from './suite.js';

type Kind = 'flash' | 'dense';

interface MasksOptions extends CommonOptions {
  backend: Backend;
  documents: Source;
  dense: boolean;
  forwardOnly?: boolean;
  deterministic?: boolean;
  memory?: boolean;
}

type Setting = Sizes & {mask: string};

const withAttention = <T>(
  kind: Kind,
  mask: FlashMask,
  {precision, deterministic}: MasksOptions,
  work: (attention: Attention) => Promise<T>,
): Promise<T> => (kind === 'dense' ? withDense(mask, work) : work(flashAttention(mask, {precision, deterministic})));

/** Runs in its own process. Gives the most bytes by which it grew in one forward and backward. */
export async function peakOf({kind, ...options}: MasksOptions & {kind: Kind}): Promise<Figures> {
  const {gpu} = await startBackend(options.backend, options.device);
  const [call] = callsOf(options);
  return withAttention(kind, maskOf(call.mask, call.N, options.documents), options, async (attention) => {
    // Warm up: threads, tables and library contexts stay allocated and are not part of the growth.
    const [a, b, c] = inputsOf({N: 64, H: 1, D: 64});
    tf.dispose([flashAttention(maskOf('full', 64, 'paper'))(a, b, c), tf.matMul(a, b)]);
    const [q, k, v, dOut] = inputsOf(call);
    await settle();
    const growth = startGrowth(gpu);
    tf.dispose(options.forwardOnly ? attention(q, k, v) : gradsOf(attention)([q, k, v], dOut));
    await settle();
    return {peakBytes: growth()};
  });
}

const kindsOf = ({dense}: MasksOptions): Kind[] => (dense ? ['dense', 'flash'] : ['flash']);
const peakKey = (kind: Kind, {mask, N, D}: Setting): string => `${kind} ${mask} ${N} ${D}`;

/** What `peakOf` gives for each call and attention, except where it fails. */
async function peaksOf(options: MasksOptions): Promise<Map<string, Figures>> {
  const peaks = new Map<string, Figures>();
  for (const call of callsOf(options)) {
    for (const kind of kindsOf(options)) {
      const own = {...options, kind, masks: [call.mask], lengths: [call.N], dims: [call.D]};
      const result = await inOwnProcess<Figures>('peak', own);
      if ('peakBytes' in result) peaks.set(peakKey(kind, call), result);
    }
  }
  return peaks;
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

async function runCall(bench: Bench, call: Setting, peaks: Map<string, Figures>, options: MasksOptions): Promise<void> {
  const mask = maskOf(call.mask, call.N, options.documents);
  const {gpu} = bench.runtime;
  const sizes = {...call, masked: mask.sparsity().maskedPairs};
  // Figures of flash that only the run of dense attention can tell.
  const against: Figures = {};
  for (const kind of kindsOf(options)) {
    await bench.measure({...precisionField(options.precision), attention: kind, ...call}, async () => {
      const obstacle = kind === 'dense' ? denseObstacle(call, gpu) : undefined;
      if (obstacle) return {outcome: 'skipped', reason: obstacle};
      return withAttention(kind, mask, options, async (attention) => {
        const settings = {...options, countBytes: options.backend !== 'tensorflow'};
        const figures = {...(await figuresOf(attention, sizes, settings)), ...peaks.get(peakKey(kind, call))};
        if (kind === 'flash') return {...figures, ...against};
        against.difference = await difference(mask, attention, inputsOf(call), {precision: options.precision});
        if (options.backend === 'tensorflow' && !gpu) against.matMulTflops = await matMulTflops(call, options.seconds);
        return figures;
      });
    });
  }
}

export async function runMasks(options: MasksOptions, emit: Emit): Promise<void> {
  // Before this process takes the device's memory.
  const peaks =
    options.memory && options.backend === 'tensorflow' ? await peaksOf(options) : new Map<string, Figures>();
  const bench = await Bench.start('masks', options, emit);
  for (const call of callsOf(options)) await runCall(bench, call, peaks, options);
}
