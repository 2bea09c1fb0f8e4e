/**
 * @file Writes test/vectors/: known answers for the rules that every language implements (bounds to intervals, kinds of
 * tiles, Philox, dropout, the mask head of a query head). They come from the tests' definitions
 * (test/support/oracle.ts, philox_reference.ts), which share no code with any copy. `TWIN:` marks the copies.
 *
 *     node --import=tsx scripts/vectors.ts [--check]
 */
import {existsSync, readFileSync, writeFileSync} from 'node:fs';
import {type Bounds, visibleByBounds} from '../test/support/oracle.js';
import {keptPairs, philox} from '../test/support/philox_reference.js';
import {integer, seeded} from '../test/support/random.js';

const FOLDER = new URL('../test/vectors/', import.meta.url);
const FORMS: readonly Pick<Bounds, 'n' | 'causal'>[] = [
  {n: 0, causal: true},
  {n: 0, causal: false},
  {n: 1, causal: true},
  {n: 2, causal: true},
  {n: 2, causal: false},
  {n: 4, causal: false},
];
const INT32_MIN = -(2 ** 31);
const INT32_MAX = 2 ** 31 - 1;

const random = seeded('vectors');
const drawInteger = (least: number, most: number): number => integer(random, least, most + 1);
const list = <T>(count: number, make: (i: number) => T): T[] => Array.from({length: count}, (_, i) => make(i));

/** Draws a bound: mostly near the rows, sometimes at the limits of int32. */
function drawBound(rows: number): number {
  const odd = [INT32_MIN, INT32_MIN + 1, -1000, 1000, INT32_MAX - 1, INT32_MAX];
  return random() < 0.1 ? odd[drawInteger(0, odd.length - 1)] : drawInteger(-2, rows + 2);
}

/** The bounds of a column as LTS, LTE, UTS, UTE: the table of docs/masks.md. */
function fourBounds({n, causal}: Pick<Bounds, 'n' | 'causal'>, b: readonly number[]): number[] {
  if (n === 0) return [0, 0, 0, 0];
  if (n === 1) return [b[0], INT32_MAX, 0, 0];
  if (n === 4) return [...b];
  return causal ? [b[0], b[1], 0, 0] : [b[0], INT32_MAX, INT32_MIN, b[1]];
}

/** Whether row r of a column of these four bounds is masked, by the oracle and without the causal triangle. */
function isMasked(four: readonly number[], r: number): boolean {
  return !visibleByBounds({data: four, maskB: 1, Hm: 1, n: 4, causal: false}, {H: 1, Sq: 1, Sk: 1})(0, 0, r, 0);
}

/** Columns of each form, their intervals, and which of the first rows they mask without the causal triangle. */
function intervals() {
  const rows = 24;
  return FORMS.flatMap((form) =>
    list(form.n === 0 ? 1 : 12, () => {
      const bounds = list(form.n, () => drawBound(rows));
      // With one key and one query, the triangle masks no row from 0 on.
      const visible = visibleByBounds({data: bounds, maskB: 1, Hm: 1, ...form}, {H: 1, Sq: 1, Sk: 1});
      const four = fourBounds(form, bounds);
      const masked = list(rows, (r) => !visible(0, 0, r, 0));
      if (masked.some((is, r) => is !== isMasked(four, r))) throw new Error('the oracle and fourBounds must agree');
      return {...form, bounds, intervals: four, masked: masked.map(Number).join('')};
    }),
  );
}

/** Key columns of a tile. */
const BLOCK_K = 32;

/** The smallest and the largest of each of the four bounds of a block of columns. */
function drawMap(form: Pick<Bounds, 'n' | 'causal'>, rows: number): number[] {
  const columns = list(drawInteger(1, 2), () =>
    fourBounds(
      form,
      list(form.n, () => drawBound(rows)),
    ),
  );
  return list(4, (i) => columns.map((column) => column[i])).flatMap((x) => [Math.min(...x), Math.max(...x)]);
}

/**
 * Tiles, and the kind that the bounds map proves. 'empty': the least masked column that the map allows, taken as the
 * first one, masks all rows. 'full': the most masked column that it allows, taken as the last one, masks none.
 */
