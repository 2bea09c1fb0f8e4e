/**
 * @file The tile kinds by brute force: never wrong on random bounds, and as exact as the smallest and largest bounds of
 * a key block allow. The exact answer is computed over every set of columns with these smallest and largest bounds.
 */
import {expect} from 'chai';
import * as fc from 'fast-check';
import * as masks from '../../src/mask/builders/index.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {type Intervals, MAX_BOUND, MIN_BOUND, intervalsAt} from '../../src/mask/bounds/intervals.js';
import {type TileKind, classifyTile, boundsMap, tileKinds} from '../../src/mask/bounds/classify.js';
import {drawnMask, maskFields} from '../support/any_mask.js';

/** Masks with any bounds. */
const anyMask = fc
  .record({...maskFields(600), queryLength: fc.integer({min: 1, max: 37}), keyLength: fc.integer({min: 1, max: 37})})
  .map(({queryLength, keyLength, ...fields}) => drawnMask(fields, queryLength, keyLength));

/** The definition of a mask, one pair at a time. */
function isVisible(mask: FlashMask, r: number, j: number, b: number, h: number): boolean {
  const at = ((b * mask.heads + h) * mask.keyLength + j) * mask.vectors;
  const v = [...mask.bounds!.subarray(at, at + mask.vectors)];
  if (mask.causal) {
    if (r < j - (mask.keyLength - mask.queryLength)) return false;
    if (mask.vectors === 1) return !(r >= v[0]);
    if (mask.vectors === 2) return !(r >= v[0] && r < v[1]);
    return true;
  }
  if (mask.vectors === 2) return !(r >= v[0] || r < v[1]);
  if (mask.vectors === 4) return !((r >= v[0] && r < v[1]) || (r >= v[2] && r < v[3]));
  return true;
}

/** Each tile: its kind and its number of visible pairs. */
function* tilesOf(
  mask: FlashMask,
  blockQ: number,
  blockK: number,
): Generator<{kind: TileKind; visible: number; pairs: number; at: string}> {
  for (let b = 0; b < mask.batch; b++) {
    for (let h = 0; h < mask.heads; h++) {
      const map = tileKinds(mask, blockQ, blockK, b, h);
      for (let i = 0; i < map.kinds.length; i++) {
        const [r0, c0] = [Math.floor(i / map.columns) * blockQ, (i % map.columns) * blockK];
        const [r1, c1] = [Math.min(r0 + blockQ, mask.queryLength), Math.min(c0 + blockK, mask.keyLength)];
        let visible = 0;
        for (let r = r0; r < r1; r++) for (let j = c0; j < c1; j++) visible += Number(isVisible(mask, r, j, b, h));
        yield {
          kind: map.kinds[i],
          visible,
          pairs: (r1 - r0) * (c1 - c0),
          at: `rows ${r0}, columns ${c0}, batch ${b}, head ${h}`,
        };
      }
    }
  }
}

function trueKind({visible, pairs}: {visible: number; pairs: number}): TileKind {
  return visible === 0 ? 'empty' : visible === pairs ? 'full' : 'partial';
}

const side = fc.integer({min: 1, max: 17});

