/**
 * @file Which pairs take part, exactly: with values that name their key, the output is the matrix of weights, and with output gradients
 * that name their query, so is the gradient of v. A pair has a weight of 0 if and only if it is masked or dropped.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention} from '../src/index.js';
import {maskArgument, optionsOf} from './attend.js';
import {type Prepared, cases, prepare} from './cases.js';
import {onEachDevice} from './devices.js';

/** Long enough for several tiles, and one head size, so that devices compile little. */
const S = 97;

/** The cases of the table whose mask is the point, made square. */
const squared = cases
  .filter(({group, Sq, Sk}) => (group === 'empty' || group === 'dropout') && Sq <= S && Sk <= S)
  .map((c) => prepare({...c, lse: false}));

/** Weights `[B, H, Sq, Sk]` of the forward pass, and of the backward pass; keys and queries are all zero. */
async function weightsOf({case: c, mask}: Prepared): Promise<{forward: Float32Array; backward: Float32Array}> {
  const {B, H, Sq, Sk} = c;
  const results = tf.tidy(() => {
    const options = {...optionsOf({case: c}), layout: 'bhsd' as const};
    const bounds = maskArgument(mask, Sk);
    // As many key heads as query heads: then the gradient of v of one head is made by that head alone.
    const q = tf.zeros<tf.Rank.R4>([B, H, Sq, 1]);
    const k = tf.zeros<tf.Rank.R4>([B, H, Sk, 1]);
    const keyNames = named(B * H, Sk, S).reshape([B, H, Sk, S]) as tf.Tensor4D;
    const queryNames = named(B * H, Sq, S).reshape([B, H, Sq, S]) as tf.Tensor4D;
    const out = flashMaskAttention(q, k, keyNames, bounds, options);
    const attention = (v: tf.Tensor) => flashMaskAttention(q, k, v as tf.Tensor4D, bounds, options);
    const dv = tf.grad(attention)(keyNames, queryNames);
    return {
      forward: tf.slice(out, [0, 0, 0, 0], [B, H, Sq, Sk]),
      backward: tf.transpose(tf.slice(dv, [0, 0, 0, 0], [B, H, Sk, Sq]), [0, 1, 3, 2]),
    };
  });
  const [forward, backward] = await Promise.all([results.forward.data(), results.backward.data()]);
  tf.dispose(results);
  return {forward: forward as Float32Array, backward: backward as Float32Array};
}

/** `rows` one-hot vectors of `channels` channels, repeated. */
function named(repeats: number, rows: number, channels: number): tf.Tensor {
  return tf.tile(tf.expandDims(tf.eye(rows, channels), 0), [repeats, 1, 1]);
}

/** One letter a pair: # takes part, x is dropped, . is masked. */
function picture({call}: Prepared, b: number, h: number): string[] {
  const rows = Array.from({length: call.Sq}, (_, r) => r);
  const columns = Array.from({length: call.Sk}, (_, j) => j);
  const letter = (r: number, j: number) => (!call.visible(b, h, r, j) ? '.' : call.kept(b, h, r, j) ? '#' : 'x');
  return rows.map((r) => columns.map((j) => letter(r, j)).join(''));
}

/** The same from weights, which cannot tell dropped pairs from masked ones: the rule decides between those two. */
function pictureOf(weights: Float32Array, prepared: Prepared, b: number, h: number): string[] {
  const {H, Sq, Sk, visible} = prepared.call;
  const rows = Array.from({length: Sq}, (_, r) => r);
  const columns = Array.from({length: Sk}, (_, j) => j);
  const letter = (r: number, j: number) => {
    const takesPart = weights[((b * H + h) * Sq + r) * Sk + j] !== 0;
    return takesPart ? '#' : visible(b, h, r, j) ? 'x' : '.';
  };
  return rows.map((r) => columns.map((j) => letter(r, j)).join(''));
}

describe('pairs that take part', () => {
  onEachDevice((device) => {
    for (const prepared of squared) {
      const {B, H, group, name} = prepared.case;
      it(`${group}: ${name}`, async () => {
        const {forward, backward} = await weightsOf(prepared);
        expect(await device.hiddenErrors()).to.deep.equal([]);
        for (let b = 0; b < B; b++) {
          for (let h = 0; h < H; h++) {
            expect(pictureOf(forward, prepared, b, h), `forward, batch ${b}, head ${h}`).to.deep.equal(
              picture(prepared, b, h),
            );
            expect(pictureOf(backward, prepared, b, h), `backward, batch ${b}, head ${h}`).to.deep.equal(
              picture(prepared, b, h),
            );
          }
        }
      });
    }
  });
});
