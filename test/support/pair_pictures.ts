/**
 * @file Finds exactly which pairs of a call take part. Each value marks its key, so the output is the matrix of
 * weights; each output gradient marks its query, so the gradient of v is that matrix too. A weight is 0 if and only if
 * its pair is masked or dropped.
 */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention} from '../../src/entries/index.js';
import {maskArgument, optionsOf} from './attend.js';
import {type Case, HEAD_SIZE, type Prepared} from './cases.js';

/** The longest calls that are examined: a run marks HEAD_SIZE keys or queries at a time. */
export const LONGEST = 97;

/** Weights `[B, H, Sq, Sk]` of the forward pass; all queries and keys are zero. */
export async function forwardWeights({case: c, mask}: Prepared): Promise<Float32Array> {
  const {B, H, Hkv, Sq, Sk} = c;
  const weights = tf.tidy(() => {
    const bounds = maskArgument(mask, Sk);
    const [q, k] = [zeros(B, H, Sq), zeros(B, Hkv, Sk)];
    const columns = inRuns(Sk, (first) => flashMaskAttention(q, k, named([B, Hkv, Sk], first), bounds, bhsd(c)));
    return tf.slice(columns, [0, 0, 0, 0], [B, H, Sq, Sk]);
  });
  return read(weights);
}

/**
 * The same for the backward pass, with as many key heads as query heads, so that only one query head contributes to the
 * gradient of v of a head.
 */
export async function backwardWeights({case: c, mask}: Prepared): Promise<Float32Array> {
  const {B, H, Sq, Sk} = c;
  const weights = tf.tidy(() => {
    const bounds = maskArgument(mask, Sk);
    const attention = (v: tf.Tensor) =>
      flashMaskAttention(zeros(B, H, Sq), zeros(B, H, Sk), v as tf.Tensor4D, bounds, bhsd(c));
    const v = named([B, H, Sk], 0);
    const dv = inRuns(Sq, (first) => tf.grad(attention)(v, named([B, H, Sq], first)));
    return tf.transpose(tf.slice(dv, [0, 0, 0, 0], [B, H, Sk, Sq]), [0, 1, 3, 2]);
  });
  return read(weights);
}

const bhsd = (c: Case) => ({...optionsOf({case: c}), layout: 'bhsd'}) as const;

const zeros = (B: number, H: number, S: number): tf.Tensor4D => tf.zeros([B, H, S, HEAD_SIZE]);

/** At least `count` channels: the results of `run(0)`, `run(HEAD_SIZE)`, ... side by side. */
function inRuns(count: number, run: (first: number) => tf.Tensor): tf.Tensor {
  return tf.concat(
    Array.from({length: Math.ceil(count / HEAD_SIZE)}, (_, i) => run(i * HEAD_SIZE)),
    3,
  );
}

/** Vectors `[B, H, S, HEAD_SIZE]`: row `first + c` is 1 in channel c, other rows are 0. */
function named([B, H, S]: [number, number, number], first: number): tf.Tensor4D {
  const rows = tf.range(0, S).reshape([1, 1, S, 1]);
  const ones = tf.cast(tf.equal(rows, tf.range(first, first + HEAD_SIZE)), 'float32');
  return tf.tile(ones, [B, H, 1, 1]) as tf.Tensor4D;
}

async function read(tensor: tf.Tensor): Promise<Float32Array> {
  const values = await tensor.data<'float32'>();
  tensor.dispose();
  return values;
}

/** One letter per pair: # takes part, x is dropped, . is masked. */
export function picture({call}: Prepared, b: number, h: number): string[] {
  const letter = (r: number, j: number) => (!call.visible(b, h, r, j) ? '.' : call.kept(b, h, r, j) ? '#' : 'x');
  return draw(call, letter);
}

/** The same picture from weights. A weight of 0 does not tell dropped from masked pairs; the rule decides. */
export function pictureOf(weights: Float32Array, {call}: Prepared, b: number, h: number): string[] {
  const {H, Sq, Sk, visible} = call;
  const letter = (r: number, j: number) => {
    const takesPart = weights[((b * H + h) * Sq + r) * Sk + j] !== 0;
    return takesPart ? '#' : visible(b, h, r, j) ? 'x' : '.';
  };
  return draw(call, letter);
}

function draw({Sq, Sk}: {Sq: number; Sk: number}, letter: (r: number, j: number) => string): string[] {
  const columns = Array.from({length: Sk}, (_, j) => j);
  return Array.from({length: Sq}, (_, r) => columns.map((j) => letter(r, j)).join(''));
}
