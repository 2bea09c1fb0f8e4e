/** @file `traced`: functions of tensors as TensorFlow functions: the same numbers as eager runs, and every misuse. */
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks, traced} from '../../src/entries/node.js';
import {type GraphNode, graphDef, placeholder, typeValue} from '../../src/backends/tensorflow/traced/graph_def.js';
import type {RecordedBackend} from '../../src/backends/tensorflow/traced/recorder.js';
import {onFunctions} from '../../src/backends/tensorflow/traced/progress.js';
import {devices} from '../support/devices.js';
import {Project, root} from '../support/packed_project.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
const noise = (shape: number[], seed: number): tf.Tensor => tf.randomNormal(shape, 0, 1, 'float32', seed);
const bitsOf = async (tensors: tf.Tensor[]): Promise<number[][]> =>
  Promise.all(tensors.map(async (x) => Array.from(await x.data())));

/** The members of tfjs-node's binding that run operations and functions. */
interface Binding {
  executeOp(name: string, ...rest: unknown[]): unknown;
  runFunction(name: string, ...rest: unknown[]): unknown;
  waitForFunctions(): void;
  removeFunction(name: string): void;
  getNumOfTensors(): number;
}

const bindingNow = (): Binding => (tf.backend() as unknown as {binding: Binding}).binding;

/** Names of the operations and functions that `body` runs on the binding. */
async function executed(body: () => unknown): Promise<string[]> {
  const backend = tf.backend() as unknown as {binding: Binding};
  const {binding} = backend;
  const names: string[] = [];
  const watched = (run: 'executeOp' | 'runFunction') => ({
    value: (name: string, ...rest: unknown[]): unknown => {
      names.push(name);
      return binding[run](name, ...rest);
    },
  });
  const watching = {executeOp: watched('executeOp'), runFunction: watched('runFunction')};
  backend.binding = Object.create(binding, watching) as Binding;
  try {
    await body();
  } finally {
    backend.binding = binding;
  }
  return names;
}

/**
 * Adds a function of a table and of the number of a row that is not there. Its results have the error a moment before
 * the thread that runs functions is done with it: many results make the moment long, and products of the table let the
 * reading begin before it.
 */
function addFailingFunction(binding: RecordedBackend['binding']): {run(ids: number[]): number[]; remove(): void} {
  const {TF_FLOAT, TF_INT32} = binding;
  const [T, Tindices] = [typeValue(TF_FLOAT), typeValue(TF_INT32)];
  const node = (name: string, op: string, from: string[], attributes: Record<string, Uint8Array>): GraphNode => ({
    ...{name, op, attributes, outputs: []},
    inputs: from.map((input) => `${input}:0`),
  });
  const graph = graphDef([
    placeholder('table', TF_FLOAT, [512, 512]),
    placeholder('at', TF_INT32, [1, 1]),
    node('square', 'MatMul', ['table', 'table'], {T}),
    node('product', 'MatMul', ['square', 'table'], {T}),
    node('rows', 'GatherNd', ['product', 'at'], {Tparams: T, Tindices}),
  ]);
  const [name, results] = ['failing', 16_000];
  binding.addFunction!(name, graph, ['table:0', 'at:0'], Array<string>(results).fill('rows:0'), false);
  return {
    run: (ids) => binding.runFunction!(name, ids, results),
    remove: () => {
      binding.removeFunction!(name);
    },
  };
}

