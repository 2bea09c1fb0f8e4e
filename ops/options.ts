/** @file The options of flashMaskAttention and their checks. */
import type {Layout, Precision} from '../src/call/kernel_names.js';
import {checkFlag, checkOptions, describe, fail as failAs} from '../src/call/errors.js';

/** The op's name in error messages. */
export const WHO = 'flashMaskAttention';

/** Options of {@link flashMaskAttention}. */
export interface FlashMaskAttentionOptions {
  /**
   * Mask keys after the query too, aligned at the bottom right: query r sees key j only if `j <= r + Sk - Sq`. With a
   * bounds tensor it also says how to read the vectors (docs/masks.md). Two vectors need it: true for LTS and LTE,
   * false for LTS and UTE. A `FlashMask` has its own `causal`. Default false.
   */
  causal?: boolean;
  /**
   * Factor of q·k before the softmax, from 0 to 2.358e38. Kernels multiply it by log2(e), and the product must be a
   * float32. A product below 1.2e-38 is denormal, and some GPUs treat it as 0. Default 1/√D.
   */
  scale?: number;
  /** Axis order of q, k, v and the output: `[B, S, H, D]` or `[B, H, S, D]`. Default 'bshd'. */
  layout?: Layout;
  /**
   * Probability in [0, 1) that a weight is dropped after the softmax, in steps of 2^-32; the others are divided by 1 -
   * dropout. Default 0.
   */
  dropout?: number;
  /**
   * Key of the dropout generator, a non-negative safe integer: the same seed drops the same (batch, head, query, key)
   * pairs on every backend. Default: a random one for each call.
   */
  seed?: number;
  /** Return `[out, lse]`. lse, `[B, H, Sq]`, is the log-sum-exp of each row's masked, scaled scores. Default false. */
  returnLogSumExp?: boolean;
  /**
   * Precision of the inputs of matrix multiplications, which accumulate in float32. Default `'auto'`: float32, or as
   * accurate as the backend is. On WebGPU devices with subgroup matrices `'float16'` is several times faster. There
   * `'float32'` splits each number into two float16 numbers: two to three times faster, with an error of float32's
   * order.
   */
  precision?: Precision;
  /** Make gradients bit-identical from run to run. Default false. */
  deterministic?: boolean;
}

/** Options with their defaults filled in; `causal` and `scale` have defaults that depend on the mask and on D. */
export type ReadOptions = Required<Omit<FlashMaskAttentionOptions, 'causal' | 'scale'>> &
  Pick<FlashMaskAttentionOptions, 'causal' | 'scale'>;

const LAYOUTS: readonly Layout[] = ['bshd', 'bhsd'];
const PRECISIONS: readonly Precision[] = ['auto', 'float32', 'float16', 'bfloat16'];
const KNOWN: readonly (keyof FlashMaskAttentionOptions)[] = [
  'causal',
  'scale',
  'layout',
  'dropout',
  'seed',
  'returnLogSumExp',
  'precision',
  'deterministic',
];

/** Throws an error in the library's one form: the op, the rule, the values got, and the remedy. */
export function fail(rule: string, got: string, remedy: string): never {
  return failAs(WHO, rule, got, remedy);
}

/** Checks every option and fills in the defaults. An option that is undefined counts as absent. */
export function readOptions(options: FlashMaskAttentionOptions | null | undefined): ReadOptions {
  const given = checkOptions(WHO, options, KNOWN);
  const {causal, scale, layout = 'bshd', dropout = 0, seed, returnLogSumExp = false} = given;
  const {precision = 'auto', deterministic = false} = given;
  checkFlag(WHO, 'causal', causal);
  checkFlag(WHO, 'returnLogSumExp', returnLogSumExp);
  checkFlag(WHO, 'deterministic', deterministic);
  checkScale(scale);
  checkDropout(dropout, seed);
  if (!LAYOUTS.includes(layout)) {
    fail(
      "layout must be 'bshd' or 'bhsd'",
      describe(layout),
      "Use 'bshd' for [B, S, H, D] and 'bhsd' for [B, H, S, D].",
    );
  }
  if (!PRECISIONS.includes(precision)) {
    fail(`precision must be one of ${PRECISIONS.join(', ')}`, describe(precision), "Use 'auto' if unsure.");
  }
  // Without dropout a constant, so that equal calls have equal uniforms.
  const key = dropout > 0 ? (seed ?? randomSeed()) : 0;
  return {causal, scale, layout, dropout, seed: key, returnLogSumExp, precision, deterministic};
}

function checkScale(scale: unknown): void {
  if (scale === undefined) return;
  if (typeof scale !== 'number' || !Number.isFinite(scale) || scale < 0) {
    fail('scale must be a finite number of at least 0', describe(scale), 'Leave it out for 1/√D.');
  }
  // Kernels that compute exponentials as powers of two multiply the scale by log2(e).
  if (Number.isFinite(Math.fround(scale * Math.LOG2E))) return;
  fail('scale must be at most 2.358e38, within the range of float32', describe(scale), 'Leave it out for 1/√D.');
}

function checkDropout(dropout: unknown, seed: unknown): void {
  if (typeof dropout !== 'number' || !(dropout >= 0 && dropout < 1)) {
    fail('dropout must be a probability in [0, 1)', describe(dropout), 'Pass 0 for none, or for example 0.1.');
  }
  if (seed !== undefined && (!Number.isSafeInteger(seed) || (seed as number) < 0)) {
    fail('seed must be an integer from 0 to 2^53 - 1', describe(seed), 'Leave it out for a random one.');
  }
}

function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 53);
}
