/**
 * @file Gradients of gradients, and one order more, against central differences of the oracle's gradients in float64.
 */
import {strict as assert} from 'node:assert';
import * as tf from '@tensorflow/tfjs';
import {FlashMask, type FlashMaskAttentionOptions, flashMaskAttention, masks} from '../../src/entries/index.js';
import {HEAD_SIZE} from '../support/cases.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {type AttentionCall, forwardOracle, oracle, visibleByBounds} from '../support/oracle.js';
import {keptPairs} from '../support/philox_reference.js';
import {seeded} from '../support/random.js';

const names = ['q', 'k', 'v'] as const;
const gradientOf = {q: 'dq', k: 'dk', v: 'dv'} as const;

type Inputs = Record<(typeof names)[number], Float64Array>;

/** The sizes and dropout of a trial. The last rows of each head see no key; how many differs between heads. */
interface Trial {
  B: number;
  H: number;
  Hkv: number;
  Sq: number;
  Sk: number;
  D: number;
  Dv: number;
  dropout: number;
}

const SEED = 2 ** 33 + 7;
const small: Trial = {B: 2, H: 4, Hkv: 2, Sq: 7, Sk: 9, D: HEAD_SIZE, Dv: HEAD_SIZE, dropout: 0};

function makeMask({H, Sq, Sk}: Trial): FlashMask {
  const bounds = new Int32Array(H * Sk);
  for (let h = 0; h < H; h++) {
    for (let j = 0; j < Sk; j++) {
      const first = Math.max(j - (Sk - Sq), 0);
      bounds[h * Sk + j] = Math.min(first + 1 + ((j + h) % 4), Sq - 2);
    }
  }
  return new FlashMask({causal: true, queryLength: Sq, keyLength: Sk, heads: H, vectors: 1, bounds});
}

function values(name: string, size: number): Float64Array {
  const random = seeded(name);
  return Float64Array.from({length: size}, () => Math.fround(2 * random() - 1));
}

/** Inputs, weights of the objective and two directions. */
function makeData(t: Trial) {
  const sizes = {q: t.B * t.H * t.Sq * t.D, k: t.B * t.Hkv * t.Sk * t.D, v: t.B * t.Hkv * t.Sk * t.Dv};
  const like = (what: string): Inputs =>
    Object.fromEntries(names.map((name) => [name, values(`${what} ${name}`, sizes[name])])) as Inputs;
  return {
    inputs: like('input'),
    u: like('first direction'),
    u2: like('second direction'),
    w: values('w', t.B * t.H * t.Sq * t.Dv),
    wLse: values('wLse', t.B * t.H * t.Sq),
  };
}

type Data = ReturnType<typeof makeData>;

/** ∑ gradient · u of the objective ∑ w (out² + out) + ∑ wLse lse², the latter over rows that see a key. */
function slopeInFloat64(t: Trial, data: Data, mask: FlashMask): (inputs: Inputs) => number {
  const bounds = {data: mask.bounds!, maskB: 1, Hm: t.H, n: 1, causal: true};
  const rules = {visible: visibleByBounds(bounds, t), kept: keptPairs(t.H, t.dropout, SEED)};
  return (inputs) => {
    const fixed = {...t, ...rules, ...inputs, layout: 'bhsd' as const, scale: 1 / Math.sqrt(t.D)};
    const zero: AttentionCall = {...fixed, dOut: data.w.map(() => 0), dLse: data.wLse.map(() => 0)};
    const {out, lse} = forwardOracle(zero);
    const dOut = out.map((x, i) => data.w[i] * (2 * x + 1));
    const dLse = lse.map((x, i) => (x === -Infinity ? 0 : 2 * data.wLse[i] * x));
    const gradients = oracle({...zero, dOut, dLse});
    return names.reduce((sum, name) => sum + dot(gradients[gradientOf[name]], data.u[name]), 0);
  };
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

/** (f(inputs + step direction) - f(inputs - step direction)) / (2 step). */
function along(f: (inputs: Inputs) => number, inputs: Inputs, direction: Inputs, step: number): number {
  const at = (by: number): number =>
    f(Object.fromEntries(names.map((n) => [n, inputs[n].map((x, i) => x + by * direction[n][i])])) as Inputs);
  return (at(step) - at(-step)) / (2 * step);
}

/** The derivative of f in one element of one input. */
function inElement(f: (inputs: Inputs) => number, inputs: Inputs, name: keyof Inputs, i: number, step: number): number {
  const unit = Object.fromEntries(names.map((n) => [n, new Float64Array(inputs[n].length)])) as Inputs;
  unit[name][i] = 1;
  return along(f, inputs, unit, step);
}

/** The same slope as a function of tensors, by tf.grads through the op. */
function slopeOfTensors(t: Trial, data: Data, mask: FlashMask) {
  const w = tf.tensor4d(Float32Array.from(data.w), [t.B, t.H, t.Sq, t.Dv]);
  const wLse = tf.tensor3d(Float32Array.from(data.wLse), [t.B, t.H, t.Sq]);
  const options = {layout: 'bhsd', dropout: t.dropout, seed: SEED, returnLogSumExp: true} as const;
  const [q0, k0, v0] = toTensors(t, data.inputs);
  const alive = flashMaskAttention(q0, k0, v0, mask, options)[1].greater(-1e30);
  const objective = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor => {
    const [out, lse] = flashMaskAttention(q, k, v, mask, options satisfies FlashMaskAttentionOptions);
    const finite = tf.where(alive, lse, tf.zerosLike(lse));
    return out.square().add(out).mul(w).sum().add(finite.square().mul(wLse).sum());
  };
  return timesDirection(objective, t, data.u);
}

type Scalars = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) => tf.Tensor;

