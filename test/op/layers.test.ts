/** @file The layers around the attention (src/layers) on each device, against float64. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {adamwStep} from '../../src/layers/adamw.js';
import {gatedUnit} from '../../src/layers/gated_unit.js';
import {rmsNorm} from '../../src/layers/rms_norm.js';
import {rotate} from '../../src/layers/rotate.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {normals, seeded} from '../support/random.js';

type Numbers = Float64Array;

/** Tokens and channels: single ones, odd ones, and more than a block of threads has. */
const SIZES = [
  [1, 2],
  [3, 10],
  [70, 66],
  [5, 1030],
  [300, 576],
];

const values = ([rows, channels]: number[], seed: number, deviation = 1): Numbers =>
  Float64Array.from(normals(seeded(seed), rows * channels, deviation));

const upload = (data: Numbers, shape: number[]): tf.Tensor => tf.tensor(Float32Array.from(data), shape, 'float32');
const each = (rows: number, body: (row: number) => number[]): Numbers =>
  Float64Array.from(Array.from({length: rows}, (_, row) => body(row)).flat());
const rowOf = (data: Numbers, row: number, channels: number): number[] =>
  Array.from(data.subarray(row * channels, (row + 1) * channels));
const dot = (a: number[], b: number[]): number => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** Values and gradients of RMSNorm, of its definition. */
function normOracle(x: Numbers, gamma: Numbers, dy: Numbers, [rows, channels]: number[], epsilon: number): Numbers[] {
  const inverse = Array.from({length: rows}, (_, row) => {
    const own = rowOf(x, row, channels);
    return 1 / Math.sqrt(dot(own, own) / channels + epsilon);
  });
  const y = each(rows, (row) => rowOf(x, row, channels).map((value, i) => value * inverse[row] * gamma[i]));
  const dx = each(rows, (row) => {
    const unit = rowOf(x, row, channels).map((value) => value * inverse[row]);
    const dUnit = rowOf(dy, row, channels).map((value, i) => value * gamma[i]);
    const mean = dot(unit, dUnit) / channels;
    return unit.map((value, i) => (dUnit[i] - value * mean) * inverse[row]);
  });
  const dGamma = new Float64Array(channels);
  for (let i = 0; i < rows * channels; i++) {
    dGamma[i % channels] += dy[i] * x[i] * inverse[Math.floor(i / channels)];
  }
  return [y, dx, dGamma];
}

async function expectClose(actual: tf.Tensor, expected: Numbers, rounding: number, what: string): Promise<void> {
  const got = await actual.data();
  expect(got.length, what).to.equal(expected.length);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const wrong = Array.from(got).findIndex((value, i) => !(Math.abs(value - expected[i]) <= rounding * largest));
  expect(wrong, `${what}[${wrong}]: ${got[wrong]} instead of ${expected[wrong]}`).to.equal(-1);
}

