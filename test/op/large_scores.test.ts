/**
 * @file Scores far from zero, up to the limits of float32: in both passes the weights of a row add up to 1, errors stay
 * within the tolerance of dense attention, and no finite score is taken for a masked one.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import type {Precision} from '../../src/call/kernel_names.js';
import {attend} from '../support/attend.js';
import type {Prepared} from '../support/cases.js';
import {type ActualResult, FACTOR, compare} from '../support/compare.js';
import {denseFloat32} from '../support/dense_float32.js';
import {type Device, onEachDevice, slackOf} from '../support/devices.js';
import {EXTREME_SCORES, LARGEST, SCORES, causalScores, equalKeys} from '../support/large_scores.js';
import {oracle} from '../support/oracle.js';

/** Precision of the operands of the products, in bits. */
const BITS = {auto: 24, float32: 24, float16: 11, bfloat16: 8} as const;
/** See `kernels.test.ts`; large scores make more of what is cut off. */
const CUT_OFF_FACTOR = 10;

describe('large scores', () => {
  onEachDevice((device) => {
    for (const precision of [undefined, ...(device.precisions ?? [])]) {
      const inPrecision = precision ? `, precision '${precision}'` : '';

      for (const keys of [1, 2]) {
        it(`${keys} equal keys share the weight${inPrecision}`, async () => {
          const prepared = equalKeys(keys, SCORES);
          const actual = await run(device, prepared, precision);
          expectShared(actual, keys);
          await expectRight(device, prepared, actual, precision);
        });

        it(`${keys} equal keys with scores that could read as masked${inPrecision}`, async () => {
          const prepared = equalKeys(keys, EXTREME_SCORES);
          const actual = await run(device, prepared, precision);
          expectShared(actual, keys);
          const {out} = oracle(prepared.call);
          const tolerance = slackOf(device) * (precision ? 1e-1 : 1e-5);
          out.forEach((x, i) => expect(actual.out![i]).to.be.closeTo(x, tolerance));
        });
      }
      for (const largest of LARGEST) {
        it(`48 queries and keys, causal, scores to ${largest.toExponential()}${inPrecision}`, async () => {
          const prepared = causalScores(largest);
          const actual = await run(device, prepared, precision);
          expectMeans(prepared, actual);
          if (isDecided(largest, precision)) await expectRight(device, prepared, actual, precision);
        });
      }
    }
  });
});

/**
 * Whether the weights of scores up to `largest` are decided: with operands of 16 bits the error of larger scores is not
 * small beside 1, so a device may give the weight to another key than dense attention does.
 */
function isDecided(largest: number, precision?: Precision): boolean {
  return precision === undefined || precision === 'float32' || largest < 2 ** BITS[precision];
}

/** Each output is a mean of the values that its query sees. */
function expectMeans({call}: Prepared, {out}: ActualResult): void {
  const {v, Sq, H, Dv} = call;
  for (let channel = 0; channel < H * Dv; channel++) {
    let [least, most] = [Infinity, -Infinity];
    for (let row = 0; row < Sq; row++) {
      const at = row * H * Dv + channel;
      [least, most] = [Math.min(least, v[at]), Math.max(most, v[at])];
      const slack = 2 ** -7 * Math.max(Math.abs(least), Math.abs(most));
      expect(out![at], `row ${row}, channel ${channel}`).to.be.within(least - slack, most + slack);
    }
  }
}

/** The gradient of a key's value is its weight, because the gradient of the output is 1. */
function expectShared({dv}: ActualResult, keys: number): void {
  for (const x of Array.from(dv!)) expect(x).to.be.closeTo(1 / keys, 1e-6);
}

async function run(device: Device, prepared: Prepared, precision?: Precision): Promise<ActualResult> {
  const actual = await attend(prepared, precision);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  return actual;
}

/**
 * Compares with dense attention on the same device, or on tfjs's cpu if products have few bits, because it does not
 * round its inputs.
 */
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
