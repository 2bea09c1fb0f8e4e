/**
 * @file What only a GPU can get wrong: the order of work on its streams, bits that differ between runs, memory that
 * runs out. The tables of cases in the other files run on it too.
 */
import {execFileSync} from 'node:child_process';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {traced} from '../../src/entries/node.js';
import {FlashMaskAttention} from '../../src/call/kernel_names.js';
import {ATTRS} from '../support/attend.js';
import {devices} from '../support/devices.js';
import {integer, seeded} from '../support/random.js';

const gpu = devices.find(({name}) => name === 'tensorflow-gpu');
const suite = gpu && !gpu.skip ? describe : describe.skip;

type Four = [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];

interface Shape {
  B: number;
  S: number;
  H: number;
  Hkv: number;
  D: number;
}

/** q, k, v and dOut, computed on the device: tfjs would draw random numbers on the host, which is slow. */
function inputsOf({B, S, H, Hkv, D}: Shape, seed: number): Four {
  const make = (heads: number, i: number) =>
    tf.tidy(() => {
      const normal = (...sizes: number[]) => tf.randomNormal(sizes, 0, 3, 'float32', 10 * seed + i + 1);
      return tf.sin(tf.add(tf.mul(normal(B, S, 1, 1), normal(1, 1, heads, D)), normal(B, 1, heads, 1)));
    });
  return [make(H, 0), make(Hkv, 1), make(Hkv, 2), make(H, 3)] as Four;
}

/** Attention of q, k and v. */
type Attention = (...inputs: tf.Tensor[]) => tf.Tensor;

function attentionOf(S: number): Attention {
  const lengths = [Math.floor(S / 3), S - Math.floor(S / 3)];
  return (q, k, v) =>
    flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, masks.causalDocument(lengths), {
      deterministic: true,
    });
}

/** out, dq, dk and dv. */
function attend([q, k, v, dOut]: Four, attention: Attention): tf.Tensor[] {
  const {value, grads} = tf.valueAndGrads(attention)([q, k, v], dOut);
  return [value, ...grads];
}

/** The number of elements that differ between two lists of tensors, as a tensor, so that nothing waits. */
function countDifferences(actual: tf.Tensor[], expected: tf.Tensor[]): tf.Scalar {
  return tf.tidy(() => {
    const counts = actual.map((x, i) => tf.sum(tf.cast(tf.notEqual(x, expected[i]), 'float32')));
    return tf.addN(counts) as tf.Scalar;
  });
}

/** The same as a number, which waits. */
async function differencesOf(actual: tf.Tensor[], expected: tf.Tensor[]): Promise<number> {
  const count = countDifferences(actual, expected);
  const [number] = await count.data();
  count.dispose();
  return number;
}

/** Waits until the device is done. */
async function settle(): Promise<void> {
  const one = tf.tidy(() => tf.add(tf.scalar(1), 1));
  await one.data();
  one.dispose();
}

