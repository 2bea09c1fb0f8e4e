/**
 * @file Gradients against central differences in float64: every gradient of the oracle, the first and last of each
 * device, and the gradient of a gradient.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention} from '../../src/entries/index.js';
import {attend, maskArgument, optionsOf, tensorsOf} from '../support/attend.js';
import {type Case, cases, prepare} from '../support/cases.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {type AttentionCall, forwardOracle, oracle} from '../support/oracle.js';

const inputs = ['q', 'k', 'v'] as const;
type Input = (typeof inputs)[number];
const gradientOf = {q: 'dq', k: 'dk', v: 'dv'} as const;

/** With this step, central differences are accurate to about 1e-10. */
const STEP = 1e-5;

/** The scalar whose gradients are tested: sum(out dOut) + sum(lse dLse) over the rows that see a key. */
function loss(call: AttentionCall): number {
  const {out, lse} = forwardOracle(call);
  const fromOut = out.reduce((sum, x, i) => sum + x * call.dOut[i], 0);
  return lse.reduce((sum, x, i) => (x === -Infinity ? sum : sum + x * call.dLse[i]), fromOut);
}

/** The call with `by` added to one element of q, k or v. */
function moved(call: AttentionCall, input: Input, index: number, by: number): AttentionCall {
  const values = Float64Array.from(call[input]);
  values[index] += by;
  return {...call, [input]: values};
}

function difference(call: AttentionCall, input: Input, index: number, f = loss): number {
  return (f(moved(call, input, index, STEP)) - f(moved(call, input, index, -STEP))) / (2 * STEP);
}

/** Slopes by case and element, computed once for all devices. */
const slopes = new Map<string, number>();

function slopeOf(name: string, work: () => number): number {
  if (!slopes.has(name)) slopes.set(name, work());
  return slopes.get(name)!;
}

function caseNamed(group: string, name: string): Case {
  const found = cases.find((c) => c.group === group && c.name === name);
  if (!found) {
    throw new Error(`No case '${group}: ${name}' in the table.`);
  }
  return found;
}

/** A case of the table, shortened so that each of its numbers can be moved. */
function small(group: string, name: string): AttentionCall {
  const c = {...caseNamed(group, name), B: 2, D: 3, Dv: 2};
  const call = prepare(c).call;
  return {...call, ...shortened(call)};
}

/** The first 6 queries and 7 keys of a call, with heads first. */
function shortened(call: AttentionCall): Partial<AttentionCall> {
  const [Sq, Sk] = [6, 7];
  const {B, H, Hkv, D, Dv} = call;
  const take = (values: ArrayLike<number>, count: number) => Float64Array.from({length: count}, (_, i) => values[i]);
  return {
    layout: 'bhsd',
    Sq,
    Sk,
    q: take(call.q, B * H * Sq * D),
    k: take(call.k, B * Hkv * Sk * D),
    v: take(call.v, B * Hkv * Sk * Dv),
    dOut: take(call.dOut, B * H * Sq * Dv),
    dLse: take(call.dLse, B * H * Sq),
    visible: (b, h, r, j) => call.visible(b, h, r * 9, j * 9),
  };
}

describe('finite differences', () => {
  const trials: [string, string][] = [
    ['form', 'causal true, n 2, any'],
    ['form', 'causal false, n 4, blocky'],
    ['heads', 'H 4, Hkv 2, mask heads 4, mask batches 1, bshd'],
    ['dropout', 'a half'],
    ['dropout', 'grouped heads, long seed'],
    ['empty', 'padding at the end'],
  ];
  for (const [group, name] of trials) {
    it(`agree with every gradient of the oracle: ${group}, ${name}`, () => {
      const call = small(group, name);
      const gradients = oracle(call);
      for (const input of inputs) {
        for (let i = 0; i < call[input].length; i++) {
          const exact = gradients[gradientOf[input]][i];
          expect(exact, `d${input}[${i}]`).to.be.closeTo(difference(call, input, i), 1e-8);
        }
      }
    });
  }

  onEachDevice((device) => {
    for (const [group, name] of [...trials, ['option', 'causal']]) {
      it(`agree with the first and last gradients: ${group}, ${name}`, async () => {
        const prepared = prepare(caseNamed(group, name));
        const actual = await attend(prepared);
        expect(await device.hiddenErrors()).to.deep.equal([]);
        for (const input of inputs) {
          const gradient = actual[gradientOf[input]]!;
          for (const i of [0, gradient.length - 1]) {
            const slope = slopeOf(`${group} ${name} ${input} ${i}`, () => difference(prepared.call, input, i));
            expect(gradient[i], `d${input}[${i}]`).to.be.closeTo(slope, slackOf(device) * 1e-5 * (1 + Math.abs(slope)));
          }
        }
      });
    }

    it('agree with the gradient of a gradient', async () => {
      const prepared = prepare({...caseNamed('empty', 'padding at the end'), lse: false});
      const {call, mask, case: c} = prepared;
      const {q, k, v, dOut, dLse} = tensorsOf(prepared);
      const bounds = maskArgument(mask, c.Sk);
      const attention = (x: tf.Tensor) => flashMaskAttention(x as tf.Tensor4D, k, v, bounds, optionsOf(prepared));
      const squaredGradient = (x: tf.Tensor) => tf.sum(tf.square(tf.grad(attention)(x, dOut)));
      const second = await tf.grad(squaredGradient)(q).data();
      expect(await device.hiddenErrors()).to.deep.equal([]);
      const inFloat64 = (moved_: AttentionCall) => oracle(moved_).dq.reduce((sum, x) => sum + x * x, 0);
      for (const i of [0, 5, Math.floor(second.length / 2), second.length - 1]) {
        const slope = slopeOf(`second ${i}`, () => difference(call, 'q', i, inFloat64));
        const tolerance = slackOf(device) * 1e-4 * (1 + Math.abs(slope));
        expect(second[i], `second derivative ${i}`).to.be.closeTo(slope, tolerance);
      }
      tf.dispose([q, k, v, dOut, dLse, bounds as tf.Tensor]);
    });
  });
});
