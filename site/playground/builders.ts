/** @file Every builder as the playground shows it: its fields, the call that it stands for, and what can be dragged. */
import * as masks from '../../src/entries/masks.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import type {MaskBuilder} from '../../src/tf_layers/builder_mask.js';
import {type Handle, edge, partHandles, prefixHandles, spanHandles} from './handles.js';
import {type Control, type Values, numberOf, rescaled, rowsOf, sum, textOf} from './values.js';

/** A call of a builder, as a mask and as lines of code. */
interface Call {
  mask: FlashMask;
  /** Lines before the one of the mask. */
  before?: string;
  /** Arguments of the builder, as code. */
  code: string;
}

export type BuilderName = MaskBuilder;

export interface Builder {
  controls: readonly Control[];
  /** Values for a row of about N tokens. */
  initial: (N: number) => Values;
  call: (values: Values) => Call;
  handles?: (values: Values, mask: FlashMask) => Handle[];
  /** Whether its length is that of what was pasted, so that it cannot be set. */
  fixedLength?: boolean;
}

const LENGTH: Control = {key: 'length', label: 'Tokens', kind: 'number', min: 1};
const QUERIES: Control = {
  key: 'queries',
  label: 'Queries',
  kind: 'number',
  hint: 'Fewer in decoding. 0: as many as tokens.',
};
const LENGTHS: Control = {
  key: 'lengths', label: 'Lengths', kind: 'list', hint: 'Paste the lengths of the documents. A line is a row of the batch.',
}; // prettier-ignore
const PAD: Control = {key: 'padTo', label: 'Pad rows to', kind: 'number', hint: '0: no padding.', scales: true};

/** Code of a value: options without those that were left at their defaults, and nothing if none is left. */
function options(given: Record<string, unknown>): {value: Record<string, unknown> | undefined; code: string} {
  const set = Object.entries(given).filter(([, value]) => value !== 0 && value !== false && value !== undefined);
  if (set.length === 0) return {value: undefined, code: ''};
  const code = set.map(([name, value]) => `${name}: ${String(value)}`).join(', ');
  return {value: Object.fromEntries(set), code: `, {${code}}`};
}

/** Lists as code: one of numbers, or one for each row of a batch. */
const listCode = (rows: readonly (readonly number[])[]): string => {
  const lists = rows.map((row) => `[${row.join(', ')}]`);
  return lists.length === 1 ? lists[0] : `[\n  ${lists.join(',\n  ')},\n]`;
};

const perBatch = (rows: number[][]): number[] | number[][] => (rows.length === 1 ? rows[0] : rows);

const START = [7, 11, 4, 2];
const document = (N: number): string => textOf([rescaled(START, N)]);

/** Builders of packed documents that take lengths and padding. */
function packed(name: 'causalDocument' | 'document'): Builder {
  return {
    controls: [LENGTHS, PAD],
    initial: (N) => ({lengths: document(N), padTo: 0}),
    call(values) {
      const rows = rowsOf(String(values.lengths));
      const padding = options({padTo: values.padTo});
      return {mask: masks[name](perBatch(rows), padding.value), code: `${listCode(rows)}${padding.code}`};
    },
    handles: (values) => partHandles(values, 'lengths', 'document'),
  };
}

/** Builders of one length, and numbers that follow it. */
function ofLength(name: 'full' | 'causal'): Builder {
  return {
    controls: [LENGTH, QUERIES],
    initial: (N) => ({length: N, queries: 0}),
    call({length, queries}) {
      const given = options({queryLength: queries});
      return {mask: masks[name](Number(length), given.value), code: `${length}${given.code}`};
    },
  };
}

const slidingWindow: Builder = {
  controls: [
    LENGTH,
    {key: 'window', label: 'Window', kind: 'number', min: 1, scales: true, hint: 'Latest keys that a query sees.'},
    QUERIES,
  ],
  initial: (N) => ({length: N, window: Math.max(1, N >> 3), queries: 0}),
  call({length, window, queries}) {
    const given = options({queryLength: queries});
    const mask = masks.slidingWindow(Number(length), Number(window), given.value);
    return {mask, code: `${length}, ${window}${given.code}`};
  },
  handles: (values, {queryLength: N}) => [edge(values, 'window', 'Window', {min: 1, max: N, sign: 1, N})],
};