describe('tile kinds', () => {
  it('is never wrong: empty tiles have no visible pair, full tiles no masked one', () => {
    const seen = {empty: 0, partial: 0, full: 0};
    fc.assert(
      fc.property(anyMask, side, side, (mask, blockQ, blockK) => {
        for (const tile of tilesOf(mask, blockQ, blockK)) {
          seen[tile.kind]++;
          if (tile.kind !== 'partial') expect(tile.kind, tile.at).to.equal(trueKind(tile));
        }
      }),
      {seed: 2, numRuns: 1500},
    );
    // Calling every tile 'partial' would pass the property, so each kind must be seen often.
    expect(Math.min(...Object.values(seen))).to.be.above(1000);
  });

  it('is exact where a key block is one column', () => {
    fc.assert(
      fc.property(anyMask, side, (mask, blockQ) => {
        for (const tile of tilesOf(mask, blockQ, 1)) expect(tile.kind, tile.at).to.equal(trueKind(tile));
      }),
      {seed: 3, numRuns: 500},
    );
  });

  it('is exact for plain masks, at every ragged length', () => {
    for (let queryLength = 1; queryLength <= 20; queryLength++) {
      for (let keyLength = 1; keyLength <= 20; keyLength++) {
        for (const mask of [masks.full(keyLength, {queryLength}), masks.causal(keyLength, {queryLength})]) {
          for (const tile of tilesOf(mask, 5, 4))
            expect(tile.kind, `${String(mask)}, ${tile.at}`).to.equal(trueKind(tile));
        }
      }
    }
  });

  it('finds what builders leave out: documents that end at tile sides have no tile but full ones and diagonal ones', () => {
    const lengths = [16, 32, 8, 24];
    expect(masks.document(lengths).sparsity({blockQ: 8, blockK: 8}).partialTiles).to.equal(0);
    const {partialTiles} = masks.causalDocument(lengths).sparsity({blockQ: 8, blockK: 8});
    expect(partialTiles).to.equal(10 / 100);
    expect(masks.causalBlockwise(lengths).sparsity({blockQ: 8, blockK: 8}).partialTiles).to.equal(10 / 100);
    expect(masks.document([16, 13], {padTo: 64}).sparsity({blockQ: 8, blockK: 8}).emptyTiles).to.equal((64 - 8) / 64);
  });
});

/** A tile, described only by what the bounds map holds of its columns. */
interface Known {
  causal: boolean;
  offset: number;
  r0: number;
  r1: number;
  c0: number;
  columns: number;
  /** Smallest and largest of LTS, LTE, UTS, UTE. */
  ranges: [min: number, max: number][];
}

/** All bounds of `columns` columns with these smallest and largest values. */
function assignments(columns: number, [min, max]: [number, number]): number[][] {
  const values = Array.from({length: max - min + 1}, (_, i) => min + i);
  let all: number[][] = [[]];
  for (let c = 0; c < columns; c++) all = all.flatMap((head) => values.map((value) => [...head, value]));
  return all.filter((chosen) => Math.min(...chosen) === min && Math.max(...chosen) === max);
}

/** All choices of one element of each list. */
function* product<T>(lists: T[][], chosen: T[] = []): Generator<T[]> {
  if (chosen.length === lists.length) yield chosen;
  else for (const value of lists[chosen.length]) yield* product(lists, [...chosen, value]);
}

/**
 * The kind that holds for every set of columns with these ranges: the most that any rule on minima and maxima can tell.
 */
function provableKind(known: Known): TileKind {
  const {causal, offset, r0, r1, c0, columns, ranges} = known;
  let allEmpty = true;
  let allFull = true;
  for (const [a, b, c, d] of product(ranges.map((range) => assignments(columns, range)))) {
    for (let i = 0; i < columns; i++) {
      for (let r = r0; r < r1; r++) {
        const inTriangle = causal && r < c0 + i - offset;
        const masked = inTriangle || (r >= a[i] && r < b[i]) || (r >= c[i] && r < d[i]);
        allFull &&= !masked;
        allEmpty &&= masked;
      }
    }
    if (!allEmpty && !allFull) return 'partial';
  }
  return allEmpty ? 'empty' : 'full';
}

/** Tiles of `columns` columns; interval ends may be the limits of int32, as in forms with fewer vectors. */
function anyKnown(columns: number, spread: number): fc.Arbitrary<Known> {
  const range = fc
    .tuple(fc.integer({min: -1, max: 6}), columns === 1 ? fc.constant(0) : fc.integer({min: 0, max: spread}))
    .map(([min, extra]): [number, number] => [min, min + extra]);
  const fixed = (value: number): fc.Arbitrary<[number, number]> => fc.constant([value, value]);
  const form = fc.oneof(
    {weight: 4, arbitrary: fc.tuple(range, range, range, range)},
    {weight: 1, arbitrary: fc.tuple(range, range, fixed(0), fixed(0))},
    {weight: 1, arbitrary: fc.tuple(range, fixed(MAX_BOUND), fixed(0), fixed(0))},
    {weight: 1, arbitrary: fc.tuple(range, fixed(MAX_BOUND), fixed(MIN_BOUND), range)},
  );
  return fc
    .record({
      causal: fc.boolean(),
      offset: fc.integer({min: -3, max: 3}),
      r0: fc.integer({min: 0, max: 3}),
      rows: fc.integer({min: 1, max: 4}),
      c0: fc.integer({min: 0, max: 4}),
      ranges: form,
    })
    .map(({rows, r0, ...rest}) => ({...rest, r0, r1: r0 + rows, columns}));
}

