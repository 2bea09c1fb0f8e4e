/**
 * @file The suite `masks`: flashMaskAttention against dense masked attention of tfjs ops, in the same run, on any backend.
 *
 * On `tensorflow`, `--memory` has each attention run in a process of its own, which tells by how much it grew at most.
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
import type {Bench} from './suite.js';
import {disposing, precisionField, type CommonOptions} from './suite.js';

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
  name: string;
  mask: FlashMask;
}

function settingsOf({dims, lengths, masks, heads: H, documents}: MasksOptions): Setting[] {
  return dims.flatMap((D) =>
    lengths.flatMap((N) => masks.map((name) => ({name, mask: maskOf(name, N, documents), N, H, D}))),
  );
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

/** In a process of its own: the most bytes that it grew by in one forward and backward. */
export async function peakOf(kind: Kind, options: MasksOptions): Promise<Figures> {
  const {gpu} = await startBackend(options.backend, options.device);
  const [setting] = settingsOf(options);
  const {attention} = attentionOf(kind, setting.mask, options);
  // Threads, tables and the contexts of libraries stay.
  const [a, b, c] = inputsOf({N: 64, H: 1, D: 64});
  tf.dispose([flashAttention(maskOf('full', 64, 'paper'))(a, b, c), tf.matMul(a, b)]);
  const [q, k, v, dOut] = inputsOf(setting);
  await settle();
  const growth = startGrowth(gpu);
  tf.dispose(options.forwardOnly ? attention(q, k, v) : gradsOf(attention)([q, k, v], dOut));
  await settle();
  return {peakBytes: growth()};
}

/** Peak bytes by `peakOf`, or none where it fails. */
async function childPeak(kind: Kind, {name, N, D}: Setting, args: readonly string[]): Promise<number | undefined> {
  const own = ['--child', kind, '--masks', name, '--lengths', String(N), '--dims', String(D)];
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
  {mask, ...sizes}: Setting,
  [q, k, v, dOut]: tf.Tensor4D[],
  {seconds, forwardOnly, backend}: MasksOptions,
): Promise<Figures> {
  const call = {...sizes, masked: mask.sparsity().maskedPairs};
  const forward = (): tf.Tensor[] => [tf.tidy(() => attention(q, k, v))];
  const both = (): tf.Tensor[] => gradsOf(attention)([q, k, v], dOut);
  const {firstMs, ms: forwardMs} = await time(forward, seconds);
  const peakBytes = async (): Promise<Figures> =>
    backend === 'tensorflow' ? {} : {peakBytes: await peakBytesOf(forwardOnly ? forward : both)};
  const figures: Figures = {
    masked: call.masked, compileMs: firstMs - forwardMs, forwardMs, forwardTflops: tflops(call, 'forward', forwardMs),
  }; // prettier-ignore
  if (forwardOnly) return {...figures, ...(await peakBytes())};
  const backwardMs = (await time(both, seconds)).ms - forwardMs;
  return {...figures, backwardMs, backwardTflops: tflops(call, 'backward', backwardMs), ...(await peakBytes())};
}

async function runSetting(
  bench: Bench,
  setting: Setting,
  options: MasksOptions,
  peaks: ReadonlyMap<string, number | undefined>,
): Promise<void> {
  const {name, mask, N, H, D} = setting;
  const {gpu} = bench.runtime;
  const inputs = inputsOf(setting);
  const measure = (kind: Kind, more: (attention: Attention) => Promise<Figures>) => {
    const call = {...precisionField(options.precision), attention: kind, mask: name, N, H, D};
    return bench.measure(call, async () => {
      const obstacle = kind === 'dense' ? denseObstacle(setting, gpu) : undefined;
      if (obstacle) return {outcome: 'skipped', reason: obstacle};
      const {attention, tensors} = attentionOf(kind, mask, options);
      const peak = peaks.get(peakKey(kind, setting));
      return disposing(tensors, async () => ({
        ...(await figuresOf(attention, setting, inputs, options)),
        ...(peak === undefined ? {} : {peakBytes: peak}),
        ...(await more(attention)),
      }));
    });
  };
  await disposing(inputs, async () => {
    let against: Figures = {};
    if (options.dense) {
      await measure('dense', async (attention) => {
        against = {difference: await difference(mask, attention, inputs, options.precision)};
        if (options.backend === 'tensorflow' && !gpu)
          against.matMulTflops = await matMulTflops(setting, options.seconds);
        return {};
      });
    }
    await measure('flash', () => Promise.resolve(against));
  });
}

const peakKey = (kind: Kind, {name, N, D}: Setting): string => `${kind} ${name} ${N} ${D}`;

/** @param args Of the command line, for processes of their own. */
export async function runMasks(
  options: MasksOptions,
  start: () => Promise<Bench>,
  args: readonly string[],
): Promise<void> {
  const settings = settingsOf(options);
  const peaks = new Map<string, number | undefined>();
  if (options.memory && options.backend === 'tensorflow') {
    // Before this process takes the device's memory.
    for (const setting of settings) {
      for (const kind of options.dense ? (['dense', 'flash'] as const) : (['flash'] as const)) {
        peaks.set(peakKey(kind, setting), await childPeak(kind, setting, args));
      }
    }
  }
  const bench = await start();
  for (const setting of settings) await runSetting(bench, setting, options, peaks);
}
