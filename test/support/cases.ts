/**
 * @file The table of attention calls that every device must get right. Each case has its own seed; `prepare` draws it
 * and brings it to the form of the oracle.
 *
 * Sizes suit a software GPU. A case has fewer than 64K pairs but more than two tiles of 64. There are few different
 * head sizes, because each compiles its own shaders.
 */
import * as masks from '../../src/mask/builders/index.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {type MaskEntry, maskTable} from './mask_table.js';
import {type AttentionCall, type Bounds, type PairRule, type Sizes, visibleByBounds} from './oracle.js';
import {keptPairs} from './philox_reference.js';
import {type Random, choose, integer, normals, seeded} from './random.js';

/** A mask as the user passes it: one of the library's masks, a tensor of bounds, or none. */
export type CaseMask = FlashMask | Bounds | null;

/** How the numbers of a tensor are drawn: normally, with a deviation and a mean. */
interface Spread {
  deviation?: number;
  mean?: number;
}

export interface Case extends Sizes {
  group: string;
  name: string;
  mask(random: Random): {mask: CaseMask; visible: PairRule};
  /** The `causal` option, for masks that do not set it themselves. */
  causal?: boolean;
  /** Default 1 / sqrt(D): the option is left out. */
  scale?: number;
  dropout: number;
  seed: number;
  deterministic?: boolean;
  /** Has head sizes that take a software adapter 3 to 10 seconds to compile: there only `npm run test:all` runs it. */
  slowOnSoftware?: boolean;
  /** Also returns the log-sum-exp, and sends a gradient through it. */
  lse: boolean;
  spread: {q?: Spread; k?: Spread; v?: Spread; dOut?: Spread; dLse?: Spread};
}

export interface Prepared {
  case: Case;
  call: AttentionCall;
  mask: CaseMask;
}

/** Draws the inputs of a case; the same case always gives the same inputs. */
export function prepare(c: Case): Prepared {
  const random = seeded(`${c.group}: ${c.name}`);
  const {mask, visible} = c.mask(random);
  const draw = (count: number, {deviation = 1, mean = 0}: Spread = {}) =>
    normals(random, count, deviation).map((x) => x + mean);
  const call: AttentionCall = {
    ...sizesOf(c),
    q: draw(c.B * c.Sq * c.H * c.D, c.spread.q),
    k: draw(c.B * c.Sk * c.Hkv * c.D, c.spread.k),
    v: draw(c.B * c.Sk * c.Hkv * c.Dv, c.spread.v),
    dOut: draw(c.B * c.Sq * c.H * c.Dv, c.spread.dOut),
    dLse: c.lse ? draw(c.B * c.H * c.Sq, c.spread.dLse) : new Float32Array(c.B * c.H * c.Sq),
    scale: c.scale ?? 1 / Math.sqrt(c.D),
    dropout: c.dropout,
    visible,
    kept: keptPairs(c.H, c.dropout, c.seed),
  };
  return {case: c, call, mask};
}

function sizesOf({B, H, Hkv, Sq, Sk, D, Dv, layout}: Sizes): Sizes {
  return {B, H, Hkv, Sq, Sk, D, Dv, layout};
}

/** The default head size of tests: each size compiles its own shaders, which takes a software GPU seconds. */
export const HEAD_SIZE = 16;

type Options = Partial<Omit<Case, 'group' | 'name' | 'mask'>>;

const defaults = {
  B: 1,
  H: 2,
  Hkv: 2,
  D: HEAD_SIZE,
  Dv: HEAD_SIZE,
  layout: 'bshd',
  dropout: 0,
  seed: 0,
  lse: true,
  spread: {},
} as const;

/** A case without row intervals, causal or not. */
export function plainCase(
  group: string,
  name: string,
  causal: boolean,
  options: Options & {Sq: number; Sk: number},
): Case {
  const c = {...defaults, ...options};
  const visible = visibleByBounds({data: [], maskB: 1, Hm: 1, n: 0, causal}, c);
  return {...c, group, name, causal, mask: () => ({mask: null, visible})};
}

/** The four forms of a bounds tensor. */
export const forms = [
  {causal: true, n: 1},
  {causal: true, n: 2},
  {causal: false, n: 2},
  {causal: false, n: 4},
] as const;
type Form = (typeof forms)[number];