function classify({causal, offset, r0, r1, c0, columns, ranges}: Known): TileKind {
  return classifyTile([NaN, ...ranges.flat()], 1, causal, r0, r1, c0, c0 + columns, offset);
}

describe('tile classification', () => {
  for (const [columns, spread, numRuns] of [
    [1, 0, 3000],
    [2, 4, 3000],
    [3, 2, 300],
  ]) {
    it(`says empty and full exactly where ${columns} columns of known smallest and largest bounds prove it`, () => {
      const seen = {empty: 0, partial: 0, full: 0};
      fc.assert(
        fc.property(anyKnown(columns, spread), (known) => {
          const kind = classify(known);
          expect(kind).to.equal(provableKind(known));
          seen[kind]++;
        }),
        {seed: 4, numRuns},
      );
      expect(Math.min(...Object.values(seen))).to.be.above(numRuns / 50);
    });
  }

  it('joins the triangle and two intervals, in either order, to an empty tile', () => {
    const known = {causal: true, offset: 0, r0: 0, r1: 8, c0: 2, columns: 4};
    const lower: Known['ranges'] = [[4, 5], [8, 9], [1, 2], [5, 6]]; // prettier-ignore
    expect(classify({...known, ranges: lower})).to.equal('empty');
    expect(classify({...known, ranges: [...lower.slice(2), ...lower.slice(0, 2)]})).to.equal('empty');
    expect(classify({...known, c0: 1, ranges: lower})).to.equal('partial');
    expect(classify({...known, causal: false, ranges: lower})).to.equal('partial');
  });
});

describe('columnBlockBounds and intervalsAt', () => {
  it('gives every form its four bounds', () => {
    const at = (vectors: number, causal: boolean): Intervals =>
      intervalsAt([9, 9, 9, 9, 1, 2, 3, 4], vectors, causal, 4 / vectors);
    expect(intervalsAt(null, 0, true, 3)).to.deep.equal([0, 0, 0, 0]);
    expect(at(1, true)).to.deep.equal([1, MAX_BOUND, 0, 0]);
    expect(at(2, true)).to.deep.equal([1, 2, 0, 0]);
    expect(at(2, false)).to.deep.equal([1, MAX_BOUND, MIN_BOUND, 2]);
    expect(at(4, false)).to.deep.equal([1, 2, 3, 4]);
  });

  it('reuses the array it is given', () => {
    const out: Intervals = [7, 7, 7, 7];
    expect(intervalsAt([5], 1, true, 0, out)).to.equal(out);
    expect(out).to.deep.equal([5, MAX_BOUND, 0, 0]);
  });

  it('are the minima and maxima of each block, the last one short', () => {
    fc.assert(
      fc.property(anyMask, side, (mask, blockK) => {
        const expected: number[] = [];
        for (let row = 0; row < mask.batch * mask.heads; row++) {
          for (let c0 = 0; c0 < mask.keyLength; c0 += blockK) {
            const columns = Array.from({length: Math.min(blockK, mask.keyLength - c0)}, (_, i) =>
              intervalsAt(mask.bounds, mask.vectors, mask.causal, row * mask.keyLength + c0 + i),
            );
            for (let i = 0; i < 4; i++) {
              const values = columns.map((column) => column[i]);
              expected.push(Math.min(...values), Math.max(...values));
            }
          }
        }
        expect([...boundsMap(mask, blockK)]).to.deep.equal(expected);
      }),
      {seed: 5, numRuns: 200},
    );
  });
});