suite(`on a GPU through tfjs-node${gpu?.skip ? ` (${gpu.skip})` : ''}`, () => {
  before(() => gpu!.setup());

  for (const D of [64, 128]) {
    it(`deterministic gradients have the same bits in 1,000 runs, D ${D}`, async () => {
      const shape = {B: 2, S: 611, H: 8, Hkv: 2, D};
      const inputs = inputsOf(shape, 1);
      const first = attend(inputs, attentionOf(shape.S));
      for (const x of first) {
        expect(Number.isFinite((await tf.sum(x).data())[0]), 'finite results').to.equal(true);
      }
      let differences = tf.scalar(0);
      for (let i = 1; i < 1000; i++) {
        differences = tf.tidy(() => tf.add(differences, countDifferences(attend(inputs, attentionOf(shape.S)), first)));
      }
      expect((await differences.data())[0]).to.equal(0);
      tf.dispose([...inputs, ...first]);
    });
  }

  it('runs after what makes its inputs and before what follows, in random order with other ops', async () => {
    const random = seeded('order');
    for (let round = 0; round < 60; round++) {
      const [S, H] = [integer(random, 30, 900), integer(random, 1, 6)];
      const shape = {B: integer(random, 1, 4), S, H: 2 * H, Hkv: H, D: 8 * integer(random, 1, 17)};
      const expected = await inSteps(shape, attentionOf(S), round);
      const actual = withoutWaiting(shape, attentionOf(S), round, random);
      expect(await differencesOf(actual, expected), `round ${round}`).to.equal(0);
      tf.dispose([...expected, ...actual]);
    }
  });

  it('keeps that order inside functions', async () => {
    const random = seeded('order in functions');
    for (let round = 0; round < 15; round++) {
      const [S, H] = [integer(random, 30, 900), integer(random, 1, 6)];
      const shape = {B: integer(random, 1, 4), S, H: 2 * H, Hkv: H, D: 8 * integer(random, 1, 17)};
      const mixed: Attention = (...inputs) => tf.tidy(() => attentionOf(S)(...mix(inputs)));
      const expected = await inSteps(shape, mixed, round);
      const fn = traced(({q, k, v}) => mixed(q, k, v));
      // The first calls run one operation after another, later ones functions.
      for (let call = 0; call < 6; call++) {
        const actual = withoutWaiting(shape, (q, k, v) => fn({q, k, v}), round, random);
        expect(await differencesOf(actual, expected), `round ${round}, call ${call}`).to.equal(0);
        tf.dispose(actual);
      }
      fn.dispose();
      tf.dispose(expected);
    }
  });

  it('makes the plan of a mask once for all layers, eager and in functions, and frees it with the bounds', async () => {
    const [S, heads] = [700, 4];
    const {binding} = tf.backend() as unknown as {binding: {getNumOfTensors(): number}};
    const inputs = inputsOf({B: 1, S, H: heads, Hkv: heads, D: 64}, 2);
    const mask = masks.causalDocument([300, 400]);
    const layers = ({x, bounds}: tf.NamedTensorMap): tf.Tensor =>
      [1, 2, 3].reduce((y) => {
        const [q, k] = [y, inputs[1]] as tf.Tensor4D[];
        return flashMaskAttention(q, k, q, (bounds ?? mask) as tf.Tensor4D, {causal: true, deterministic: true});
      }, x);
    const gradient = (f: (x: tf.Tensor) => tf.Tensor) => tf.grad((x) => tf.sum(tf.square(f(x))))(inputs[0]);
    const expected = gradient((x) => layers({x}));
    const fn = traced(({x, k, bounds}) =>
      flashMaskAttention(x as tf.Tensor4D, k as tf.Tensor4D, x as tf.Tensor4D, bounds as tf.Tensor4D, {
        causal: true,
        deterministic: true,
      }),
    );
    let kept = 0;
    for (let step = 0; step < 5; step++) {
      const bounds = tf.tensor4d(mask.bounds!, [1, 1, S, 1], 'int32');
      const eager = gradient((x) => layers({x, bounds}));
      const inFunctions = gradient((x) => [1, 2, 3].reduce((y) => fn({x: y, k: inputs[1], bounds}), x));
      for (const got of [eager, inFunctions]) {
        expect(await differencesOf([got], [expected]), `step ${step}`).to.equal(0);
      }
      tf.dispose([eager, inFunctions, bounds]);
      if (step === 3) kept = binding.getNumOfTensors();
    }
    expect(binding.getNumOfTensors()).to.equal(kept);
    fn.dispose();
    tf.dispose([...inputs, expected]);
  });

  it('refuses a plan that does not fit, with the values', () => {
    const x = tf.zeros<tf.Rank.R4>([1, 40, 2, 8]);
    const plan = tf.zeros([1, 1, 1, 7]);
    expect(() =>
      tf.engine().runKernel(FlashMaskAttention, {q: x, k: x, v: x, bounds: plan}, {...ATTRS, causal: true}),
    ).to.throw(/the plan must be one for these lengths and causal, \[1, 1, 1, \d+\], got \[1, 1, 1, 7\]/);
    tf.dispose([x, plan]);
  });

  it('throws when memory runs out, and works on', async () => {
    const before = tf.memory().numTensors;
    const S = 64;
    // x is as large as a block of the ballast, so the output does not fit in the memory that is left.
    const part = Math.floor(memoryBytes() / 20 / 4);
    const x: tf.Tensor4D = tf.fill([Math.ceil(part / (S * 8 * 128)), S, 8, 128], 0.5);
    const ballast = fillMemory(part);
    const outOfMemory = /memory|OOM|RESOURCE_EXHAUSTED|status 8/i;
    expect(() => flashMaskAttention(x, x, x, masks.causal(S))).to.throw(outOfMemory);
    // Four blocks have room for the output and half-size copies of the inputs, but not for three gradients and copies
    // as well.
    tf.dispose(ballast.splice(-4));
    const out = flashMaskAttention(x, x, x, masks.causal(S));
    expect((await tf.slice(out, [0, 0, 0, 0], [1, 1, 1, 1]).data())[0]).to.be.closeTo(0.5, 1e-3);
    out.dispose();
    const gradient = tf.grads((q, k, v) =>
      flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, masks.causal(S)),
    );
    expect(() => gradient([x, x, x], x)).to.throw(outOfMemory);
    tf.dispose([...ballast, x]);
    await expectToWork();
    // When a gradient throws, tfjs keeps the tensors that it saved.
    const left = tf.memory().numTensors - before;
    expect(left, `${left} tensors left`).to.be.lessThan(20);
  });
});