/** How bounds are drawn; see `randomBounds`. */
export const styles = ['blocky', 'any', 'extreme'] as const;
type Style = (typeof styles)[number];

/** A case with a tensor of random bounds. */
export function boundsCase(
  group: string,
  name: string,
  form: Form,
  options: Options & {Sq: number; Sk: number; maskB?: number; Hm?: number; style?: Style},
): Case {
  const {maskB = 1, Hm = 1, style = 'blocky', ...rest} = options;
  const c = {...defaults, ...rest};
  const mask = (random: Random) => {
    const bounds = {...form, maskB, Hm, data: randomBounds(random, style, maskB * Hm, c.Sq, c.Sk, form.n)};
    return {mask: bounds, visible: visibleByBounds(bounds, c)};
  };
  return {...c, group, name, causal: form.causal, mask};
}

/** A case whose bounds are given column by column. */
export function columnsCase(
  group: string,
  name: string,
  form: Form,
  column: (j: number) => number[],
  options: Options & {Sq: number; Sk: number},
): Case {
  const c = {...defaults, ...options};
  const data = Int32Array.from(Array.from({length: c.Sk}, (_, j) => column(j)).flat());
  const bounds = {...form, maskB: 1, Hm: 1, data};
  return {...c, group, name, causal: form.causal, mask: () => ({mask: bounds, visible: visibleByBounds(bounds, c)})};
}

/**
 * Row bounds `[rows, Sk, n]`. 'blocky': equal over runs of columns, so that tiles become empty and full. 'any':
 * independent columns, with intervals in either order, overlapping or empty. 'extreme': as 'any', but many bounds lie
 * outside the rows, up to the limits of int32.
 */
export function randomBounds(
  random: Random,
  style: Style,
  rows: number,
  Sq: number,
  Sk: number,
  n: number,
): Int32Array {
  const data = new Int32Array(rows * Sk * n);
  const far = [-2147483648, -1000, -1, 0, Sq, Sq + 1, Sq + 1000, 2147483647];
  let run: number[] = [];
  for (let column = 0; column < rows * Sk; column++) {
    if (style !== 'blocky' || column % Sk === 0 || random() < 1 / 40) {
      run = Array.from({length: n}, () => integer(random, -3, Sq + 4));
    }
    run.forEach((bound, i) => {
      const jitter = style === 'blocky' && random() < 0.1 ? integer(random, -2, 3) : 0;
      data[column * n + i] = style === 'extreme' && random() < 0.5 ? choose(random, far) : bound + jitter;
    });
  }
  return data;
}

const causalDocuments: Form = forms[0];
const twoIntervals: Form = forms[3];

/** Every builder, with the dense rule of the table as the truth, and masks of several heads and batch rows. */
function builderCases(): Case[] {
  const S = 131;
  return [
    ...maskTable.map((entry) => entryCase('builder', entry, S, {})),
    flashMaskCase('random eviction in each head', masks.randomEviction(67, 30, {heads: 4, seed: 2}), {H: 4, Hkv: 2}),
    flashMaskCase('documents in each batch row', masks.causalDocument([[20, 45], [67]], {padTo: 67}), {B: 2}),
    flashMaskCase('decoding from a sliding window', masks.slidingWindow(67, 9, {queryLength: 3}), {}),
  ];
}

/** A case with the mask of length S of an entry of the mask table, and its dense rule. */
export function entryCase(group: string, entry: MaskEntry, S: number, options: Options): Case {
  const mask = (random: Random) => {
    const sample = entry.sample(S, random);
    return {mask: sample.mask, visible: ((b, h, r, j) => sample.visible(r, j, b, h)) as PairRule};
  };
  return {...defaults, ...options, Sq: S, Sk: S, group, name: entry.name, mask};
}

/** A case with one of the library's masks, whose bounds are read by the definition. */
export function flashMaskCase(name: string, mask: FlashMask, options: Options, group = 'builder'): Case {
  const c = {...defaults, ...options, Sq: mask.queryLength, Sk: mask.keyLength};
  const {batch: maskB, heads: Hm, vectors: n, causal} = mask;
  const visible = visibleByBounds({data: mask.bounds!, maskB, Hm, n, causal}, c);
  return {...c, group, name, mask: () => ({mask, visible})};
}

