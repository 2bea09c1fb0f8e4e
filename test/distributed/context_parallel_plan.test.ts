/** @file Plans of context parallelism: which rank has which rows, what ranks see and send, how balanced they are. */
import {strict as assert} from 'node:assert';
import {expect} from 'chai';
import * as fc from 'fast-check';
import {maskOf} from '../../bench/masks.js';
import {type ContextParallelPlan, planContextParallel} from '../../src/distributed/context_parallel.js';
import {dealChunks} from '../../src/distributed/context_parallel/deal_chunks.js';
import {FlashMask} from '../../src/mask/flash_mask.js';
import * as masks from '../../src/mask/builders/index.js';
import {seededRandom} from '../../src/mask/builders/random.js';
import {drawnMask, maskFields} from '../support/any_mask.js';
import {maskTable} from '../support/mask_table.js';

const ranksOf = ({ranks}: ContextParallelPlan): number[] => Array.from({length: ranks}, (_, rank) => rank);

/** Every pair of the sequence must be in the masks of the ranks, as it is in the whole mask. */
function checkMasks(mask: FlashMask, plan: ContextParallelPlan): void {
  const owned = ranksOf(plan).flatMap((rank) => [...plan.rows(rank)]);
  expect([...owned].sort((a, b) => a - b)).to.deep.equal(Array.from({length: mask.keyLength}, (_, i) => i));
  for (const rank of ranksOf(plan)) {
    const [rows, keys] = [plan.rows(rank), plan.keys(rank)];
    const local = plan.localMask(rank);
    expect([local.queryLength, local.keyLength]).to.deep.equal([plan.localLength, keys.length]);
    for (let b = 0; b < mask.batch; b++) {
      for (let h = 0; h < mask.heads; h++) {
        const whole = mask.toDense(b, h);
        const wanted = new Uint8Array(rows.length * mask.keyLength);
        rows.forEach((row, i) => {
          wanted.set(whole.subarray(row * mask.keyLength, (row + 1) * mask.keyLength), i * mask.keyLength);
        });
        // Keys that the rank does not get stay 0: no row of it may see them.
        const got = new Uint8Array(wanted.length);
        const dense = local.toDense(b, h);
        rows.forEach((_, i) => {
          keys.forEach((key, j) => (got[i * mask.keyLength + key] = dense[i * keys.length + j]));
        });
        assert.deepEqual(got, wanted, `${mask.name}, rank ${rank} of ${plan.ranks}, batch ${b}, head ${h}`);
      }
    }
  }
}

/** What one rank sends another is what this one waits for, and is where its keys say. */
function checkExchange(plan: ContextParallelPlan): void {
  for (const to of ranksOf(plan)) {
    const arrived = ranksOf(plan).flatMap((from) => {
      const {rows, sends} = plan.exchange(from);
      const first = sends.slice(0, to).reduce((a, b) => a + b, 0);
      expect(sends[to], `from ${from} to ${to}`).to.equal(plan.exchange(to).receives[from]);
      return [...rows.subarray(first, first + sends[to])].map((row) => plan.rows(from)[row]);
    });
    expect(arrived).to.deep.equal([...plan.keys(to)]);
  }
}

/** The rows of a rank against the keys of the whole sequence. */
function withAllKeys(plan: ContextParallelPlan, rank: number): FlashMask {
  const {mask, localLength} = plan;
  const dense = mask.toDense();
  const rows = plan.rows(rank);
  const {keyLength} = mask;
  const local = new Uint8Array(localLength * keyLength);
  rows.forEach((row, i) => local.set(dense.subarray(row * keyLength, (row + 1) * keyLength), i * keyLength));
  return masks.fromDense(local, {shape: [localLength, keyLength]});
}