/** The results of a round that waits after each step. */
async function inSteps(shape: Shape, attention: Attention, seed: number): Promise<tf.Tensor[]> {
  const inputs = inputsOf(shape, seed);
  const mixed = mix(inputs) as Four;
  await settle();
  const results = attend(mixed, attention);
  await settle();
  tf.dispose([...inputs, ...mixed]);
  return results;
}

/**
 * The same results without waiting, with other work before, between and after, and with memory that is freed and reused
 * at once.
 */
function withoutWaiting(shape: Shape, attention: Attention, seed: number, random: () => number): tf.Tensor[] {
  const side = integer(random, 64, 1500);
  const other = (): tf.Tensor =>
    tf.tidy(() => {
      const a = tf.randomUniform([side, side]);
      return tf.matMul(tf.matMul(a, a), a);
    });
  const noise = [other()];
  const inputs = inputsOf(shape, seed);
  if (random() < 0.5) noise.push(other());
  const mixed = mix(inputs) as Four;
  const results = attend(mixed, attention);
  // The fills that reuse this memory must not write to it before the kernels have read it.
  const shapes = mixed.map(({shape: sizes}) => sizes);
  tf.dispose([...inputs, ...mixed]);
  noise.push(...shapes.map((sizes) => tf.fill(sizes, 1e9)));
  const copies = results.map((x) => tf.tidy(() => tf.sub(tf.add(x, 0), 0)));
  tf.dispose(results);
  noise.push(...copies.map(({shape: sizes}) => tf.fill(sizes, -1e9)));
  tf.dispose(noise);
  return copies;
}

/** The inputs after some TensorFlow ops, which are slow enough for wrongly ordered kernels to overtake them. */
function mix(inputs: tf.Tensor[]): tf.Tensor[] {
  return inputs.map((x) =>
    tf.tidy(() => {
      let y: tf.Tensor = x;
      for (let i = 0; i < 5; i++) y = tf.tanh(tf.mul(y, 1.1));
      return y;
    }),
  );
}

function memoryBytes(): number {
  const args = ['--query-gpu=memory.total', '--format=csv,noheader,nounits'];
  return 2 ** 20 * Number(execFileSync('nvidia-smi', args, {encoding: 'utf8'}).split('\n')[0]);
}

/** Fills the memory until less than one block of `part` floats is left. */
function fillMemory(part: number): tf.Tensor[] {
  const taken: tf.Tensor[] = [];
  try {
    for (;;) taken.push(tf.fill([part], 1));
  } catch {
    return taken;
  }
}

async function expectToWork(): Promise<void> {
  const ones = tf.ones([1, 100, 2, 64]) as tf.Tensor4D;
  const out = flashMaskAttention(ones, ones, ones, masks.causal(100));
  const [value] = await tf.mean(out).data();
  expect(value).to.be.closeTo(1, 1e-3);
  tf.dispose([ones, out]);
}