/** One, primes, and the tile sides 16, 32 and 64 with one less and one more. */
function lengthCases(): Case[] {
  const lengths = [1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 67, 127, 128, 129, 131];
  return lengths.flatMap((S) => [
    boundsCase('length', `S ${S}, causal`, causalDocuments, {Sq: S, Sk: S}),
    boundsCase('length', `S ${S}, two intervals`, twoIntervals, {Sq: S, Sk: S}),
  ]);
}

/**
 * Queries and keys of different lengths: decoding, chunked prefill, cross attention, and more tiles than one round of
 * classification takes.
 */
function crossCases(): Case[] {
  const lengths = [
    [1, 2],
    [1, 37],
    [1, 64],
    [1, 65],
    [3, 131],
    [5, 70],
    [33, 65],
    [64, 128],
    [70, 5],
    [65, 33],
    [128, 64],
    [131, 1],
  ];
  const many = [
    [2, 2113],
    [2113, 2],
    [1, 4129],
    [4129, 1],
    [7, 4097],
  ];
  return [
    ...lengths.flatMap(([Sq, Sk]) => [
      plainCase('cross', `${Sq} queries, ${Sk} keys, causal`, true, {Sq, Sk}),
      boundsCase('cross', `${Sq} queries, ${Sk} keys, causal intervals`, forms[1], {Sq, Sk}),
      boundsCase('cross', `${Sq} queries, ${Sk} keys, two intervals`, twoIntervals, {Sq, Sk}),
    ]),
    ...many.flatMap(([Sq, Sk]) => [
      plainCase('cross', `${Sq} queries, ${Sk} keys, no mask`, false, {Sq, Sk, H: 1, Hkv: 1}),
      boundsCase('cross', `${Sq} queries, ${Sk} keys, two intervals`, twoIntervals, {Sq, Sk, H: 1, Hkv: 1}),
    ]),
  ];
}

/**
 * Decoding: so few queries and so many keys that WebGPU folds heads, splits keys and combines. Lengths lie around those
 * at which the number of splits, or the blocks of a split, change.
 */
function fewQueriesCases(): Case[] {
  const heads = [
    [2, 2],
    [4, 2],
    [4, 1],
    [6, 3],
  ];
  const queries = [1, 2, 7, 8, 16];
  const keys = [224, 225, 256, 257, 389];
  const around = queries.flatMap((Sq, i) =>
    keys.map((Sk, k) => {
      // Heads, mask heads, batches, layouts and forms take turns.
      const [H, Hkv] = heads[(i + 2 * k) % heads.length];
      const Hm = [1, Hkv, H][(i + k) % 3];
      const [B, maskB] = [Sq < 8 ? 2 : 1, Sq < 8 && k % 2 === 0 ? 2 : 1];
      const layout = (i + k) % 2 === 0 ? 'bshd' : 'bhsd';
      const form = forms[(i + k) % 4];
      const name = `${Sq} queries, ${Sk} keys, causal ${form.causal}, n ${form.n}, H ${H}, Hkv ${Hkv}, Hm ${Hm}`;
      return boundsCase('few queries', name, form, {Sq, Sk, B, H, Hkv, Hm, maskB, layout});
    }),
  );
  const grouped = {H: 4, Hkv: 2, B: 2};
  const far = {q: {mean: 20}, k: {mean: -20}};
  const only = (from: number, to: number) => (j: number) => (j >= from && j < to ? [0, 0, 0, 0] : [0, 9, 0, 0]);
  const make = (name: string, column: (j: number) => number[], options: Options = {}) =>
    columnsCase('few queries', name, forms[3], column, {Sq: 5, Sk: 257, ...grouped, ...options});
  const dropped = forms.map((form, i) => {
    const name = `dropout, causal ${form.causal}, n ${form.n}`;
    // WebGPU folds heads that share a mask, but not heads with their own masks.
    const Hm = i % 2 === 0 ? 1 : 4;
    return boundsCase('few queries', name, form, {Sq: 5, Sk: 97, H: 4, Hkv: 2, Hm, dropout: 0.5, seed: i});
  });
  return [
    ...around,
    ...dropped,
    plainCase('few queries', 'causal', true, {Sq: 8, Sk: 257, ...grouped}),
    plainCase('few queries', 'no mask', false, {Sq: 1, Sk: 389, ...grouped, lse: false}),
    make('splits that see no key', only(70, 90)),
    make('the last key alone', only(256, 257)),
    make('no key at all', () => [0, 2, 2, 9]),
    make('rows 1 and 3 see no key', () => [1, 2, 3, 4]),
    make('row 2 sees no key of most splits', (j) => (j < 30 ? [0, 1, 4, 5] : [2, 3, 0, 0])),
    make('scores near -1600', only(10, 250), {spread: far}),
    make('dropout', only(10, 250), {dropout: 0.5, seed: 2 ** 32 + 7, deterministic: true, layout: 'bhsd'}),
    make('odd channels', only(10, 250), {D: 3, Dv: 20, layout: 'bhsd', slowOnSoftware: true}),
    make('odd channels of values', only(10, 250), {D: 33, Dv: 3, dropout: 0.1}),
  ];
}