function classify() {
  const shapes = [[40, 40], [64, 96], [96, 64], [7, 100], [100, 7]]; // prettier-ignore
  return shapes.flatMap(([Sq, Sk]) =>
    list(60, (i) => {
      const form = FORMS[i % FORMS.length];
      const keyBlock = drawInteger(0, Math.ceil(Sk / BLOCK_K) - 1);
      const [c0, c1] = [keyBlock * BLOCK_K, Math.min((keyBlock + 1) * BLOCK_K, Sk)];
      const r0 = drawInteger(0, Sq - 1);
      const r1 = Math.min(Sq, r0 + drawInteger(1, 16));
      const map = drawMap(form, Sq);
      const rows = list(r1 - r0, (r) => r0 + r);
      const inTriangle = (r: number, j: number): boolean => form.causal && r < j - (Sk - Sq);
      const [least, most] = [[map[1], map[2], map[5], map[6]], [map[0], map[3], map[4], map[7]]]; // prettier-ignore
      const isEmpty = rows.every((r) => inTriangle(r, c0) || isMasked(least, r));
      const isFull = !rows.some((r) => inTriangle(r, c1 - 1) || isMasked(most, r));
      return {
        causal: form.causal,
        n: form.n,
        Sq,
        Sk,
        r0,
        r1,
        c0,
        c1,
        map,
        kind: isEmpty ? 'empty' : isFull ? 'full' : 'partial',
      };
    }),
  );
}

const drawWord = (): number => Math.floor(random() * 2 ** 32);

function philoxWords() {
  const known = [
    [0, 0, 0, 0, 0, 0],
    list(6, () => 0xffffffff),
    // Digits of pi, as in the known answers of Random123.
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0],
  ];
  return [...known, ...list(13, () => list(6, drawWord))].map((x) => {
    const [c0, c1, c2, c3, k0, k1] = x.map(BigInt);
    return {counter: x.slice(0, 4), key: x.slice(4), words: philox([c0, c1, c2, c3], [k0, k1]).map(Number)};
  });
}

/** Which of the keys 0 to 31 of a row dropout keeps. */
function dropout() {
  return [0.1, 0.5, 0.9, 2 ** -32, 1 - 2 ** -32].flatMap((rate) =>
    list(4, (i) => {
      const seed = i % 2 === 0 ? drawInteger(0, 1000) : Math.floor(random() * 2 ** 53);
      const [H, b, h, r] = [drawInteger(1, 8), drawInteger(0, 3), 0, drawInteger(0, 5000)];
      const kept = keptPairs(H, rate, seed);
      const threshold = Math.floor(rate * 2 ** 32);
      return {
        rate, seed, threshold, batchHead: b * H + h, row: r,
        kept: list(32, (j) => (kept(b, h, r, j) ? 1 : 0)).join(''),
      }; // prettier-ignore
    }),
  );
}

/** The head of the bounds that (b, h) reads: if only that head hides key 0, then (b, h) does not see key 0. */
function maskHead() {
  const shapes = [
    [1, 1, 1, 1], [1, 1, 6, 2], [1, 2, 6, 2], [1, 6, 6, 2], [3, 1, 6, 2], [3, 2, 6, 2], [3, 6, 6, 2], [3, 4, 8, 4],
  ]; // prettier-ignore
  return shapes.flatMap(([maskB, Hm, H, Hkv]) =>
    list(3 * H, (i) => {
      const [b, h] = [Math.floor(i / H), i % H];
      const hides = (head: number): boolean => {
        const data = list(maskB * Hm, (other) => (other === head ? 0 : 1));
        return !visibleByBounds({data, maskB, Hm, n: 1, causal: true}, {H, Sq: 1, Sk: 1})(b, h, 0, 0);
      };
      return {maskB, Hm, H, Hkv, b, h, maskHead: list(maskB * Hm, (head) => head).find(hides)!};
    }),
  );
}

const files = {intervals, classify, philox: philoxWords, dropout, mask_head: maskHead};
for (const [name, make] of Object.entries(files)) {
  const file = new URL(`${name}.json`, FOLDER);
  // One case per line, so that a diff shows single cases.
  const text = `[\n${make()
    .map((x) => `  ${JSON.stringify(x)}`)
    .join(',\n')}\n]\n`;
  if (!process.argv.includes('--check')) {
    writeFileSync(file, text);
  } else if (!existsSync(file) || readFileSync(file, 'utf8') !== text) {
    console.error(
      `test/vectors/${name}.json is not what the oracle says: run \`node --import=tsx scripts/vectors.ts\`.`,
    );
    process.exitCode = 1;
  }
}