onEachDevice((device) => {
  const rounding = 2e-6 * slackOf(device);

  describe('layers', () => {
    for (const shape of SIZES) {
      const [rows, channels] = shape;
      const name = `[${shape.join(', ')}]`;

      it(`rmsNorm of ${name} has its values and gradients`, async () => {
        const [x, dy] = [values(shape, 1, 3), values(shape, 2)];
        const gamma = values([1, channels], 3);
        const variable = tf.variable(upload(gamma, [channels])) as tf.Variable<tf.Rank.R1>;
        const weights = upload(dy, shape);
        const loss = (input: tf.Tensor): tf.Scalar =>
          rmsNorm(input as tf.Tensor2D, variable, 0.1)
            .mul(weights)
            .sum();
        const dx = tf.grad(loss)(upload(x, shape));
        const {grads} = tf.variableGrads(() => loss(upload(x, shape)));
        const [expected, expectedDx, expectedDGamma] = normOracle(x, gamma, dy, shape, 0.1);
        await expectClose(rmsNorm(upload(x, shape) as tf.Tensor2D, variable, 0.1), expected, rounding, 'value');
        await expectClose(dx, expectedDx, rounding, 'dx');
        await expectClose(grads[variable.name], expectedDGamma, rounding * Math.sqrt(rows), 'dgamma');
        variable.dispose();
      });

      it(`gatedUnit of ${name} has its values and gradients`, async () => {
        const [gate, up, dy] = [values(shape, 4, 5), values(shape, 5), values(shape, 6)];
        const weights = upload(dy, shape);
        const sigmoid = gate.map((value) => 1 / (1 + Math.exp(-value)));
        const inputs = [upload(gate, shape), upload(up, shape)];
        const [dGate, dUp] = tf.grads((g, u) =>
          gatedUnit(g as tf.Tensor2D, u as tf.Tensor2D)
            .mul(weights)
            .sum(),
        )(inputs);
        const value = gatedUnit(inputs[0] as tf.Tensor2D, inputs[1] as tf.Tensor2D);
        await expectClose(
          value,
          gate.map((g, i) => g * sigmoid[i] * up[i]),
          rounding,
          'value',
        );
        const slope = (g: number, i: number): number => sigmoid[i] * (1 + g * (1 - sigmoid[i]));
        await expectClose(
          dGate,
          gate.map((g, i) => dy[i] * up[i] * slope(g, i)),
          rounding,
          'dgate',
        );
        await expectClose(
          dUp,
          gate.map((g, i) => dy[i] * g * sigmoid[i]),
          rounding,
          'dup',
        );
      });

      it(`rotate of ${name} has its values and gradients, for one head and for several`, async () => {
        for (const headSize of channels % 4 === 0 ? [channels, channels / 2] : [channels]) {
          const [x, dy] = [values(shape, 7), values(shape, 8)];
          const angles = values([rows, headSize / 2], 9, 10);
          const angleOf = (row: number, i: number): number => angles[(row * headSize) / 2 + (i % (headSize / 2))];
          const sign = (i: number): number => (i % headSize < headSize / 2 ? -1 : 1);
          const table = (of: (angle: number) => number, signed: boolean): tf.Tensor3D => {
            const entry = (row: number, i: number): number => of(angleOf(row, i)) * (signed ? sign(i) : 1);
            const all = each(rows, (row) => Array.from({length: headSize}, (_, i) => entry(row, i)));
            return upload(all, [rows, 1, headSize]) as tf.Tensor3D;
          };
          const turned = (data: Numbers, direction: number): Numbers =>
            each(rows, (row) =>
              rowOf(data, row, channels).map((value, i) => {
                const partner = data[row * channels + i + (sign(i) * -headSize) / 2];
                const angle = angleOf(row, i % headSize);
                return value * Math.cos(angle) + direction * sign(i) * partner * Math.sin(angle);
              }),
            );
          const tables = {cosines: table(Math.cos, false), sines: table(Math.sin, true)};
          const weights = upload(dy, shape);
          const dx = tf.grad((input) =>
            rotate(input as tf.Tensor2D, tables)
              .mul(weights)
              .sum(),
          )(upload(x, shape));
          await expectClose(rotate(upload(x, shape) as tf.Tensor2D, tables), turned(x, 1), rounding, 'value');
          await expectClose(dx, turned(dy, -1), rounding, 'dx');
        }
      });
    }

    for (const decays of [false, true]) {
      it(`adamwStep of 3 tensors has the values of its formulas, ${decays ? 'with' : 'without'} decay`, async () => {
        const [beta1, beta2, shrink] = [0.9, 0.99, 0.25];
        const factors = [1e-3, 0.01, 0.995];
        for (const shape of [[1], [67], [33, 40]]) {
          const count = shape.reduce((a, b) => a * b, 1);
          const [gradient, m, value] = [10, 11, 12].map((seed) => values([1, count], seed));
          const v = values([1, count], 13).map((x) => Math.fround(x * x));
          const tensors = {gradient, m, v, value};
          const given = Object.fromEntries(Object.entries(tensors).map(([name, data]) => [name, upload(data, shape)]));
          const rates = {beta1, beta2, decays};
          const results = adamwStep(given as never, tf.scalar(shrink), tf.tensor1d(factors), rates);
          const newM = m.map((x, i) => beta1 * x + (1 - beta1) * shrink * gradient[i]);
          const newV = v.map((x, i) => beta2 * x + (1 - beta2) * (shrink * gradient[i]) ** 2);
          const moved = value.map(
            (x, i) => (decays ? factors[2] : 1) * x - (factors[1] * newM[i]) / (Math.sqrt(newV[i]) + factors[0]),
          );
          expect(results.map((x) => x.shape)).to.deep.equal([shape, shape, shape]);
          await expectClose(results[0], newM, rounding, 'm');
          await expectClose(results[1], newV, rounding, 'v');
          await expectClose(results[2], moved, rounding, 'value');
        }
      });
    }

    it('gatedUnit of large gates has the slope 1 or 0', async () => {
      const gate = Float64Array.of(-1e8, -100, 100, 1e4, 1e8);
      const [dGate] = tf.grads((g, u) => gatedUnit(g as tf.Tensor2D, u as tf.Tensor2D).sum())([
        upload(gate, [1, 5]),
        tf.ones([1, 5]),
      ]);
      await expectClose(dGate, Float64Array.of(0, 0, 1, 1, 1), 1e-6, 'dgate');
    });

    it('lets NaN and infinity through', async () => {
      const x = upload(Float64Array.of(NaN, 1, Infinity, 1, 2, 3), [3, 2]) as tf.Tensor2D;
      const norm = await rmsNorm(x, tf.ones([2]), 0).data();
      expect([norm[0], norm[1], norm[2]].map(Number.isNaN)).to.deep.equal([true, true, true]);
      expect(Number.isNaN((await gatedUnit(x, tf.onesLike(x)).data())[0])).to.equal(true);
    });
  });
});
