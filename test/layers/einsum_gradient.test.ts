/** @file The gradient of tf.einsum against finite differences in float64, and where another gradient is there. */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {build} from 'esbuild';
import '../../src/entries/einsum_gradient.js';
import {gradientOfEinsum} from '../../gradients/einsum_grad.js';
import {registerGradients} from '../../src/entries/register.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {normals, seeded} from '../support/random.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

const SIZES: Record<string, number> = {a: 2, b: 3, c: 4, d: 1, h: 2, i: 3, j: 4, k: 5};

/** Every way in which a label can occur. */
const EQUATIONS = [
  'ij,jk->ik', // contraction
  'ij,jk->ki',
  'ij,kj->ik',
  'i,i->',
  'ij,ij->',
  'ij,ij->ij', // all labels in all
  'ij,ji->ij',
  'i,j->ij', // outer product
  'j,i->ij',
  'ai,aj->aij', // batch
  'abc,abk->ack',
  'ab,b->ab',
  'ab,->ab', // a number
  'ij,jk->i', // a label of the second operand only
  'bij,bjk->bik',
  'bijd,bjkd->bikd', // an axis of length 1
  'abc,chk->abhk', // projections of attention
  'bjhk,bihk->bhij',
  'bhij,bjhk->bihk',
  'ij->ji', // one operand
  'bij->bji',
  'ij->i',
  'ij->',
  'bij->j',
];

/** TensorFlow's einsum is right for these. Those of tfjs's own backends give other shapes, or none. */
const ONLY_TENSORFLOW = ['ij,kj->ij', 'abi,cbi->b', 'ij,jk->k', 'i,j->'];
/** TensorFlow's takes no spaces. */
const NOT_TENSORFLOW = [' a b , b c -> a c '];

type Numbers = Float64Array;

const labelsOf = (equation: string): {terms: string[]; out: string} => {
  const [terms, out] = equation.replaceAll(' ', '').split('->');
  return {terms: terms.split(','), out};
};
const shapeOf = (labels: string): number[] => Array.from(labels, (label) => SIZES[label]);
const sizeOf = (labels: string): number => shapeOf(labels).reduce((a, b) => a * b, 1);

/** The sum over all labels of the product of all operands and the weights of the output. */
function weightedSum(equation: string, operands: Numbers[], weights: Numbers): number {
  const {terms, out} = labelsOf(equation);
  const all = [...new Set(terms.join(''))];
  const place = (labels: string, at: Record<string, number>): number =>
    Array.from(labels).reduce((index, label) => index * SIZES[label] + at[label], 0);
  const total = sizeOf(all.join(''));
  let sum = 0;
  for (let n = 0; n < total; n++) {
    let rest = n;
    const at = Object.fromEntries(
      all.map((label) => {
        const value = rest % SIZES[label];
        rest = Math.floor(rest / SIZES[label]);
        return [label, value];
      }),
    );
    sum += terms.reduce((product, labels, i) => product * operands[i][place(labels, at)], weights[place(out, at)]);
  }
  return sum;
}

/** The sum is linear in each operand, so a difference of any step is exact but for rounding. */
function slopes(equation: string, operands: Numbers[], weights: Numbers, which: number): number[] {
  return Array.from(operands[which], (_, i) => {
    const [up, down] = [0.5, -0.5].map((step) => {
      const moved = operands.map((x, n) => x.map((value, at) => (n === which && at === i ? value + step : value)));
      return weightedSum(equation, moved, weights);
    });
    return up - down;
  });
}