/** ∑ gradient of f · direction, which can be differentiated again. */
function timesDirection(f: Scalars, t: Trial, direction: Inputs): Scalars {
  const u = toTensors(t, direction);
  return (q, k, v) =>
    tf.addN(
      tf
        .grads(f as Variadic)([q, k, v])
        .map((g, i) => g.mul(u[i]).sum()),
    );
}

type Variadic = (...xs: tf.Tensor[]) => tf.Tensor;

function toTensors({B, H, Hkv, Sq, Sk, D, Dv}: Trial, inputs: Inputs): tf.Tensor[] {
  const shapes = {q: [B, H, Sq, D], k: [B, Hkv, Sk, D], v: [B, Hkv, Sk, Dv]};
  return names.map((name) => tf.tensor(Float32Array.from(inputs[name]), shapes[name]));
}

function assertClose(got: number, expected: number, tolerance: number, what: string): void {
  const difference = Math.abs(got - expected);
  assert.ok(difference <= tolerance * (1 + Math.abs(expected)), `${what}: got ${got}, expected ${expected}`);
}

/** Slopes by trial and element, computed once for all devices. */
const slopes = new Map<string, number>();

function slopeOf(trial: Trial, order: number, name: string, i: number, work: () => number): number {
  const key = `${JSON.stringify(trial)} ${order} ${name} ${i}`;
  if (!slopes.has(key)) slopes.set(key, work());
  return slopes.get(key)!;
}