/** Grouped and multi-query heads, mask heads and mask batches, in both layouts. */
function headCases(): Case[] {
  const groups = [
    [2, 2],
    [4, 2],
    [3, 1],
    [6, 3],
    [4, 1],
  ];
  const grouped = groups.flatMap(([H, Hkv]) =>
    [...new Set([1, Hkv, H])].flatMap((Hm) =>
      (['bshd', 'bhsd'] as const).map((layout, i) => {
        const maskB = (H + Hm + i) % 2 === 0 ? 1 : 2;
        const name = `H ${H}, Hkv ${Hkv}, mask heads ${Hm}, mask batches ${maskB}, ${layout}`;
        return boundsCase('heads', name, forms[(H + Hm) % 4], {Sq: 43, Sk: 59, B: 2, H, Hkv, Hm, maskB, layout});
      }),
    ),
  );
  // WebGPU and CUDA take eight heads in turn; these cases have more query heads and more key heads.
  const sizes = {Sq: 70, Sk: 131, B: 3, H: 6, Hkv: 3};
  const many = [1, 6].map((Hm) => {
    const maskB = Hm === 1 ? 1 : 3;
    return boundsCase('heads', `3 batches of H 6, Hkv 3, mask heads ${Hm}`, forms[Hm % 4], {...sizes, Hm, maskB});
  });
  return [...grouped, ...many];
}

/**
 * Head sizes that are odd, not a multiple of 4, different for keys and values, and as large as allowed. Each pair of
 * sizes compiles its own shaders, which takes a software GPU longer than all the rest, so few pairs cover many sizes,
 * and pairs that differ from others only in the number of channels are not its own.
 */
function channelCases(): Case[] {
  const channels = [
    [1, 1], [3, 20], [33, 3], [64, 33], [64, 64], [80, 33], [128, 128], [192, 80], [256, 256],
  ]; // prettier-ignore
  return channels.map(([D, Dv], i) =>
    boundsCase('channels', `D ${D}, Dv ${Dv}`, causalDocuments, {
      // Shaders walk over 32 channels at a time: 3, 20, 33 and 64 are less than that, some more, and twice that.
      slowOnSoftware: D === Dv || D > 64,
      Sq: 67,
      Sk: 71,
      D,
      Dv,
      H: 2,
      Hkv: 1,
      layout: i % 2 === 0 ? 'bshd' : 'bhsd',
    }),
  );
}

/** The four forms of bounds, with intervals in order, in any order, and out of range. */
function formCases(): Case[] {
  return forms.flatMap((form) =>
    styles.map((style) =>
      boundsCase('form', `causal ${form.causal}, n ${form.n}, ${style}`, form, {Sq: 131, Sk: 97, Hm: 2, style}),
    ),
  );
}

/** Rows that see no key, columns that no row sees. */
function emptyCases(): Case[] {
  const S = 97;
  const sizes = {Sq: S, Sk: S};
  return [
    columnsCase('empty', 'every pair masked, causal', forms[0], () => [0], sizes),
    columnsCase('empty', 'every pair masked, full', forms[3], () => [0, 50, 50, S], sizes),
    columnsCase('empty', 'padding at the end', forms[0], (j) => [j < 70 ? 70 : j], sizes),
    columnsCase('empty', 'rows 40 to 79', forms[3], () => [40, 60, 60, 80], sizes),
    columnsCase('empty', 'rows 40 to 79, intervals swapped', forms[3], () => [55, 80, 40, 62], sizes),
    columnsCase('empty', 'columns 30 to 69', forms[1], (j) => (j >= 30 && j < 70 ? [0, S] : [S, S]), sizes),
    columnsCase('empty', 'one visible pair', forms[3], (j) => (j === 66 ? [0, 65, 66, S] : [0, S, 0, 0]), sizes),
    plainCase('empty', 'causal with more queries than keys', true, {Sq: 131, Sk: 40}),
  ];
}

