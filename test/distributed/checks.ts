/**
 * @file What holds in a group of processes. programs/run_checks.ts runs these in each process, and
 * collectives.test.ts reports them: all processes run all of them, in this order.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {type World, contextParallelAttention, init, planContextParallel} from '../../src/entries/distributed.js';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {traced} from '../../src/entries/node.js';
import {type All, type Rows, allGather, allReduce, allToAll, broadcast, gradients} from './reference.js';
import {max, mean, reduceScatter, sendReceive} from './reference.js';

type Check = (world: World) => Promise<void> | void;

/** Whole numbers that differ between ranks, places and seeds. */
const numbers = (rows: number, columns: number, rank: number, seed: number): Rows =>
  Array.from({length: rows}, (_, i) =>
    Array.from({length: columns}, (_, j) => ((7 * i + 3 * j + 5 * rank + 11 * seed) % 13) - 6),
  );

const everyone = ({size}: World, rows: (rank: number) => number, columns: number, seed = 0): All =>
  Array.from({length: size}, (_, rank) => numbers(rows(rank), columns, rank, seed));

const tensorOf = (rows: Rows, columns: number): tf.Tensor2D => tf.tensor2d(rows.flat(), [rows.length, columns]);
const rowsOf = (x: tf.Tensor): Rows => (x.arraySync() as Rows).map((row) => [...row]);

/** Compares a function of the group and its gradient with the reference. */
function compare(world: World, inputs: All, run: (x: tf.Tensor2D) => tf.Tensor2D, reference: (all: All) => All): void {
  const columns = 3;
  const expected = reference(inputs);
  const x = tensorOf(inputs[world.rank], columns);
  expect(rowsOf(run(x))).to.deep.equal(expected[world.rank]);
  const weights = expected.map((rows, rank) => numbers(rows.length, columns, rank, 4));
  const weight = tensorOf(weights[world.rank], columns);
  const dx = tf.grad((given) =>
    run(given as tf.Tensor2D)
      .mul(weight)
      .sum(),
  )(x);
  expect(rowsOf(dx)).to.deep.equal(gradients(inputs, weights, reference)[world.rank]);
}

const even = 3;
/** Rows from rank to rank: some of them none. */
const counts = (size: number): number[][] =>
  Array.from({length: size}, (_, from) => Array.from({length: size}, (_, to) => (2 * from + to) % 4));

const message = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
};

/** float32's rounding; tensor cores of GPUs read floats as two halves. */
const closeness = (): number =>
  (tf.backend() as unknown as {isUsingGpuDevice: boolean}).isUsingGpuDevice ? 2e-5 : 2e-6;

/** Largest difference of tensors, over the largest number of the second. */
const differenceOf = (x: tf.Tensor, y: tf.Tensor): number =>
  tf.tidy(() => x.sub(y).abs().max().div(y.abs().max()).dataSync()[0]);