describe('second order', () => {
  onEachDevice((device) => {
    const check = async (t: Trial, stride: number): Promise<void> => {
      const data = makeData(t);
      const mask = makeMask(t);
      const exact = slopeInFloat64(t, data, mask);
      const second = tf.tidy(() => tf.grads(slopeOfTensors(t, data, mask) as Variadic)(toTensors(t, data.inputs)));
      for (const [at, name] of names.entries()) {
        const got = await second[at].data();
        for (let i = 0; i < got.length; i += stride) {
          const slope = slopeOf(t, 2, name, i, () => inElement(exact, data.inputs, name, i, 1e-5));
          assertClose(got[i], slope, slackOf(device) * 1e-4, `second derivative in ${name}[${i}]`);
        }
      }
      tf.dispose(second);
    };

    it('is the derivative of the gradient, grouped heads, log-sum-exp and rows without keys included', () =>
      check(small, 1));

    it('differentiates what dropout kept', () => check({...small, dropout: 0.4}, 5));

    it('holds over several tiles', () => check({...small, B: 1, H: 2, Hkv: 1, Sq: 260, Sk: 270}, 1123));

    it('holds for the third derivative', async () => {
      const t = {...small, B: 1, H: 2, Hkv: 1};
      const data = makeData(t);
      const mask = makeMask(t);
      const exact = slopeInFloat64(t, data, mask);
      const exactSecond = (inputs: Inputs): number => along(exact, inputs, data.u2, 1e-3);
      const third = tf.tidy(() => {
        const second = timesDirection(slopeOfTensors(t, data, mask), t, data.u2);
        return tf.grads(second as Variadic)(toTensors(t, data.inputs));
      });
      for (const [at, name] of names.entries()) {
        const got = await third[at].data();
        for (let i = 0; i < got.length; i += 3) {
          assertClose(
            got[i],
            slopeOf(t, 3, name, i, () => inElement(exactSecond, data.inputs, name, i, 1e-3)),
            Math.min(0.1, slackOf(device) * 1e-3),
            `third derivative in ${name}[${i}]`,
          );
        }
      }
      tf.dispose(third);
    });

    it('gives what no visible pair connects no influence', async () => {
      const t = {...small, B: 1, H: 2, Hkv: 1, Sq: 45, Sk: 45};
      const mask = masks.causalDocument([20, 22], {padTo: 45});
      // Puts the value into all of the second document and of the padding.
      const poisoned = (value: number): Data => {
        const data = makeData(t);
        const inputs = Object.fromEntries(
          names.map((name) => [
            name,
            data.inputs[name].map((x, i) => (Math.floor(i / HEAD_SIZE) % 45 < 20 ? x : value)),
          ]),
        ) as Inputs;
        return {...data, inputs};
      };
      const run = async (data: Data): Promise<Float32Array[]> => {
        const second = tf.tidy(() => tf.grads(slopeOfTensors(t, data, mask) as Variadic)(toTensors(t, data.inputs)));
        const got = await Promise.all(second.map(async (x) => (await x.data()) as Float32Array));
        tf.dispose(second);
        return got;
      };
      const clean = await run(makeData(t));
      // On devices with 16-bit products the largest number of a head decides how small ones are rounded.
      for (const value of device.precisions ? [NaN, Infinity] : [NaN, Infinity, 3e38]) {
        for (const [at, got] of (await run(poisoned(value))).entries()) {
          const largest = clean[at].reduce((most, x) => Math.max(most, Math.abs(x)), 0);
          got.forEach((x, i) => {
            const row = Math.floor(i / HEAD_SIZE) % 45;
            const expected = row < 20 ? clean[at][i] : row < 42 ? x : 0;
            // A GPU adds up in any order, and computes a head with NaN by another kernel.
            const near = device.name === 'tensorflow-gpu' && Math.abs(x - expected) <= 1e-5 * largest;
            assert.ok(
              Object.is(x, expected) || x === expected || near,
              `${value}: ${names[at]}[${i}] is ${x}, not ${expected}`,
            );
          });
        }
      }
    });

    it('takes weights of 1 as such, at any score', async () => {
      for (const score of [1e3, 1e6, 1e9]) {
        const t = {...small, B: 1, H: 1, Hkv: 1, Sq: 1, Sk: 1};
        const data = makeData(t);
        data.inputs.q.fill(Math.sqrt(score) / 2);
        data.inputs.k.fill(Math.sqrt(score) / 2);
        const second = tf.tidy(() =>
          tf.grads(slopeOfTensors(t, data, masks.full(1)) as Variadic)(toTensors(t, data.inputs)),
        );
        const got = await second[2].data();
        // The objective is ∑ w (v² + v) plus a term of lse that does not depend on v. Terms as large as the keys
        // cancel.
        const tolerance = slackOf(device) * (1e-5 + 2 ** -20 * Math.sqrt(score));
        got.forEach((x, i) => assertClose(x, 2 * data.w[i] * data.u.v[i], tolerance, `score ${score}, v[${i}]`));
        tf.dispose(second);
      }
    });

    it('leaves no tensor behind', () => {
      const data = makeData(small);
      const mask = makeMask(small);
      const run = (): void => {
        tf.tidy(() => void tf.grads(slopeOfTensors(small, data, mask) as Variadic)(toTensors(small, data.inputs)));
      };
      run(); // The mask's bounds stay cached.
      const {numTensors, numDataBuffers} = tf.memory();
      for (let i = 0; i < 3; i++) run();
      assert.deepEqual([tf.memory().numTensors, tf.memory().numDataBuffers], [numTensors, numDataBuffers]);
    });
  });
});
