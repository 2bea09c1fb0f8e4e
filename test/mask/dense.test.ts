/**
 * @file Dense masks: `toDense` against the definition, `fromDense` round trips, its smallest form by brute force, its
 * error.
 */
import {expect} from 'chai';
import * as fc from 'fast-check';
import * as masks from '../../src/mask/builders/index.js';
import {FlashMask} from '../../src/mask/flash_mask.js';
import type {Vectors} from '../../src/mask/bounds/intervals.js';

type Form = readonly [causal: boolean, vectors: Vectors];

/** Forms from small to large; causal first among equal sizes. */
const forms: readonly Form[] = [
  [false, 0],
  [true, 0],
  [true, 1],
  [true, 2],
  [false, 2],
  [false, 4],
];

/** The definition: whether bounds `v` of a column of this form mask row r of column j. */
function isMasked([causal, vectors]: Form, v: number[], r: number, j: number, offset: number): boolean {
  if (causal && r < j - offset) return true;
  if (vectors === 0) return false;
  if (vectors === 1) return r >= v[0];
  if (vectors === 4) return (r >= v[0] && r < v[1]) || (r >= v[2] && r < v[3]);
  return causal ? r >= v[0] && r < v[1] : r >= v[0] || r < v[1];
}

/** All lists of `count` row bounds in [0, rows]. */
function allBounds(count: number, rows: number): number[][] {
  let lists: number[][] = [[]];
  for (let i = 0; i < count; i++) {
    lists = lists.flatMap((list) => Array.from({length: rows + 1}, (_, value) => [...list, value]));
  }
  return lists;
}

/** The first form that can express every column, found by trying all bounds; null if there is none. */
function smallestForm(dense: Uint8Array, rows: number, columns: number): Form | null {
  const fits = (form: Form, j: number): boolean =>
    allBounds(form[1], rows).some((v) => {
      for (let r = 0; r < rows; r++) {
        if (isMasked(form, v, r, j, columns - rows) === (dense[r * columns + j] === 1)) return false;
      }
      return true;
    });
  return forms.find((form) => Array.from({length: columns}, (_, j) => j).every((j) => fits(form, j))) ?? null;
}

/** All dense masks of a size; the bits of a number are the pairs. */
function allDense(rows: number, columns: number): Uint8Array[] {
  const size = rows * columns;
  return Array.from({length: 2 ** size}, (_, bits) => Uint8Array.from({length: size}, (_, i) => (bits >> i) & 1));
}

const anyMask = fc
  .record({
    form: fc.constantFrom(...forms),
    queryLength: fc.integer({min: 1, max: 14}),
    keyLength: fc.integer({min: 1, max: 14}),
    batch: fc.integer({min: 1, max: 2}),
    heads: fc.integer({min: 1, max: 2}),
    pool: fc.array(fc.integer({min: -2, max: 16}), {minLength: 230, maxLength: 230}),
  })
  .map(({form: [causal, vectors], pool, ...sizes}) => {
    const count = sizes.batch * sizes.heads * sizes.keyLength * vectors;
    return new FlashMask({...sizes, causal, vectors, bounds: Int32Array.from(pool.slice(0, count))});
  });

/** All batches and heads of a mask, one after another. */
function stack(mask: FlashMask): Uint8Array {
  const parts: number[] = [];
  for (let b = 0; b < mask.batch; b++) for (let h = 0; h < mask.heads; h++) parts.push(...mask.toDense(b, h));
  return Uint8Array.from(parts);
}

describe('toDense', () => {
  it('is the definition, for any bounds', () => {
    fc.assert(
      fc.property(anyMask, (mask) => {
        const {queryLength, keyLength, causal, vectors, bounds} = mask;
        const expected = Array.from({length: mask.batch * mask.heads * queryLength * keyLength}, (_, i) => {
          const [row, r, j] = [
            Math.floor(i / (queryLength * keyLength)),
            Math.floor(i / keyLength) % queryLength,
            i % keyLength,
          ];
          const at = (row * keyLength + j) * vectors;
          return Number(
            !isMasked([causal, vectors], [...bounds!.subarray(at, at + vectors)], r, j, keyLength - queryLength),
          );
        });
        expect([...stack(mask)]).to.deep.equal(expected);
      }),
      {seed: 6, numRuns: 400},
    );
  });
});

describe('fromDense', () => {
  it('gives a mask of random bounds back, in a form no larger', () => {
    fc.assert(
      fc.property(anyMask, (mask) => {
        const {batch, heads, queryLength, keyLength} = mask;
        const back = masks.fromDense(stack(mask), {shape: [batch, heads, queryLength, keyLength]});
        expect(stack(back)).to.deep.equal(stack(mask));
        expect(back.vectors).to.be.at.most(mask.vectors);
      }),
      {seed: 7, numRuns: 400},
    );
  });

  for (const [rows, columns] of [
    [1, 3],
    [2, 2],
    [2, 4],
    [3, 3],
    [4, 2],
    [5, 1],
  ]) {
    it(`finds the smallest form of each of the ${2 ** (rows * columns)} masks of ${rows} × ${columns}`, () => {
      for (const dense of allDense(rows, columns)) {
        const form = smallestForm(dense, rows, columns);
        if (form === null) {
          expect(() => masks.fromDense(dense, {shape: [rows, columns]})).to.throw('at most two intervals');
          continue;
        }
        const mask = masks.fromDense(dense, {shape: [rows, columns]});
        expect([mask.causal, mask.vectors], dense.join('')).to.deep.equal(form);
        expect(mask.toDense()).to.deep.equal(dense);
      }
    });
  }

  it('reads nested numbers and booleans, of one mask or of batches and heads', () => {
    expect(
      masks
        .fromDense([
          [1, 0],
          [1, 1],
        ])
        .toString(),
    ).to.contain('fromDense, 2 queries × 2 keys, causal, 0 vectors');
    const nested = [[[[true, false]], [[false, true]]]];
    const mask = masks.fromDense(nested, {name: 'mine'});
    expect([mask.name, mask.batch, mask.heads, mask.queryLength, mask.keyLength]).to.deep.equal(['mine', 1, 2, 1, 2]);
    expect([...mask.toDense(0, 1)]).to.deep.equal([0, 1]);
  });

  it('names the first column that two intervals cannot express', () => {
    const columns = [
      [1, 0, 1, 0, 1],
      [0, 1, 0, 1, 0],
      [0, 0, 1, 0, 0],
      [0, 1, 0, 1, 0],
    ];
    const dense = Array.from({length: 5}, (_, r) => columns.map((column) => column[r]));
    expect(() => masks.fromDense(dense)).to.throw(
      'masks.fromDense: the masked rows of a key column must be at most two intervals, ' +
        'got 3 in column 1: [0, 1), [2, 3), [4, 5). ',
    );
    const twoHeads = [[dense.map((row) => row.map(() => 1)), dense]];
    expect(() => masks.fromDense(twoHeads)).to.throw('got 3 in column 1 of batch 0, head 1: [0, 1), [2, 3), [4, 5). ');
  });

  it('gives bounds that skip as much as the builder that made the mask', () => {
    for (const mask of [
      masks.causalDocument([16, 24], {padTo: 64}),
      masks.document([16, 24], {padTo: 64}),
      masks.slidingWindow(64, 9),
    ]) {
      const back = masks.fromDense(mask.toDense(), {shape: [64, 64]});
      expect(back.sparsity({blockQ: 8, blockK: 8})).to.deep.equal(mask.sparsity({blockQ: 8, blockK: 8}));
    }
  });
});