onEachDevice((device) => {
  if (device.name === 'composed') return; // tfjs's wasm backend has no einsum.
  describe('the gradient of tf.einsum', () => {
    const others = device.name.startsWith('tensorflow') ? ONLY_TENSORFLOW : NOT_TENSORFLOW;
    for (const equation of [...EQUATIONS, ...others]) {
      it(equation, async () => {
        const {terms, out} = labelsOf(equation);
        const operands = terms.map((labels, i) => Float64Array.from(normals(seeded(i + 1), sizeOf(labels), 1)));
        const weights = Float64Array.from(normals(seeded(9), sizeOf(out), 1));
        const upload = (data: Numbers, labels: string): tf.Tensor =>
          tf.tensor(Float32Array.from(data), shapeOf(labels));
        const inputs = operands.map((data, i) => upload(data, terms[i]));
        expect(tf.einsum(equation, ...inputs).shape).to.deep.equal(shapeOf(out));
        const gradients = tf.grads((...xs: tf.Tensor[]) => tf.einsum(equation, ...xs))(inputs, upload(weights, out));
        for (const [i, gradient] of gradients.entries()) {
          const expected = slopes(equation, operands, weights, i);
          const largest = Math.max(...expected.map(Math.abs));
          const got = await gradient.data();
          expect(gradient.shape).to.deep.equal(shapeOf(terms[i]));
          expected.forEach((slope, n) => {
            expect(got[n], `operand ${i} at ${n}`).to.be.closeTo(slope, 3e-6 * slackOf(device) * largest + 1e-7);
          });
        }
      });
    }

    it('has a gradient itself', async () => {
      const [x, y] = [tf.tensor2d([[1, 2], [3, 4]]), tf.tensor2d([[5, 6], [7, 8]])]; // prettier-ignore
      // d/dy of the sum of (d/dx of sum(xy · xy)) is that of 2 x y yᵀ.
      const inner = (b: tf.Tensor): tf.Tensor =>
        tf
          .grad((a) => tf.einsum('ij,jk->ik', a, b).square().sum())(x)
          .sum();
      const direct = (b: tf.Tensor): tf.Tensor =>
        tf
          .matMul(tf.matMul(x, b as tf.Tensor2D), b as tf.Tensor2D, false, true)
          .mul(2)
          .sum();
      expect([...(await tf.grad(inner)(y).data())]).to.deep.equal([...(await tf.grad(direct)(y).data())]);
    });
  });
});

describe('a gradient that is registered already', () => {
  it('stays', () => {
    const own = tf.getGradient('Einsum');
    registerGradients([{...gradientOfEinsum}]);
    expect(tf.getGradient('Einsum')).to.equal(own);
    expect(own).to.equal(gradientOfEinsum);
  });
});

/**
 * Compares the gradients of tfjs's own MultiHeadAttention, which its package has among its files and exports nowhere,
 * with differences, and prints [name, gradient, difference] of each weight, along a random direction.
 */
const STOCK = `
  import * as tf from '@tensorflow/tfjs';
  import {MultiHeadAttention} from '@tensorflow/tfjs-layers/dist/layers/nlp/multihead_attention.js';
  import './src/entries/einsum_gradient.ts';
  const random = (shape, seed) => tf.randomNormal(shape, 0, 1, 'float32', seed);
  const layer = new MultiHeadAttention({numHeads: 2, keyDim: 3});
  const [x, factors] = [random([2, 4, 5], 1), random([2, 4, 5], 2)];
  const loss = () => tf.sum(tf.mul(layer.call(x, {value: x}), factors));
  const valueOf = () => loss().dataSync()[0];
  valueOf();
  const {grads} = tf.variableGrads(loss);
  const slopes = Object.values(tf.engine().registeredVariables).map((variable) => {
    const [direction, before] = [random(variable.shape, 3), variable.clone()];
    const at = (step) => (variable.assign(tf.add(before, tf.mul(direction, step))), valueOf());
    const difference = (at(0.01) - at(-0.01)) / 0.02;
    variable.assign(before);
    return [variable.name, tf.sum(tf.mul(grads[variable.name], direction)).dataSync()[0], difference];
  });
  console.log('SLOPES' + JSON.stringify(slopes));`;

describe('tfjs’s own MultiHeadAttention', () => {
  it('trains all its weights', async () => {
    const {outputFiles} = await build({
      stdin: {contents: STOCK, resolveDir: root},
      ...{
        bundle: true,
        write: false,
        format: 'cjs',
        platform: 'node',
        external: ['@tensorflow/tfjs', '@tensorflow/tfjs-core'],
      },
    });
    // A process of its own: its copy of tfjs-layers would take the names of the layers.
    const {stdout, stderr} = spawnSync(process.execPath, ['-'], {
      ...{cwd: root, input: outputFiles[0].text, encoding: 'utf8'},
    });
    const found = /SLOPES(.*)/.exec(stdout);
    expect(found, stderr).not.to.equal(null);
    const slopes = JSON.parse(found![1]) as [string, number, number][];
    expect(slopes).to.have.length(8);
    for (const [name, slope, difference] of slopes) {
      expect(slope, name).to.be.closeTo(difference, 0.02 * Math.max(1, Math.abs(slope)));
    }
  });
});
