/**
 * @file contextParallelAttention against flashMaskAttention on the whole sequence, forward and gradients, on ranks that
 * run one after another.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {
  type ContextParallelAttentionOptions,
  type ContextParallelPlan,
  contextParallelAttention,
  planContextParallel,
} from '../../src/distributed/context_parallel.js';
import type {ProcessGroup} from '../../src/distributed/process_group.js';
import {soloGroup} from '../../src/distributed/solo_group.js';
import type {FlashMask} from '../../src/entries/index.js';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {onEachDevice} from '../support/devices.js';
import {normals, seeded} from '../support/random.js';
import {onAllRanks} from '../support/replayed_group.js';

interface Trial {
  name: string;
  mask: FlashMask;
  ranks: number;
  chunk?: number;
  B?: number;
  H?: number;
  Hkv?: number;
  D?: number;
  Dv?: number;
  options?: ContextParallelAttentionOptions;
}

/** The tensors of a whole sequence: q, k, v, and what the gradient of out and of lse is. */
type Tensors = [q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, dOut: tf.Tensor4D, dLse: tf.Tensor3D];

const trials: Trial[] = [
  {name: 'documents', mask: masks.causalDocument([17, 30, 25]), ranks: 3, chunk: 4},
  {name: 'no mask but the triangle', mask: masks.causal(48), ranks: 2, options: {scale: 0.4}},
  {name: 'heads in layout bhsd', mask: masks.full(24), ranks: 2, B: 2, options: {layout: 'bhsd'}},
  {name: 'grouped heads', mask: masks.prefixLmCausal(40, 13), ranks: 2, B: 2, H: 6, Hkv: 3, options: {headGroups: 3}},
  {
    name: 'a mask for each key head and batch row',
    mask: masks.randomEviction(36, 7, {heads: 2, batch: 2}),
    ranks: 3, chunk: 2, B: 2, H: 4, Hkv: 2, D: 8, Dv: 5, options: {layout: 'bhsd', headGroups: 2},
  },
  {
    name: 'a mask for each query head',
    mask: masks.randomEviction(32, 9, {heads: 4}),
    ranks: 4, H: 4, Hkv: 2, D: 4, Dv: 8, options: {headGroups: 1},
  },
  {name: 'padding on one rank', mask: masks.document([20], {padTo: 64}), ranks: 2, chunk: 32},
]; // prettier-ignore

function tensorsOf({name, mask, B = 1, H = 2, Hkv = 2, D = 6, Dv = D, options}: Trial): Tensors {
  const random = seeded(name);
  const S = mask.keyLength;
  const make = (heads: number, channels: number): tf.Tensor4D => {
    const shape = options?.layout === 'bhsd' ? [B, heads, S, channels] : [B, S, heads, channels];
    return tf.tensor(normals(random, B * S * heads * channels), shape as [number, number, number, number]);
  };
  const dLse = tf.tensor3d(normals(random, B * H * S), [B, H, S]);
  return [make(H, D), make(Hkv, D), make(Hkv, Dv), make(H, Dv), dLse];
}

const axisOf = ({options}: Trial): number => (options?.layout === 'bhsd' ? 2 : 1);

/** out, lse, dq, dk and dv of a call. */
type Attend = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D) => [tf.Tensor4D, tf.Tensor3D];

function results(attend: Attend, [q, k, v, dOut, dLse]: Tensors): tf.Tensor[] {
  const [out, lse] = attend(q, k, v);
  const loss = (...qkv: tf.Tensor[]): tf.Scalar => {
    const [o, l] = attend(...(qkv as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D]));
    // Rows that see nothing have the lse -Infinity, which has no gradient.
    return tf.add(tf.sum(tf.mul(o, dOut)), tf.sum(tf.mul(tf.where(tf.isInf(l), tf.zerosLike(l), l), dLse)));
  };
  return [out, lse, ...tf.grads(loss)([q, k, v])];
}

/** The same on all ranks, put together. */
function onRanks(trial: Trial, plan: ContextParallelPlan, tensors: Tensors): tf.Tensor[] {
  const axis = axisOf(trial);
  const axes = [axis, axis, axis, axis, 2];
  const program = (group: ProcessGroup): tf.Tensor[] => {
    const local = tensors.map((x, i) => plan.take<tf.Tensor>(x, group.rank, axes[i])) as Tensors;
    const attend: Attend = (q, k, v) =>
      contextParallelAttention(group, q, k, v, plan, {...trial.options, returnLogSumExp: true});
    return results(attend, local);
  };
  const all = onAllRanks(trial.ranks, program);
  return [axis, 2, axis, axis, axis].map((at, i) => plan.restore(tf.concat(all.map((rank) => rank[i])), at));
}

