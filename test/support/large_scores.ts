/** @file Calls with scores far from zero, up to the ends of float32. */
import {type Prepared, plainCase, prepare} from './cases.js';
import {type AttentionCall, offsetOf} from './oracle.js';

export const SCORES = [1e2, 1e3, 1.1e5, 1e6, 1e7, 1e8, 1e9, 1e12].flatMap((x) => [x, -x]);

/** So large that dense attention fails on some backends and that a kernel could take them for masked scores. */
export const EXTREME_SCORES = [1e20, 1e37, 1e38, 2e38].flatMap((x) => [x, -x]);

/** The largest score of each call of `causalScores`. */
export const LARGEST = [1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/** A batch row per score: one query and equal keys, so that each weight is 1 / keys. */
export function equalKeys(keys: number, scores: readonly number[]): Prepared {
  const sizes = {B: scores.length, Sq: 1, Sk: keys, H: 1, Hkv: 1};
  const c = plainCase('large scores', `${keys} equal keys`, false, {...sizes, scale: 1, lse: false});
  const prepared = prepare(c);
  const {call} = prepared;
  // A score is a sum of similar products, none of which is near the limits of float32.
  const share = Array.from({length: call.D}, (_, channel) => Math.sqrt((channel + 1) / ((call.D * (call.D + 1)) / 2)));
  const root = (b: number, channel: number) => share[channel] * Math.sqrt(Math.abs(scores[b]));
  fill(call, 'q', (b, _row, channel) => Math.sign(scores[b]) * root(b, channel));
  fill(call, 'k', (b, _row, channel) => root(b, channel));
  fill(call, 'dOut', () => 1);
  return prepared;
}

/** 48 queries and keys under a causal mask, with scores up to about `largest`. */
export function causalScores(largest: number): Prepared {
  // The largest of some thousand normal scores is about four deviations.
  const deviation = Math.sqrt(largest / 4);
  const spread = {q: {deviation}, k: {deviation}};
  return prepare(plainCase('large scores', `causal ${largest}`, true, {Sq: 48, Sk: 48, spread}));
}

function fill(
  call: AttentionCall,
  name: 'q' | 'k' | 'dOut',
  value: (b: number, row: number, channel: number) => number,
): void {
  const [rows, heads] = name === 'k' ? [call.Sk, call.Hkv] : [call.Sq, call.H];
  const channels = name === 'dOut' ? call.Dv : call.D;
  for (let b = 0; b < call.B; b++) {
    for (let row = 0; row < rows; row++) {
      for (let head = 0; head < heads; head++) {
        const at = offsetOf(call.layout, [rows, heads, channels], b, row, head);
        for (let x = 0; x < channels; x++) (call[name] as Float32Array)[at + x] = value(b, row, x);
      }
    }
  }
}