/** Square masks with any bounds, and how they are dealt. */
const anyPlan = fc
  .record({
    ...maskFields(300),
    ranks: fc.integer({min: 1, max: 4}),
    chunks: fc.integer({min: 1, max: 4}),
    chunk: fc.integer({min: 1, max: 4}),
    imbalance: fc.constantFrom(0, 0.03, 10),
  })
  .map(({ranks, chunks, chunk, imbalance, ...fields}) => {
    const length = ranks * chunks * chunk;
    const mask = drawnMask(fields, length, length);
    return {mask, plan: planContextParallel(mask, {ranks, chunk, imbalance})};
  });

describe('planContextParallel', () => {
  it('the masks of the ranks are the whole mask, for every builder', () => {
    for (const {build} of maskTable) {
      for (const [length, options] of [
        [48, {ranks: 2}],
        [60, {ranks: 3, chunk: 4}],
        [64, {ranks: 4, chunk: 1}],
        [23, {ranks: 1}],
      ] as const) {
        const mask = build(length, seededRandom(length));
        const plan = planContextParallel(mask, options);
        checkMasks(mask, plan);
        checkExchange(plan);
      }
    }
  });

  it('the masks of the ranks are the whole mask, for any bounds, batches and heads', () => {
    fc.assert(
      fc.property(anyPlan, ({mask, plan}) => {
        checkMasks(mask, plan);
        checkExchange(plan);
      }),
      {numRuns: 300, seed: 20},
    );
  });

  it('some heads of a mask have these heads’ bounds', () => {
    const mask = masks.randomEviction(24, 5, {heads: 4, batch: 2});
    const plan = planContextParallel(mask, {ranks: 2, chunk: 3});
    const [all, some] = [plan.localMask(1), plan.localMask(1, [1, 3])];
    expect([some.batch, some.heads]).to.deep.equal([2, 2]);
    for (const b of [0, 1]) for (const h of [0, 1]) assert.deepEqual(some.toDense(b, h), all.toDense(b, h + 1));
  });

  it('other masks of a sequence keep its rows', () => {
    const plan = planContextParallel(masks.causalDocument([30, 18]), {ranks: 2, chunk: 4});
    const window = masks.slidingWindow(48, 7);
    const other = plan.withMask(window);
    for (const rank of [0, 1]) expect([...other.rows(rank)]).to.deep.equal([...plan.rows(rank)]);
    checkMasks(window, other);
    checkExchange(other);
    // Blocks are of 4 rows and keys here.
    const live = ranksOf(other).map((rank) => {
      const {emptyTiles} = withAllKeys(other, rank).sparsity({blockQ: 4, blockK: 4});
      return Math.round((1 - emptyTiles) * 6 * 12);
    });
    expect([...other.liveTiles]).to.deep.equal(live);
    expect(() => plan.withMask(masks.causal(40))).to.throw(
      /withMask: the mask must be of the 48 tokens of the plan, got 40/,
    );
    expect(() => plan.withMask(masks.causal(48, {queryLength: 4}))).to.throw(/withMask: .* as many queries as keys/);
  });

  it('counts the tiles that the kernels compute', () => {
    for (const {name, build, quadratic} of maskTable) {
      if (quadratic) continue;
      const plan = planContextParallel(build(3072, seededRandom(5)), {ranks: 4, chunk: 128});
      const tiles = ranksOf(plan).map((rank) => {
        const local = plan.localMask(rank);
        const {emptyTiles} = local.sparsity({blockQ: 128, blockK: 128});
        return Math.round((1 - emptyTiles) * (local.queryLength / 128) * (local.keyLength / 128));
      });
      expect([...plan.liveTiles], name).to.deep.equal(tiles);
      const mean = tiles.reduce((a, b) => a + b) / 4;
      expect(plan.imbalance, name).to.be.closeTo(Math.max(...tiles) / mean - 1, 1e-12);
    }
  });

  it('sends no key block that no row of the rank sees', () => {
    for (const {name, build, quadratic} of maskTable) {
      if (quadratic) continue;
      const plan = planContextParallel(build(2048, seededRandom(9)), {ranks: 4, chunk: 128});
      for (const rank of ranksOf(plan)) {
        const local = plan.localMask(rank);
        const {emptyTiles} = local.sparsity({blockQ: plan.localLength, blockK: 128});
        expect(emptyTiles, `${name}, rank ${rank}`).to.equal(0);
      }
    }
  });

  it('is balanced to 3 % on the masks of the paper, where its chunks allow it', () => {
    const worst = new Map<string, number>();
    for (const name of ['causal', 'causalDocument', 'document', 'sharedQuestion', 'prefixLmCausal', 'qkSparse']) {
      for (const ranks of [2, 8, 64]) {
        const {imbalance} = planContextParallel(maskOf(name, 131072, 'paper'), {ranks});
        worst.set(name, Math.max(worst.get(name) ?? 0, imbalance));
      }
    }
    for (const [name, imbalance] of worst) expect(imbalance, name).to.be.at.most(0.03);
  });

  it('prefers plans that send less, among those that are balanced', () => {
    const mask = maskOf('causalDocument', 131072, 'paper');
    const most = (imbalance: number): number => {
      const plan = planContextParallel(mask, {ranks: 8, imbalance});
      expect(plan.imbalance).to.be.at.most(imbalance);
      return Math.max(...ranksOf(plan).map((rank) => plan.receivedRows(rank)));
    };
    expect(most(0.03)).to.be.lessThan(0.7 * most(0.002));
  });

  it('deals equal numbers of chunks, the heaviest first to the lightest rank', () => {
    // 9 to rank 0; 8 to rank 1; 7 to rank 1, since no third rank is there; 3 to rank 0.
    expect([...dealChunks([3, 7, 8, 9], 2, 0)]).to.deep.equal([0, 1, 1, 0]);
    // Rank 0 is full after 10 and 1; the rest goes to rank 1 though it is heavier.
    expect([...dealChunks([4, 4, 4, 20, 4, 4], 2, 0)]).to.deep.equal([0, 0, 1, 0, 1, 1]);
    // Within a step, neighbours come together.
    expect([...dealChunks([10, 11, 10, 11], 2, 0)]).to.deep.equal([0, 0, 1, 1]);
    expect([...dealChunks([9, 11, 10, 10], 2, 8)]).to.deep.equal([0, 0, 1, 1]);
  });

  it('a rank whose rows see nothing still has a key to call with', () => {
    const bounds = new Int32Array(16);
    const mask = new FlashMask({causal: true, queryLength: 16, keyLength: 16, vectors: 1, bounds});
    const plan = planContextParallel(mask, {ranks: 2, chunk: 2});
    expect([plan.imbalance, plan.receivedRows(0), plan.receivedRows(1)]).to.deep.equal([0, 0, 0]);
    for (const rank of [0, 1]) expect(plan.keys(rank).length).to.equal(2);
    checkExchange(plan);
  });

  it('refuses what does not fit', () => {
    const mask = masks.causal(12);
    const plan = (m: unknown, options: unknown) => () =>
      planContextParallel(m as FlashMask, options as {ranks: number});
    expect(plan(null, {ranks: 2})).to.throw(/planContextParallel: mask must be a FlashMask, got null/);
    expect(plan(masks.causal(12, {queryLength: 3}), {ranks: 2})).to.throw(
      /as many queries as keys, got 3 queries and 12/,
    );
    expect(plan(mask, {ranks: 5})).to.throw(/length must be a multiple of ranks, got 12 tokens on 5 ranks. Pad/);
    expect(plan(mask, {})).to.throw(/ranks must be a whole number from 1/);
    expect(plan(mask, {ranks: 2, chunk: 4})).to.throw(/chunk must divide the 6 rows of a rank, got 4/);
    expect(plan(mask, {ranks: 2, chunks: 4})).to.throw(/options must be among ranks, chunk, imbalance, got 'chunks'/);
    expect(plan(mask, {ranks: 2, imbalance: -1})).to.throw(/imbalance must be a number of at least 0, got -1/);
    expect(() => planContextParallel(mask, {ranks: 2}).rows(2)).to.throw(
      /rank must be a whole number from 0 to 1, got 2/,
    );
  });
});