function expectClose(got: tf.Tensor, wanted: tf.Tensor, what: string): void {
  expect(got.shape, what).to.deep.equal(wanted.shape);
  const [a, b] = [got, wanted].map((x) => Array.from(x.dataSync()));
  const largest = b.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 1e-3);
  a.forEach((x, i) => {
    if (x !== b[i]) expect(x, `${what}[${i}]`).to.be.closeTo(b[i], 2e-6 * largest);
  });
}

const NAMES = ['out', 'lse', 'dq', 'dk', 'dv'];

onEachDevice(({name: device}) => {
  // Nothing here is particular to a backend, and shaders take long to compile.
  if (device !== 'cpu' && device !== 'tensorflow') return;

  describe('contextParallelAttention', () => {
    for (const trial of trials) {
      it(`equals the op on the whole sequence: ${trial.name}`, () => {
        tf.tidy(() => {
          const tensors = tensorsOf(trial);
          const plan = planContextParallel(trial.mask, {ranks: trial.ranks, chunk: trial.chunk});
          const {scale, layout} = trial.options ?? {};
          const whole: Attend = (q, k, v) =>
            flashMaskAttention(q, k, v, trial.mask, {scale, layout, returnLogSumExp: true});
          const wanted = results(whole, tensors);
          onRanks(trial, plan, tensors).forEach((got, i) => {
            expectClose(got, wanted[i], NAMES[i]);
          });
        });
      });
    }

    it('has gradients of gradients', () => {
      tf.tidy(() => {
        const trial: Trial = {name: 'second order', mask: masks.causalDocument([5, 7]), ranks: 2, chunk: 2};
        const plan = planContextParallel(trial.mask, {ranks: trial.ranks, chunk: trial.chunk});
        const [q, k, v, dOut, dLse] = tensorsOf(trial);
        const second = (attend: (...qkv: tf.Tensor4D[]) => tf.Tensor, ...x: tf.Tensor[]): tf.Tensor => {
          const first = tf.grad((y) =>
            attend(x[0] as tf.Tensor4D, y as tf.Tensor4D, x[2] as tf.Tensor4D)
              .mul(x[3])
              .sum(),
          );
          return tf.grad((y) => first(y).square().sum())(x[1]);
        };
        const wanted = second((...qkv) => flashMaskAttention(qkv[0], qkv[1], qkv[2], trial.mask), q, k, v, dOut);
        const got = onAllRanks(2, (group) => {
          const local = [q, k, v, dOut].map((x) => plan.take(x, group.rank));
          return second((...qkv) => contextParallelAttention(group, qkv[0], qkv[1], qkv[2], plan), ...local);
        });
        expectClose(plan.restore(tf.concat(got)), wanted, 'second gradient of k');
        dLse.dispose();
      });
    });

    it('drops pairs by seed and rank', () => {
      tf.tidy(() => {
        const S = 64;
        const mask = masks.full(S);
        const plan = planContextParallel(mask, {ranks: 2});
        const q = tf.zeros<tf.Rank.R4>([1, S / 2, 2, 4]);
        const v = tf.ones<tf.Rank.R4>([1, S / 2, 2, 4]);
        // With equal scores and values of 1 the output of a row is its share of kept pairs, over 1 - dropout.
        const kept = (seed: number): number[] =>
          onAllRanks(2, (group) => contextParallelAttention(group, q, q, v, plan, {dropout: 0.25, seed})).flatMap(
            (out) => [...out.dataSync()],
          );
        const [first, again, other] = [kept(7), kept(7), kept(8)];
        expect(first).to.deep.equal(again);
        expect(first).to.not.deep.equal(other);
        // Ranks, and groups of heads (here channels 0 to 3 and 4 to 7 of a row), drop different pairs.
        expect(first.slice(0, first.length / 2)).to.not.deep.equal(first.slice(first.length / 2));
        const ofHead = (head: number): number[] => first.filter((_, i) => Math.floor(i / 4) % 2 === head);
        expect(ofHead(0)).to.not.deep.equal(ofHead(1));
        const mean = first.reduce((a, b) => a + b) / first.length;
        // 8,192 pairs: the standard deviation of this mean is 0.0064.
        expect(mean).to.be.closeTo(1, 0.03);
      });
    });

    it('is the op itself in a group of one', () => {
      tf.tidy(() => {
        const mask = masks.causalDocument([9, 4]);
        const plan = planContextParallel(mask, {ranks: 1});
        const [q, k, v] = tensorsOf({name: 'solo', mask, ranks: 1});
        const out = contextParallelAttention(soloGroup, q, k, v, plan);
        expect([...out.dataSync()]).to.deep.equal([...flashMaskAttention(q, k, v, mask).dataSync()]);
      });
    });

    it('leaves no tensors behind', () => {
      const mask = masks.causalDocument([9, 7]);
      const trial = {name: 'memory', mask, ranks: 2, chunk: 4};
      const plan = planContextParallel(mask, {ranks: 2, chunk: 4});
      const run = (): void => {
        const tensors = tensorsOf(trial);
        tf.dispose([tensors, onRanks(trial, plan, tensors)]);
      };
      // The bounds of masks stay.
      tf.tidy(run);
      const {numTensors} = tf.memory();
      const out = tf.tidy(() => {
        const [q] = tensorsOf(trial);
        const parts = onAllRanks(2, (group) => {
          const local = plan.take(q, group.rank);
          return contextParallelAttention(group, local, local, local, plan);
        });
        return tf.concat(parts);
      });
      expect(tf.memory().numTensors).to.equal(numTensors + 1);
      out.dispose();
    });

    it('take and restore are inverse, along any axis, with gradients', () => {
      tf.tidy(() => {
        const plan = planContextParallel(masks.causal(12), {ranks: 3, chunk: 2});
        const ids = tf.range(0, 24, 1, 'int32').reshape([2, 12]);
        const parts = [0, 1, 2].map((rank) => plan.take(ids, rank));
        expect(parts[1].dtype).to.equal('int32');
        expect([...parts[1].dataSync()].slice(0, 4)).to.deep.equal([...plan.rows(1)]);
        expect([...plan.restore(tf.concat(parts)).dataSync()]).to.deep.equal([...ids.dataSync()]);
        const x = tf.tensor(normals(seeded('take'), 2 * 3 * 12 * 2), [2, 3, 12, 2]);
        const through = (y: tf.Tensor): tf.Tensor =>
          plan.restore(tf.concat([0, 1, 2].map((rank) => plan.take(y, rank, 2).mul(rank + 1))), 2);
        const owners = tf.buffer([1, 1, 12, 1]);
        for (const rank of [0, 1, 2]) plan.rows(rank).forEach((row) => owners.set(rank + 1, 0, 0, row, 0));
        expectClose(through(x), x.mul(owners.toTensor()), 'x');
        expectClose(tf.grad((y) => through(y).square().sum().div(2))(x), x.mul(owners.toTensor().square()), 'dx');
      });
    });

    it('refuses what does not fit the plan', () => {
      tf.tidy(() => {
        const plan = planContextParallel(masks.causal(8), {ranks: 2});
        const x = (rows: number, heads = 2): tf.Tensor4D => tf.zeros([1, rows, heads, 4]);
        const group = {rank: 0, size: 2} as ProcessGroup;
        const call =
          (rows: number, options?: object, to: unknown = plan, on = group) =>
          () =>
            contextParallelAttention(on, x(rows), x(rows), x(rows), to as ContextParallelPlan, options);
        expect(call(8)).to.throw(/contextParallelAttention: q, k and v must have the 4 rows of a rank, got 8 queries/);
        expect(call(4, {}, masks.causal(8))).to.throw(/plan must be a plan, got an object of the class FlashMask/);
        expect(call(4, {}, plan, soloGroup)).to.throw(
          /for the processes of the group, got a group of 1 and a plan for 2/,
        );
        expect(call(4, {headGroups: 3})).to.throw(/headGroups must divide the 2 key heads, got 3/);
        expect(call(4, {causal: true})).to.throw(/without the option causal, got true/);
        const heads = planContextParallel(masks.randomEviction(8, 3, {heads: 3}), {ranks: 2});
        expect(call(4, {}, heads)).to.throw(
          /1 or 1 batch rows, and 1, 2 or 2 heads, got a mask of 1 batch rows and 3 heads/,
        );
        expect(() => plan.take(x(4), 0)).to.throw(/ContextParallelPlan.take: axis 1 of the tensor must have 8 rows/);
      });
    });
  });
});