const windowBothSides: Builder = {
  controls: [
    LENGTH,
    {key: 'left', label: 'Keys before', kind: 'number', scales: true},
    {key: 'right', label: 'Keys after', kind: 'number', scales: true},
    {key: 'causal', label: 'Causal', kind: 'flag'},
    QUERIES,
  ],
  initial: (N) => ({length: N, left: N >> 3, right: N >> 4, causal: false, queries: 0}),
  call({length, left, right, causal, queries}) {
    const given = options({causal, queryLength: queries});
    const mask = masks.window(Number(length), [Number(left), Number(right)], given.value);
    return {mask, code: `${length}, [${left}, ${right}]${given.code}`};
  },
  handles: (values, {queryLength: N}) => [
    edge(values, 'left', 'Keys before', {min: 0, max: N - 1, sign: 1, N}),
    edge(values, 'right', 'Keys after', {min: 0, max: N - 1, sign: -1, N}),
  ],
};

const sharedQuestion: Builder = {
  controls: [
    {
      key: 'groups',
      label: 'Question and answers',
      kind: 'list',
      hint: 'A line is a question and its answers, all in one row.',
    },
    PAD,
  ],
  initial(N) {
    const [a, b, c, d, e, f, g] = rescaled([6, 5, 4, 4, 2, 2, 1], N);
    return {groups: textOf([[a, b, c], [d, e, f, g]]), padTo: 0}; // prettier-ignore
  },
  call(values) {
    const groups = rowsOf(String(values.groups));
    const padding = options({padTo: values.padTo});
    return {mask: masks.sharedQuestion(groups, padding.value), code: `${groupCode(groups)}${padding.code}`};
  },
  handles: (values) => partHandles(values, 'groups', 'part'),
};

/** Groups are a list of lists, also where there is one. */
const groupCode = (groups: number[][]): string => (groups.length === 1 ? `[${listCode(groups)}]` : listCode(groups));

const globalSlidingWindow: Builder = {
  controls: [
    LENGTH,
    {key: 'before', label: 'Keys before', kind: 'number', scales: true},
    {key: 'after', label: 'Keys after', kind: 'number', scales: true},
    {key: 'globals', label: 'Global tokens', kind: 'number', scales: true},
  ],
  initial: (N) => ({length: N, before: N >> 4, after: N >> 4, globals: N >> 4}),
  call({length, before, after, globals}) {
    const mask = masks.globalSlidingWindow(Number(length), [Number(before), Number(after)], Number(globals));
    return {mask, code: `${length}, [${before}, ${after}], ${globals}`};
  },
  handles: (values, {queryLength: N}) => [
    edge(values, 'before', 'Keys before', {min: 0, max: N - 1, sign: 1, N}),
    edge(values, 'after', 'Keys after', {min: 0, max: N - 1, sign: -1, N}),
    column(values, 'globals', 'Global tokens', N, 0.85),
  ],
};

/** A border between columns, to be dragged along the keys. */
const column = (values: Values, key: string, label: string, N: number, height: number): Handle => ({
  label,
  value: numberOf(values, key),
  min: 0,
  max: N,
  at: [numberOf(values, key), height * N],
  read: (x) => x,
  set: (value) => ({[key]: value}),
});

const causalBlockwise: Builder = {
  controls: [{...LENGTHS, hint: 'Lengths of the blocks; the last one sees all. A line is a row of the batch.'}],
  initial: (N) => ({lengths: textOf([rescaled([6, 8, 5, 5], N)])}),
  call(values) {
    const rows = rowsOf(String(values.lengths));
    return {mask: masks.causalBlockwise(perBatch(rows)), code: listCode(rows)};
  },
  handles: (values) => partHandles(values, 'lengths', 'block'),
};