/** Scores far from zero, tiny and huge values. */
function magnitudeCases(): Case[] {
  const sizes = {Sq: 67, Sk: 67};
  const make = (name: string, spread: Case['spread'], options: Options = {}) =>
    boundsCase('magnitude', name, causalDocuments, {...sizes, ...options, spread});
  return [
    make('scores to several hundreds', {q: {deviation: 12}, k: {deviation: 12}}),
    make('scores near -1600', {q: {mean: 20}, k: {mean: -20}}),
    make('scores near +1600', {q: {mean: 20}, k: {mean: 20}}),
    make('tiny', {
      q: {deviation: 1e-6},
      k: {deviation: 1e-6},
      v: {deviation: 1e-6},
      dOut: {deviation: 1e-6},
      dLse: {deviation: 1e-12},
    }),
    make('huge values', {v: {deviation: 1e6}, dOut: {deviation: 1e6}}, {lse: false}),
    make('values far from zero', {v: {mean: 100}}, {lse: false}),
    make('zero queries', {q: {deviation: 0}}),
    make('scale 0', {}, {scale: 0}),
    make('scale 1', {}, {scale: 1}),
    make('scale 0.01', {}, {scale: 0.01}),
  ];
}

/** Dropout with seeds of one and of two words. */
function dropoutCases(): Case[] {
  return [
    plainCase('dropout', 'a half', false, {Sq: 67, Sk: 45, dropout: 0.5, seed: 1}),
    boundsCase('dropout', 'causal', causalDocuments, {Sq: 65, Sk: 65, dropout: 0.1, seed: 0}),
    boundsCase('dropout', 'grouped heads, long seed', causalDocuments, {
      Sq: 43,
      Sk: 59,
      B: 2,
      H: 4,
      Hkv: 2,
      Hm: 4,
      maskB: 2,
      dropout: 0.25,
      seed: 2 ** 32 + 7,
      layout: 'bhsd',
    }),
    boundsCase('dropout', 'largest seed', forms[1], {Sq: 33, Sk: 70, dropout: 0.3, seed: Number.MAX_SAFE_INTEGER}),
    boundsCase('dropout', 'most pairs', causalDocuments, {Sq: 64, Sk: 64, dropout: 0.95, seed: 3, lse: false}),
  ];
}

/** Without the log-sum-exp, and deterministic. */
function optionCases(): Case[] {
  return [
    plainCase('option', 'no mask', false, {Sq: 67, Sk: 67, lse: false}),
    plainCase('option', 'causal', true, {Sq: 67, Sk: 67, lse: false}),
    plainCase('option', 'no mask, bhsd', false, {Sq: 67, Sk: 67, layout: 'bhsd', lse: false}),
    boundsCase('option', 'intervals, output only', twoIntervals, {Sq: 67, Sk: 67, lse: false}),
    boundsCase('option', 'deterministic', causalDocuments, {Sq: 131, Sk: 131, deterministic: true}),
    boundsCase('option', 'deterministic, grouped heads', twoIntervals, {
      Sq: 67,
      Sk: 97,
      H: 4,
      Hkv: 1,
      deterministic: true,
    }),
    boundsCase('option', 'deterministic, dropout', causalDocuments, {
      Sq: 67,
      Sk: 67,
      H: 4,
      Hkv: 2,
      dropout: 0.2,
      seed: 5,
      deterministic: true,
    }),
  ];
}

export const cases: readonly Case[] = [
  ...builderCases(),
  ...lengthCases(),
  ...crossCases(),
  ...fewQueriesCases(),
  ...headCases(),
  ...channelCases(),
  ...formCases(),
  ...emptyCases(),
  ...magnitudeCases(),
  ...dropoutCases(),
  ...optionCases(),
];
