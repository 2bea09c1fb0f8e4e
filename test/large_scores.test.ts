/**
 * @file Scores far from zero, up to the ends of float32: the weights of a row add up to 1 in both passes, whatever the score, and errors
 * stay within the tolerance of dense attention. And no finite score reads as masked.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import type {Precision} from '../src/kernel_names.js';
import {attend} from './attend.js';
import {type Prepared, plainCase, prepare} from './cases.js';
import {type ActualResult, FACTOR, compare} from './compare.js';
import {denseFloat32} from './dense_float32.js';
import {type Device, onEachDevice} from './devices.js';
import {type AttentionCall, offsetOf, oracle} from './oracle.js';

const SCORES = [1e2, 1e3, 1.1e5, 1e6, 1e7, 1e8, 1e9, 1e12, 1e20, 1e37, 2e38].flatMap((x) => [x, -x]);
const FACTORS = [1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/** Bits of precision of what the products read. */
const BITS = {auto: 24, float32: 24, float16: 11, bfloat16: 8} as const;
/** See `kernels.test.ts`. */
const CUT_OFF_FACTOR = 8;

describe('large scores', () => {
  onEachDevice((device) => {
    for (const precision of [undefined, ...(device.precisions ?? [])]) {
      const inPrecision = precision ? `, precision '${precision}'` : '';

      for (const keys of [1, 2]) {
        it(`${keys} equal keys share the weight${inPrecision}`, () => equalKeys(device, keys, precision));
      }
      for (const factor of FACTORS) {
        const name = `48 queries and keys, causal, scores to ${factor.toExponential()}${inPrecision}`;
        it(name, () => causal(device, factor, precision));
      }
    }
  });
});

/** One query a batch row, keys that are equal: each has the weight 1 / keys, at any score. */
async function equalKeys(device: Device, keys: number, precision?: Precision): Promise<void> {
  const c = plainCase('large scores', `${keys} equal keys`, false, {
    B: SCORES.length,
    Sq: 1,
    Sk: keys,
    H: 1,
    Hkv: 1,
    scale: 1,
  });
  const prepared = prepare({...c, lse: false});
  const {call} = prepared;
  // A score is the sum of products of numbers alike, which are far from the ends of float32.
  const share = Array.from({length: call.D}, (_, channel) => Math.sqrt((channel + 1) / ((call.D * (call.D + 1)) / 2)));
  const root = (b: number, channel: number) => share[channel] * Math.sqrt(Math.abs(SCORES[b]));
  fill(call, 'q', (b, _row, channel) => Math.sign(SCORES[b]) * root(b, channel));
  fill(call, 'k', (b, _row, channel) => root(b, channel));
  fill(call, 'dOut', () => 1);
  const actual = await attend(prepared, precision);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  for (const dv of Array.from(actual.dv!)) expect(dv).to.be.closeTo(1 / keys, 1e-6);
  await expectRight(device, prepared, actual, precision);
}

async function causal(device: Device, factor: number, precision?: Precision): Promise<void> {
  const c = plainCase('large scores', `causal ${factor}`, true, {Sq: 48, Sk: 48});
  // The largest of some thousand scores is about four deviations.
  const deviation = Math.sqrt(factor / 4);
  const prepared = prepare({...c, spread: {q: {deviation}, k: {deviation}}});
  const actual = await attend(prepared, precision);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  await expectRight(device, prepared, actual, precision);
}

/** Against dense attention on the same device; with products of few bits on tfjs's own cpu, which reads what it is given. */
async function expectRight(
  device: Device,
  {call}: Prepared,
  actual: ActualResult,
  precision?: Precision,
): Promise<void> {
  const bits = precision ? BITS[precision] : device.bits;
  if (precision) await tf.setBackend('cpu');
  const dense = await denseFloat32(call, bits);
  if (precision) await device.setup();
  compare(actual, oracle(call), dense, bits, precision === 'float32' ? CUT_OFF_FACTOR : FACTOR);
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