const prefixLmCausal: Builder = {
  controls: [LENGTH, {key: 'prefix', label: 'Prefix', kind: 'number', scales: true}, QUERIES],
  initial: (N) => ({length: N, prefix: Math.round(N * 0.4), queries: 0}),
  call({length, prefix, queries}) {
    const given = options({queryLength: queries});
    const mask = masks.prefixLmCausal(Number(length), Number(prefix), given.value);
    return {mask, code: `${length}, ${prefix}${given.code}`};
  },
  handles: (values, {queryLength, keyLength: N}) =>
    queryLength === N ? [column(values, 'prefix', 'Prefix', N, numberOf(values, 'prefix') / N / 2)] : [],
};

const prefixLmDocument: Builder = {
  controls: [
    LENGTHS,
    {key: 'prefixes', label: 'Prefixes', kind: 'list', hint: 'One for each document.', scales: true},
    PAD,
  ],
  initial(N) {
    const lengths = rescaled(START, N);
    return {lengths: textOf([lengths]), prefixes: textOf([lengths.map((x) => Math.floor(x * 0.45))]), padTo: 0};
  },
  call(values) {
    const [rows, prefixes] = [rowsOf(String(values.lengths)), rowsOf(String(values.prefixes))];
    const padding = options({padTo: values.padTo});
    const mask = masks.prefixLmDocument(perBatch(rows), perBatch(prefixes), padding.value);
    return {mask, code: `${listCode(rows)}, ${listCode(prefixes)}${padding.code}`};
  },
  handles: (values) => [...partHandles(values, 'lengths', 'document'), ...prefixHandles(values)],
};

const qkSparse: Builder = {
  controls: [
    LENGTH,
    {key: 'spans', label: 'Dropped spans', kind: 'list', hint: 'A line is a span: start, end.', scales: true},
  ],
  initial: (N) => ({length: N, spans: textOf([[Math.round(N * 0.2), Math.round(N * 0.45)], [Math.round(N * 0.65), Math.round(N * 0.9)]])}), // prettier-ignore
  call(values) {
    const spans = rowsOf(String(values.spans));
    return {mask: masks.qkSparse(numberOf(values, 'length'), spans), code: `${values.length}, ${groupCode(spans)}`};
  },
  handles: (values, {keyLength}) => spanHandles(values, keyLength),
};

/** Knuth's multiplicative hash, in the page and in the code that it shows. */
const bucketOf = (i: number, buckets: number): number => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % buckets;

const hashSparse: Builder = {
  controls: [LENGTH, {key: 'buckets', label: 'Buckets', kind: 'number', min: 1}],
  initial: (N) => ({length: N, buckets: 6}),
  call(values) {
    const [length, buckets] = [numberOf(values, 'length'), numberOf(values, 'buckets')];
    const before =
      '// Sort queries and keys by hashOrder(hashes), and the output back.\n' +
      `const hashes = Array.from({length: ${length}}, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % ${buckets});`;
    const hashes = Array.from({length}, (_, i) => bucketOf(i, buckets));
    return {mask: masks.hashSparse(hashes), before, code: 'hashes'};
  },
};

const randomEviction: Builder = {
  controls: [
    LENGTH,
    {key: 'keep', label: 'Keys kept', kind: 'number', min: 1, scales: true},
    {key: 'heads', label: 'Heads', kind: 'number', min: 1},
    {key: 'seed', label: 'Seed', kind: 'number'},
  ],
  initial: (N) => ({length: N, keep: N >> 2, heads: 1, seed: 1}),
  call(values) {
    const {length, keep, heads, seed} = values;
    const given = options({heads: heads === 1 ? 0 : heads, seed});
    return {
      mask: masks.randomEviction(Number(length), Number(keep), given.value),
      code: `${length}, ${keep}${given.code}`,
    };
  },
};