export const checks: Record<string, Check> = {
  'knows its place': (world) => {
    const {PMI_SIZE, PMI_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_RANK, WORLD_SIZE, RANK} = process.env;
    expect(world.size).to.equal(Number(PMI_SIZE ?? OMPI_COMM_WORLD_SIZE ?? WORLD_SIZE));
    expect(world.rank).to.equal(Number(PMI_RANK ?? OMPI_COMM_WORLD_RANK ?? RANK));
    expect(world.localRank).to.equal(world.rank);
  },
  'init gives the same group again': async (world) => {
    expect(await init()).to.equal(world);
  },
  'allReduce and its gradient': (world) => {
    const inputs = everyone(world, () => 2, 3);
    compare(world, inputs, (x) => world.allReduce(x), allReduce);
    // Sums of few whole numbers, halves and thirds in float32.
    const found = world.allReduce(tensorOf(inputs[world.rank], 3), 'mean').dataSync();
    mean(inputs)
      [world.rank].flat()
      .forEach((x, i) => expect(found[i]).to.be.closeTo(x, 1e-6));
    expect(rowsOf(world.allReduce(tensorOf(inputs[world.rank], 3), 'max'))).to.deep.equal(max(inputs)[world.rank]);
  },
  'allReduce of one number, of nothing, and of many numbers': (world) => {
    const {rank, size} = world;
    expect(world.allReduce(tf.scalar(rank)).dataSync()[0]).to.equal((size * (size - 1)) / 2);
    expect(world.allReduce(tf.zeros([0, 4])).shape).to.deep.equal([0, 4]);
    const many = 300_000;
    const sum = world.allReduce(tf.range(0, many).add(rank)).dataSync();
    const wrong = sum.findIndex((x, i) => x !== size * i + (size * (size - 1)) / 2);
    expect(wrong).to.equal(-1);
  },
  'the mean of a gradient is the gradient of the mean': (world) => {
    const dx = tf.grad((x) => world.allReduce(x, 'mean').mul(world.rank + 1))(tf.scalar(5));
    expect(dx.dataSync()[0]).to.be.closeTo((world.size + 1) / 2, 1e-6);
  },
  'max has no gradient': (world) => {
    const error = message(() => tf.grad((x: tf.Tensor) => world.allReduce(x, 'max').sum())(tf.tensor1d([1, 2])));
    expect(error).to.equal(
      "allReduce: 'max' has no gradient, got a gradient that is asked for. Take it outside of the loss.",
    );
  },
  'allGather and its gradient': (world) => {
    compare(
      world,
      everyone(world, () => even, 3),
      (x) => world.allGather(x),
      allGather,
    );
  },
  'reduceScatter and its gradient': (world) => {
    compare(
      world,
      everyone(world, () => 2 * world.size, 3),
      (x) => world.reduceScatter(x),
      reduceScatter,
    );
  },
  'broadcast and its gradient': (world) => {
    const root = world.size - 1;
    compare(
      world,
      everyone(world, () => even, 3),
      (x) => world.broadcast(x, root),
      (all) => broadcast(all, root),
    );
  },
  'allToAll with other numbers of rows, some of them none, and its gradient': (world) => {
    const {size, rank} = world;
    const all = counts(size);
    const sends = all[rank];
    const receives = all.map((row) => row[rank]);
    const inputs = everyone(world, (from) => all[from].reduce((a, b) => a + b, 0), 3);
    compare(
      world,
      inputs,
      (x) => world.allToAll(x, sends, receives),
      (given) => allToAll(given, all),
    );
  },
  'sendReceive in a ring, in a line and without partners, and its gradient': (world) => {
    const {size, rank} = world;
    const inputs = everyone(world, () => even, 3);
    const ring = inputs.map((_, i) => (i + 1) % size);
    const line = inputs.map((_, i) => (i + 1 < size ? i + 1 : undefined));
    for (const to of [ring, line, inputs.map(() => undefined)]) {
      const from = to.indexOf(rank);
      const partners = {to: to[rank], from: from < 0 ? undefined : from};
      compare(
        world,
        inputs,
        (x) => world.sendReceive(x, partners),
        (all) => sendReceive(all, to),
      );
    }
  },
  'a gradient of a gradient': (world) => {
    const {rank, size} = world;
    // The loss of all is size * (sum of squares)²; its second derivative by one's own x is size * (4 s + 8 x²).
    const f = (x: tf.Tensor): tf.Tensor => tf.square(world.allReduce(tf.square(x)));
    const second = tf.grad((x) => tf.grad(f)(x))(tf.scalar(rank + 1));
    const squares = Array.from({length: size}, (_, i) => (i + 1) ** 2).reduce((a, b) => a + b, 0);
    // Each member asks for the gradient of its own first derivative, and all of them are summed.
    const others = Array.from({length: size}, (_, i) => 8 * size * (i + 1) * (rank + 1)).reduce((a, b) => a + b, 0);
    expect(second.dataSync()[0]).to.be.closeTo(4 * size * squares + others, 1e-3);
  },
  'calls inside traced functions run in the order of recording': async (world) => {
    // Calls that do not depend on each other, and that would not fit if another order came.
    const fn = traced(({x}) =>
      tf.tidy(() => {
        const parts = Array.from({length: 12}, (_, i) => world.allReduce(x.mul(i + 1)).sum());
        const gathered = Array.from({length: 4}, (_, i) => world.allGather(tf.slice(x, [0], [i + 1])).sum());
        return tf.stack([...parts, ...gathered]);
      }),
    );
    const results: number[][] = [];
    for (let i = 0; i < 5; i++)
      results.push(Array.from(await fn({x: tf.tensor1d([1, 2, 3, 4]).add(world.rank)}).data()));
    for (const result of results) expect(result).to.deep.equal(results[0]);
    fn.dispose();
  },
  'traced functions and their gradients give the same bits, and calls outside wait for them': async (world) => {
    const body = ({x, w}: tf.NamedTensorMap): tf.Tensor =>
      tf.tidy(() => world.reduceScatter(tf.tanh(tf.matMul(world.allGather(x as tf.Tensor2D), w as tf.Tensor2D))));
    const inputs = {
      x: tf.randomNormal([4, 8], 0, 1, 'float32', world.rank + 1),
      w: tf.randomNormal([8, 8], 0, 1, 'float32', 9),
    };
    const loss = (fn: typeof body) => tf.valueAndGrads((x: tf.Tensor, w: tf.Tensor) => fn({x, w}).sum() as tf.Scalar);
    const bits = ({value, grads}: {value: tf.Tensor; grads: tf.Tensor[]}) =>
      [value, ...grads].map((t) => t.arraySync());
    const expected = bits(loss(body)([inputs.x, inputs.w]));
    for (const recompute of [true, false]) {
      const fn = traced(body, {recompute});
      for (let i = 0; i < 4; i++) {
        const result = loss(fn as typeof body)([inputs.x, inputs.w]);
        // The functions may still run: their calls come before this one.
        expect(world.allReduce(tf.scalar(1)).dataSync()[0]).to.equal(world.size);
        expect(bits(result)).to.deep.equal(expected);
      }
      fn.dispose();
    }
  },
  'XLA compiles what stands between the calls': async (world) => {
    const body = ({x}: tf.NamedTensorMap): tf.Tensor =>
      tf.tidy(() => tf.add(world.allReduce(tf.mul(x, 2)), world.allGather(tf.add(x, 1)).sum()));
    const fn = traced(body, {xla: true});
    const x = tf.tensor1d([1, 2, 3]).add(world.rank);
    for (let i = 0; i < 4; i++) expect(await fn({x}).array()).to.deep.equal(await body({x}).array());
    fn.dispose();
  },
  'barrier and split are refused inside traced functions': (world) => {
    const fn = traced(({x}) => {
      world.barrier();
      return tf.add(x, 1);
    });
    expect(message(() => fn({x: tf.scalar(1)}))).to.equal(
      'traced: barrier() must not run inside, got a call of it. Call it outside.',
    );
  },
  'exchange and barrier': async (world) => {
    const {rank, size} = world;
    const ranks = Array.from({length: size}, (_, i) => ({rank: i, text: 'ä\n'}));
    expect(await world.exchange({rank, text: 'ä\n'})).to.deep.equal(ranks);
    world.barrier();
    // Several at once keep their order.
    const both = await Promise.all([world.exchange(rank), world.exchange(rank + size)]);
    expect(both).to.deep.equal([ranks.map((_, i) => i), ranks.map((_, i) => i + size)]);
  },
  'groups of a part of the processes': (world) => {
    const {rank, size} = world;
    const part = world.split(rank % 2);
    const members = Array.from({length: size}, (_, i) => i).filter((i) => i % 2 === rank % 2);
    expect([part.rank, part.size]).to.deep.equal([members.indexOf(rank), members.length]);
    expect(part.allReduce(tf.scalar(rank + 1)).dataSync()[0]).to.equal(members.reduce((a, b) => a + b + 1, 0));
    part.barrier();
    const alone = part.split(part.rank);
    expect([alone.rank, alone.size]).to.deep.equal([0, 1]);
    expect(alone.allReduce(tf.scalar(3)).dataSync()[0]).to.equal(3);
    const whole = world.split(7);
    expect(whole.allGather(tf.tensor1d([rank])).arraySync()).to.deep.equal(Array.from({length: size}, (_, i) => i));
  },
  'wrong arguments are refused before anything runs': (world) => {
    const {size} = world;
    const x = tf.zeros([size, 2]);
    const zeros = Array.from({length: size}, () => 0);
    const wrong: [string, () => unknown][] = [
      ['allReduce: x must be a float32 tensor', () => world.allReduce(tf.tensor1d([1], 'int32'))],
      ["allReduce: reduction must be 'sum', 'mean' or 'max'", () => world.allReduce(x, 'product' as 'sum')],
      ['allGather: x must have a first axis', () => world.allGather(tf.scalar(1))],
      ['reduceScatter: the first axis must be a multiple', () => world.reduceScatter(tf.zeros([size + 1]))],
      ['broadcast: root must be a rank of the group', () => world.broadcast(x, size)],
      ['allToAll: sends must be', () => world.allToAll(x, [1], zeros)],
      [`allToAll: sends must add up to the ${size} rows`, () => world.allToAll(x, zeros, zeros)],
      ['sendReceive: to must be a rank of the group', () => world.sendReceive(x, {to: -1})],
      ['split: the color must be a whole number', () => world.split(-1)],
    ];
    for (const [start, work] of wrong) expect(message(work).slice(0, start.length)).to.equal(start);
  },
  'tensors do not leak': (world) => {
    const x = tf.tensor2d([[1, 2, 3]]);
    const run = (): void =>
      tf.tidy(() => {
        const counts = Array.from({length: world.size}, (_, i) => Number(i === world.rank));
        tf.grad((given) => world.allToAll(world.allReduce(given), counts, counts).sum())(x);
        world.sendReceive(x, {});
      });
    run();
    const before = tf.memory().numTensors;
    run();
    expect(tf.memory().numTensors).to.equal(before);
  },
  'contextParallelAttention is the op on the whole row, with its gradients, also computed twice': (world) => {
    const mask = masks.causalDocument([200, 400, 168]);
    const plan = planContextParallel(mask, {ranks: world.size, chunk: 32});
    const random = (heads: number, seed: number): tf.Tensor4D =>
      tf.randomNormal([1, mask.keyLength, heads, 8], 0, 1, 'float32', seed);
    const whole = {q: random(4, 1), k: random(2, 2), v: random(2, 3)};
    const dOut = random(4, 4);
    const run = (attend: typeof attendHere, x: typeof whole, dy: tf.Tensor): tf.Tensor[] => [
      attend(x),
      ...tf.grads((q, k, v) =>
        attend({q, k, v} as typeof whole)
          .mul(dy)
          .sum(),
      )([x.q, x.k, x.v]),
    ];
    const attendHere = ({q, k, v}: typeof whole): tf.Tensor4D =>
      contextParallelAttention(world, q, k, v, plan, {precision: 'float32'});
    const wanted = run(({q, k, v}) => flashMaskAttention(q, k, v, mask, {precision: 'float32'}), whole, dOut);
    const [q, k, v, dy] = [whole.q, whole.k, whole.v, dOut].map((x) => plan.take(x, world.rank));
    const twice = traced((x: tf.NamedTensorMap) => attendHere(x as typeof whole), {eager: true, recompute: true});
    for (const attend of [attendHere, twice as typeof attendHere]) {
      run(attend, {q, k, v}, dy).forEach((got, i) => {
        const difference = differenceOf(plan.restore(world.allGather(got)), wanted[i]);
        expect(difference, ['out', 'dq', 'dk', 'dv'][i]).to.be.lessThan(closeness());
      });
    }
  },
};