(tensorflow.skip ? describe.skip : describe)(`traced${tensorflow.skip ? ` (${tensorflow.skip})` : ''}`, () => {
  before(() => tensorflow.setup());

  const layer = ({x, w, b}: tf.NamedTensorMap): tf.Tensor =>
    tf.tidy(() => tf.relu(tf.add(tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D), b)).mul(0.5));

  it('runs as one operation from the third call on, with the same bits', async () => {
    const fn = traced(layer);
    const inputs = {x: noise([5, 7], 1), w: noise([7, 3], 2), b: noise([3], 3)};
    const [expected] = await bitsOf([layer(inputs)]);
    for (let i = 0; i < 4; i++) {
      const names = await executed(async () =>
        expect(await fn(inputs).array()).to.deep.equal(await layer(inputs).array()),
      );
      const own = names.filter((name) => name.startsWith('tfjs_flashmask_layer_forward_'));
      expect(own.length, names.join()).to.equal(i < 2 ? 0 : 1);
    }
    const [last] = await bitsOf([fn({...inputs, x: inputs.x.mul(1)})]);
    expect(last).to.deep.equal(expected);
    fn.dispose();
    const [again] = await bitsOf([fn(inputs)]);
    expect(again).to.deep.equal(expected);
    fn.dispose();
  });

  it('has the gradients of the function, by one operation', async () => {
    const fn = traced(layer, {frozen: ['b']});
    const [x, b] = [noise([5, 7], 1), noise([3], 3)];
    const w = tf.variable(noise([7, 3], 2));
    const gradients = (f: typeof layer) => () => {
      const {value, grads} = tf.variableGrads(() => tf.sum(tf.square(f({x: x.mul(2), w, b}))) as tf.Scalar, [w]);
      return [value, grads[w.name]];
    };
    const expected = await bitsOf(gradients(layer)());
    for (let i = 0; i < 4; i++) {
      let results: tf.Tensor[] = [];
      const names = await executed(() => (results = gradients(fn)()));
      expect(await bitsOf(results)).to.deep.equal(expected);
      expect(names.filter((name) => name.includes('_layer_')).length).to.equal(i < 2 ? 0 : 2);
    }
    fn.dispose();
  });

  it('keeps what its gradient reads, where it is asked to', async () => {
    const two = ({x, w, b}: tf.NamedTensorMap): tf.Tensor[] => {
      const y = tf.tanh(tf.add(tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D), b));
      return [y, tf.sum(tf.square(y))];
    };
    const [x, b] = [noise([5, 7], 1), noise([3], 3)];
    const w = tf.variable(noise([7, 3], 2));
    for (const fn of [layer, two]) {
      const gradients = (f: (inputs: tf.NamedTensorMap) => tf.Tensor | tf.Tensor[]) => {
        const loss = (): tf.Scalar =>
          [f({x: x.mul(2), w, b})].flat().reduce<tf.Scalar>((all, y) => all.add(tf.sum(tf.square(y))), tf.scalar(0));
        const {value, grads} = tf.variableGrads(loss, [w]);
        return [value, grads[w.name]];
      };
      const expected = await bitsOf(gradients(fn));
      const kept = traced(fn as typeof layer, {recompute: false, frozen: ['b']});
      const counts: number[] = [];
      for (let i = 0; i < 4; i++) {
        let results: tf.Tensor[] = [];
        const names = await executed(() => (results = gradients(kept)));
        expect(await bitsOf(results)).to.deep.equal(expected);
        expect(names.filter((name) => name.startsWith('tfjs_flashmask_')).length).to.equal(2);
        counts.push(tf.memory().numTensors);
        tf.dispose(results);
      }
      expect(counts[3]).to.equal(counts[2]);
      // Without a gradient it is one operation.
      const plain = await bitsOf([fn({x, w, b})].flat());
      for (let i = 0; i < 3; i++) expect(await bitsOf([kept({x, w, b})].flat())).to.deep.equal(plain);
      kept.dispose();
    }
  });

  it('compiles by XLA', async () => {
    const fn = traced(layer, {xla: true});
    const inputs = {x: noise([5, 7], 1), w: noise([7, 3], 2), b: noise([3], 3)};
    const [expected] = await bitsOf([layer(inputs)]);
    for (let i = 0; i < 3; i++) {
      const [values] = await bitsOf([fn(inputs)]);
      values.forEach((value, at) => expect(value).to.be.closeTo(expected[at], 1e-5));
    }
    fn.dispose();
    // XLA has no code for this, so that a function with it shows whether XLA compiles.
    const dilated = ({image, filter}: tf.NamedTensorMap): tf.Tensor =>
      tf.dilation2d(image as tf.Tensor4D, filter as tf.Tensor3D, 1, 'same');
    const without = traced(dilated, {xla: true});
    const images = {image: noise([1, 4, 4, 1], 1), filter: noise([2, 2, 1], 2)};
    for (let i = 0; i < 2; i++) without(images);
    expect(() => without(images)).to.throw(/Dilation2D/);
    without.dispose();
  });

  it('compiles by XLA what is around the attention, also with products in bfloat16', async () => {
    const layerOf = ({x, w, bounds}: tf.NamedTensorMap): tf.Tensor => {
      const q = tf.reshape(tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D), [1, 40, 2, 4]);
      const first = flashMaskAttention(q, tf.mul(q, 2), q, bounds as tf.Tensor4D, {causal: true});
      const second = flashMaskAttention(tf.add(first, q), q, first, bounds as tf.Tensor4D, {causal: true});
      return tf.tanh(tf.reshape(second, [40, 8]));
    };
    const [x, w] = [noise([40, 8], 1), noise([8, 8], 2).mul(0.3)];
    const bounds = tf.tensor4d(masks.causalDocument([15, 25]).bounds!, [1, 1, 40, 1], 'int32');
    const gradient = (f: typeof layerOf) => tf.grads((x2, w2) => tf.sum(f({x: x2, w: w2, bounds})))([x, w]);
    const expected = await bitsOf([layerOf({x, w, bounds}), ...gradient(layerOf)]);
    for (const [recompute, bfloat16] of [
      [true, false],
      [false, false],
      [true, true],
      [false, true],
    ]) {
      const fn = traced(layerOf, {xla: true, recompute, bfloat16, name: 'around'});
      const {numTensors} = tf.memory();
      for (let i = 0; i < 4; i++) {
        let results: tf.Tensor[] = [];
        const names = await executed(() => (results = [fn({x, w, bounds}), ...gradient(fn)]));
        (await bitsOf(results)).forEach((values, at) => {
          const within = bfloat16 ? 2 ** -4 * Math.max(...expected[at].map(Math.abs)) : 1e-4;
          values.forEach((value, j) => expect(value).to.be.closeTo(expected[at][j], within));
        });
        tf.dispose(results);
        // Product, attention, sum, attention, tanh.
        const parts = names.filter((name) => name.includes('_around_forward_'));
        if (i > 2) expect(parts.length, names.join()).to.be.at.least(5);
      }
      expect(tf.memory().numTensors).to.equal(numTensors);
      fn.dispose();
    }
  });

  it('multiplies in bfloat16 where it is asked to, forward and backward', async () => {
    const two = ({x, w, b}: tf.NamedTensorMap): tf.Tensor =>
      tf.tanh(tf.matMul(tf.relu(layer({x, w, b})) as tf.Tensor2D, w as tf.Tensor2D, false, true));
    const [x, w, b] = [noise([50, 70], 1), noise([70, 30], 2).mul(0.1), noise([30], 3)];
    const results = (f: typeof two): tf.Tensor[] => [
      f({x, w, b}),
      ...tf.grads((x2, w2) => tf.sum(f({x: x2, w: w2, b})))([x, w]),
    ];
    const exact = await bitsOf(results(two));
    for (const recompute of [true, false]) {
      const fn = traced(two, {bfloat16: true, recompute});
      for (let i = 0; i < 3; i++) tf.dispose(results(fn));
      (await bitsOf(results(fn))).forEach((values, at) => {
        const largest = Math.max(...exact[at].map(Math.abs));
        const error = Math.max(...values.map((value, j) => Math.abs(value - exact[at][j]))) / largest;
        // bfloat16 has 8 bits, float32 24.
        expect(error).to.be.within(2 ** -16, 2 ** -4);
      });
      fn.dispose();
    }
    // A product by a constant, such as a mean by a vector, stays float32.
    const mean = traced(({y}) => tf.matMul(y as tf.Tensor2D, tf.fill([70, 1], 1 / 70)), {bfloat16: true});
    const expected = await bitsOf([tf.matMul(x as tf.Tensor2D, tf.fill([70, 1], 1 / 70))]);
    for (let i = 0; i < 4; i++) expect(await bitsOf([mean({y: x})])).to.deep.equal(expected);
    mean.dispose();
  });

  it('throws an error of a function where its result is read, and then goes on', async () => {
    const rows = traced(({table, at}) => tf.neg(tf.gatherND(table, at)));
    const table = noise([4, 3], 1);
    const at = (row: number): tf.Tensor => tf.tensor2d([[row]], [1, 1], 'int32');
    for (let i = 0; i < 4; i++) expect((await rows({table, at: at(1)}).data()).length).to.equal(3);
    const wrong = rows({table, at: at(9)});
    expect(() => tf.neg(wrong).dataSync()).to.throw(/does not index into|out of bounds|indices/i);
    expect(() => wrong.dataSync()).to.throw(/indices/i);
    expect(Array.from(rows({table, at: at(2)}).dataSync())).to.deep.equal(
      Array.from(tf.neg(table.slice([2, 0], [1, 3])).dataSync()),
    );
    rows.dispose();
  });

  it('does not throw an error once more in the next call', async () => {
    const next = traced(layer);
    const inputs = {x: noise([5, 7], 1), w: noise([7, 3], 2), b: noise([3], 3)};
    const expected = await layer(inputs).array();
    for (let i = 0; i < 3; i++) expect(await next(inputs).array()).to.deep.equal(expected);
    const backend = tf.backend() as unknown as RecordedBackend;
    const failing = addFailingFunction(backend.binding);
    const ids = backend.getInputTensorIds([noise([512, 512], 1), tf.tensor2d([[999]], [1, 1], 'int32')]);
    const readings = [(x: tf.Tensor) => x.dataSync(), (x: tf.Tensor) => tf.neg(x)];
    for (let i = 0; i < 50; i++) {
      const [first, ...others] = failing.run(ids);
      const failed = backend.createOutputTensor({id: first, shape: [1, 512], dtype: backend.binding.TF_FLOAT});
      let error: unknown;
      try {
        readings[i % 2](failed);
      } catch (thrown) {
        error = thrown;
      }
      expect(await next(inputs).array()).to.deep.equal(expected);
      expect(String(error)).to.match(/indices/i);
      failed.dispose();
      others.forEach((id) => {
        backend.binding.deleteTensor(id);
      });
    }
    failing.remove();
    next.dispose();
  });

  it('runs a gradient that it kept for after dispose()', async () => {
    const x = noise([5, 7], 1);
    const [w, b] = [noise([7, 3], 2), noise([3], 3)];
    const expected = await bitsOf([tf.grad((y) => tf.sum(layer({x: y, w, b})))(x)]);
    for (const recompute of [true, false]) {
      const fn = traced(layer, {recompute, name: 'late'});
      const gradient = tf.grad((y) => {
        const value = tf.sum(fn({x: y, w, b}));
        if (disposes) fn.dispose();
        return value;
      });
      let disposes = false;
      for (let i = 0; i < 3; i++) gradient(x);
      disposes = true;
      let results: tf.Tensor[] = [];
      const names = await executed(() => (results = [gradient(x)]));
      expect(await bitsOf(results)).to.deep.equal(expected);
      // The function that the gradient made again is gone.
      const late = names.filter((name) => name.includes('_late_backward_'));
      late.forEach((name) => expect(() => bindingNow().executeOp(name, [], [], 1)).to.throw(name));
    }
  });

  it('keeps nothing of bounds that are gone', () => {
    const fn = traced(({q, bounds}) => flashMaskAttention(q, q, q, bounds as tf.Tensor4D, {causal: true}));
    const q = noise([1, 40, 1, 4], 1);
    const step = (): void => {
      const bounds = tf.tensor4d(masks.causalDocument([15, 25]).bounds!, [1, 1, 40, 1], 'int32');
      for (let i = 0; i < 2; i++) fn({q, bounds}).dispose();
      bounds.dispose();
    };
    for (let i = 0; i < 3; i++) step();
    const before = bindingNow().getNumOfTensors();
    for (let i = 0; i < 10; i++) step();
    expect(bindingNow().getNumOfTensors()).to.equal(before);
    fn.dispose();
  });

  it('runs attention and its gradient', async () => {
    const attend = ({q, k, v, bounds}: tf.NamedTensorMap): tf.Tensor =>
      flashMaskAttention(q, k, v, bounds as tf.Tensor4D, {causal: true});
    const [fn, keeping] = [traced(attend), traced(attend, {recompute: false})];
    const [q, k, v] = [1, 2, 3].map((seed) => noise([1, 40, 2, 8], seed));
    const {bounds: rows} = masks.causalDocument([15, 25]);
    const bounds = tf.tensor4d(rows!, [1, 1, 40, 1], 'int32');
    const run = (f: typeof attend) =>
      tf.grads((qi, ki, vi) => tf.sum(tf.square(f({q: qi, k: ki, v: vi, bounds}))))([q, k, v]);
    const expected = await bitsOf(run(attend));
    for (const f of [fn, keeping]) {
      for (let i = 0; i < 4; i++) expect(await bitsOf(run(f))).to.deep.equal(expected);
      f.dispose();
    }
  });

  it('returns several tensors, an input, a constant and a tensor twice', async () => {
    const fn = traced(({x}) => {
      const doubled = tf.mul(x, 2);
      return [doubled, doubled, x, tf.scalar(7), tf.sum(x)];
    });
    const x = noise([3, 2], 1);
    const expected = [x.mul(2), x.mul(2), x, tf.scalar(7), x.sum()];
    for (let i = 0; i < 4; i++) expect(await bitsOf(fn({x}))).to.deep.equal(await bitsOf(expected));
    const gradient = tf.grad((y) => fn({x: y}).reduce((sum, part) => tf.add(sum, tf.sum(part)), tf.scalar(0)));
    for (let i = 0; i < 4; i++) expect(await bitsOf([gradient(x)])).to.deep.equal([Array<number>(6).fill(6)]);
    fn.dispose();
  });

  it('makes a function for each combination of shapes, and one for variables', async () => {
    const fn = traced(layer);
    const run = async (rows: number, w: tf.Tensor): Promise<string[]> => {
      const inputs = {x: noise([rows, 7], 1), w, b: noise([3], 3)};
      const expected = await bitsOf([layer(inputs)]);
      return executed(async () => expect(await bitsOf([fn(inputs)])).to.deep.equal(expected));
    };
    const plain = noise([7, 3], 2);
    for (const w of [plain, tf.variable(plain)]) {
      for (const rows of [1, 5]) {
        const names = [await run(rows, w), await run(rows, w), await run(rows, w)];
        expect(names.map((all) => all.some((name) => name.includes('_layer_')))).to.deep.equal([false, false, true]);
      }
    }
    fn.dispose();
  });

  it('runs inside another one as a part of it', async () => {
    const inner = traced(({x}) => tf.tanh(x));
    const outer = traced(({x}) => tf.mul(inner({x}), inner({x: tf.neg(x)})));
    const x = noise([4], 1);
    const expected = await bitsOf([tf.mul(tf.tanh(x), tf.tanh(tf.neg(x)))]);
    for (let i = 0; i < 3; i++) expect(await bitsOf([outer({x})])).to.deep.equal(expected);
    inner.dispose();
    outer.dispose();
  });

  it('works on other backends, and after tf.engine().reset()', async () => {
    const fn = traced(layer);
    const value = async (): Promise<number[]> => {
      const inputs = {x: tf.ones([2, 7]), w: tf.ones([7, 3]), b: tf.ones([3])};
      const gradient = tf.grad((x) => tf.sum(fn({...inputs, x})))(inputs.x);
      return [...(await fn(inputs).data()), ...(await gradient.data())];
    };
    const expected = [...Array<number>(6).fill(4), ...Array<number>(14).fill(1.5)];
    for (let i = 0; i < 3; i++) expect(await value()).to.deep.equal(expected);
    await tf.setBackend('cpu');
    expect(await value()).to.deep.equal(expected);
    await tensorflow.setup();
    for (let i = 0; i < 3; i++) expect(await value()).to.deep.equal(expected);
    tf.engine().reset();
    await tensorflow.setup();
    for (let i = 0; i < 3; i++) expect(await value()).to.deep.equal(expected);
    fn.dispose();
  });

  it('keeps no tensor, and frees its functions', () => {
    const fn = traced(layer);
    const inputs = {x: noise([5, 7], 1), w: noise([7, 3], 2), b: noise([3], 3)};
    const step = (): void => {
      tf.tidy(() => void tf.grad((x) => tf.sum(fn({...inputs, x})))(inputs.x));
    };
    const counts: number[][] = [];
    const end = onFunctions((made, known) => counts.push([made, known]));
    step();
    const {numTensors, numDataBuffers} = tf.memory();
    for (let i = 0; i < 20; i++) step();
    expect(tf.memory()).to.include({numTensors, numDataBuffers});
    fn.dispose();
    end();
    // Forward and backward are recorded, made and freed.
    const [made, known] = counts.at(-1)!;
    expect(counts.map((pair) => [pair[0] - made, pair[1] - known])).to.deep.equal([
      [0, 1], [0, 2], [1, 2], [2, 2], [1, 1], [0, 0],
    ]); // prettier-ignore
    const run = (): unknown => bindingNow().executeOp('tfjs_flashmask_layer_forward_1', [], [], 1);
    expect(run).to.throw(/tfjs_flashmask_layer/);
  });

  it('runs the program of docs/traced.md', async () => {
    const [, code] = /^```js\n([^]*?)^```$/m.exec(readFileSync(join(root, 'docs', 'traced.md'), 'utf8'))!;
    const report =
      'const after = await tf.sum(tf.square(block({x, wq, wk, wv, wo, bounds}))).data();\nconsole.log(`AFTER ${after[0]}`);\n';
    const program = code.replace('block.dispose();', `${report}block.dispose();`);
    const env = {FLASHMASK_ADDON: join(root, 'build/Release/tfjs_flashmask.node'), CUDA_VISIBLE_DEVICES: '-1'};
    const {stdout, stderr} = await new Project().run('main.mjs', program, env);
    expect(Number(/AFTER (.*)/.exec(stdout)?.[1]), stderr).to.be.above(0);
    expect(stderr).to.not.match(/traced:/);
  });

  describe('refuses', () => {
    const x = (): tf.Tensor => tf.ones([3]);
    let outside: tf.Tensor;
    let variable: tf.Variable;
    before(() => {
      outside = tf.tensor1d([1, 2, 3]);
      variable = tf.variable(tf.ones([3]));
    });
    let count = 0;
    const cases: [string, (inputs: tf.NamedTensorMap) => tf.Tensor, RegExp][] = [
      [
        'a tensor from outside',
        ({x}) => tf.add(x, outside),
        /every tensor that is read must be an input, or made inside, got a tensor of dtype float32 and shape \[3\] from outside\. Add it to the inputs/,
      ],
      ['a variable from outside', ({x}) => tf.add(x, variable), /got the variable '.*', a tensor of dtype/],
      [
        'a read',
        ({x}) => tf.scalar(tf.sum(x).dataSync()[0]),
        /values must not be read inside, got data\(\) or dataSync\(\)/,
      ],
      [
        'random numbers of the host',
        ({x}) => tf.add(x, tf.randomUniform([3])),
        /random numbers .* got Math\.random\(\)/,
      ],
      [
        'dropout without a seed',
        ({x}) => {
          const q = tf.reshape(x, [1, 3, 1, 1]) as tf.Tensor4D;
          return flashMaskAttention(q, q, q, null, {dropout: 0.5});
        },
        /got Math\.random\(\)/,
      ],
      ['a random operation', ({x}) => tf.multinomial(x as tf.Tensor1D, 2), /random (numbers|operations)/],
      [
        'an assignment',
        (({x}: tf.NamedTensorMap) => variable.assign(tf.mul(x, 2))) as never,
        /variables must not be assigned inside, got assign\(\)/,
      ],
      ['a shape that depends on values', ({x}) => tf.unique(x).values, /shapes must not depend on values, got 'Unique/],
      [
        'a constant that changes',
        ({x}) => tf.mul(x, ++count),
        /must run the same operations on the same constants in every call, got a constant \[\]: \d+ and then a constant \[\]: \d+\. Pass what changes as an input/,
      ],
      ['operations that change', ({x}) => (++count % 2 ? tf.neg(x) : tf.abs(x)), /got (Neg|Abs).* and then (Abs|Neg)/],
      ['a promise', (() => Promise.resolve()) as never, /must return a tensor or an array of tensors, got .*Promise/],
    ];
    for (const [what, fn, message] of cases) {
      it(what, () => {
        const {numTensors} = tf.memory();
        const call = traced(fn);
        const twice = (): void => {
          for (let i = 0; i < 2; i++) tf.tidy(() => void call({x: x()}));
        };
        expect(twice).to.throw(message);
        expect(tf.memory().numTensors).to.equal(numTensors);
        // Nothing is left of the recording.
        expect(tf.tidy(() => Array.from(tf.add(x(), outside).dataSync()))).to.deep.equal([2, 3, 4]);
        call.dispose();
      });
    }

    it('inputs that are no tensors, and unknown options', () => {
      expect(() => traced(layer)({x: 3} as never)).to.throw(/inputs must be an object of tensors, got 3 as 'x'/);
      expect(() => traced(layer, {freeze: []} as never)).to.throw(/options must be among .* got 'freeze'/);
    });
  });
});