const fromSegmentIds: Builder = {
  controls: [
    {...LENGTHS, label: 'Lengths of the segments', hint: 'Segments of one row.'},
    {key: 'padding', label: 'Padding at the end', kind: 'number', scales: true},
    {key: 'causal', label: 'Causal', kind: 'flag'},
  ],
  initial(N) {
    const padding = N >> 3;
    return {lengths: document(N - padding), padding, causal: false};
  },
  call(values) {
    const lengths = rowsOf(String(values.lengths)).flat();
    const segments = [...lengths.map((length, id) => [length, id]), [numberOf(values, 'padding'), -1]];
    const given = options({causal: values.causal});
    const ids = segments.flatMap(([length, id]) => Array<number>(length).fill(id));
    const pairs = segments.filter(([length]) => length > 0).map((pair) => `[${pair.join(', ')}]`);
    const before = `const ids = [${pairs.join(', ')}].flatMap(([length, id]) => Array(length).fill(id));`;
    return {mask: masks.fromSegmentIds(ids, given.value), before, code: `ids${given.code}`};
  },
  handles: (values) => partHandles(values, 'lengths', 'segment'),
};

/** A summary of 4 tokens that sees two documents, which see themselves only. */
const MATRIX = Array.from({length: 16}, (_, r) =>
  Array.from({length: 16}, (__, j) => Number(r < 4 || (r < 10 ? j >= 4 && j < 10 : j >= 10))).join(' '),
).join('\n');

const fromDense: Builder = {
  controls: [
    {key: 'matrix', label: 'Matrix of 0 and 1', kind: 'matrix', hint: 'A line is a query: 1 where it sees the key.'},
  ],
  initial: () => ({matrix: MATRIX}),
  fixedLength: true,
  call(values) {
    const dense = rowsOf(String(values.matrix)).map((row) =>
      row.length === 1 ? Array.from(String(row[0]), Number) : row,
    );
    return {mask: masks.fromDense(dense), code: groupCode(dense)};
  },
};

const fromStartEndRowIndices: Builder = {
  controls: [
    {
      key: 'indices',
      label: 'Vectors',
      kind: 'matrix',
      hint: 'A line is a vector: LTS, or LTS and LTE or UTE, or all four.',
    },
    {key: 'causal', label: 'Causal', kind: 'flag'},
  ],
  initial: () => ({indices: '5 5 5 5 5 12 12 12 12 12 12 12 16 16 16 16', causal: true}),
  fixedLength: true,
  call(values) {
    const vectors = rowsOf(String(values.indices));
    const indices = vectors[0].map((_, j) => vectors.map((vector) => vector[j]));
    const causal = values.causal === true;
    const code = `[[[${indices.map((bounds) => `[${bounds.join(', ')}]`).join(', ')}]]], {causal: ${causal}}`;
    return {mask: masks.fromStartEndRowIndices([[indices]], {causal}), code};
  },
};

export const builders: Record<BuilderName, Builder> = {
  full: ofLength('full'),
  causal: ofLength('causal'),
  slidingWindow,
  causalDocument: packed('causalDocument'),
  document: packed('document'),
  sharedQuestion,
  globalSlidingWindow,
  causalBlockwise,
  prefixLmCausal,
  prefixLmDocument,
  qkSparse,
  hashSparse,
  randomEviction,
  window: windowBothSides,
  fromSegmentIds,
  fromDense,
  fromStartEndRowIndices,
};

/** The program that makes the mask of a call and attends under it. */
export function programOf(name: BuilderName, {before, code}: Call): string {
  return [
    "import {flashMaskAttention, masks} from 'tfjs-flashmask';",
    '',
    ...(before === undefined ? [] : [before]),
    `const mask = masks.${name}(${code});`,
    'const out = flashMaskAttention(q, k, v, mask);',
  ].join('\n');
}

/** The tokens of a row that the values say, before the mask is built. */
export function lengthOf({length, lengths, groups}: Values): number {
  if (length !== undefined) return Number(length);
  if (groups !== undefined) return sum(rowsOf(String(groups)).flat());
  return Math.max(0, ...rowsOf(String(lengths ?? '')).map(sum));
}
