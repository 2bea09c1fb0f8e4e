/** @file Builders for rows packed with documents, blocks or answers. */
import {
  type PackedOptions,
  type Packed,
  type PerBatch,
  listOf,
  pack,
  readLengths,
  readPacked,
  sum,
} from './arguments.js';
import {allocateBounds} from './build.js';
import {describe, fail} from '../../call/errors.js';
import {FlashMask, type FlashMaskFields} from '../flash_mask.js';
import {isArray} from '../../call/values.js';

/** The bounds of key column j of a span. */
type SpanColumn = (span: {start: number; end: number; index: number; batch: number}, j: number) => number[];

/** Builds a mask from packed rows. Nothing sees padding. Padding sees nothing if no column is visible past its span. */
function buildPacked(
  form: Pick<FlashMaskFields, 'causal' | 'vectors'> & {name: string},
  {rows, total}: Packed,
  column: SpanColumn,
): FlashMask {
  const {name, vectors} = form;
  const bounds = allocateBounds(`masks.${name}`, [rows.length, 1, total, vectors]);
  // [0, total) masks a whole column in every form: a start of 0, and an end after all rows.
  const hidden = [0, total].slice(0, vectors);
  rows.forEach(({spans, used}, batch) => {
    const at = (j: number): number => (batch * total + j) * vectors;
    spans.forEach((span, index) => {
      const described = {...span, index, batch};
      for (let j = span.start; j < span.end; j++) bounds.set(column(described, j), at(j));
    });
    for (let j = used; j < total; j++) bounds.set(hidden, at(j));
  });
  return new FlashMask({...form, queryLength: total, keyLength: total, batch: rows.length, bounds});
}

/**
 * Documents packed in a row: every token sees its own document, up to itself.
 *
 * @param lengths Lengths of the documents of a row, or of each row of a batch. For plain right padding give one
 *   document per row, and `padTo`.
 * @param options `total`, the tokens of a row; or `padTo`, the length that rows are padded to.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.causalDocument([3, 5]);
 * masks.causalDocument([[3, 5], [8]]); // a batch of two rows
 * masks.causalDocument([[3, 4], [8]], {padTo: 8}); // one token of padding in the first
 */
export function causalDocument(lengths: PerBatch, options?: PackedOptions): FlashMask {
  const packed = readPacked('masks.causalDocument', lengths, options);
  return buildPacked({name: 'causalDocument', causal: true, vectors: 1}, packed, ({end}) => [end]);
}

/**
 * Documents packed in a row: every token sees the whole of its own document.
 *
 * @param lengths Lengths of the documents of a row, or of each row of a batch.
 * @param options `total`, the tokens of a row; or `padTo`, the length that rows are padded to.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.document([3, 5]);
 * masks.document([[700], [512]], {padTo: 1024}); // a right-padded batch for an encoder
 */
export function document(lengths: PerBatch, options?: PackedOptions): FlashMask {
  const packed = readPacked('masks.document', lengths, options);
  return buildPacked({name: 'document', causal: false, vectors: 2}, packed, ({start, end}) => [end, start]);
}

/**
 * Blocks packed in a row, for example in-context examples: every token sees its own block up to itself, and the tokens
 * of the last block (the test example) see all blocks up to themselves.
 *
 * @param lengths Lengths of the blocks of a row, or of each row of a batch.
 * @param options `total`, the tokens of a row.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.causalBlockwise([100, 120, 80]); // two examples and the test example
 */
export function causalBlockwise(lengths: PerBatch, options?: Pick<PackedOptions, 'total'>): FlashMask {
  const who = 'masks.causalBlockwise';
  if ((options as PackedOptions | undefined)?.padTo !== undefined) {
    fail(
      who,
      'rows cannot be padded',
      'padTo',
      'Lengthen the last block: what follows the last token is seen by none of them.',
    );
  }
  const packed = readPacked(who, lengths, options);
  const lastStart = packed.rows.map(({spans}) => spans[spans.length - 1].start);
  // Empty intervals also end where the last block starts, so that a tile of mixed columns is known to be full below.
  return buildPacked({name: 'causalBlockwise', causal: true, vectors: 2}, packed, ({end, batch}) => [
    Math.min(end, lastStart[batch]),
    lastStart[batch],
  ]);
}

/**
 * Documents packed in a row. Each starts with a prefix that its whole document sees; causal tokens follow.
 *
 * @param lengths Lengths of the documents of a row, or of each row of a batch; prefixes included.
 * @param prefixes Tokens of each document's prefix, from 0 to its length; shaped like `lengths`.
 * @param options `total`, the tokens of a row; or `padTo`, the length that rows are padded to.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.prefixLmDocument([300, 500], [100, 50]); // two documents with prefixes of 100 and 50 tokens
 */
export function prefixLmDocument(lengths: PerBatch, prefixes: PerBatch, options?: PackedOptions): FlashMask {
  const who = 'masks.prefixLmDocument';
  const packed = readPacked(who, lengths, options);
  const read = readLengths(who, 'prefixes', prefixes);
  if (read.length !== packed.rows.length) {
    const rule = `prefixes must have ${packed.rows.length} rows, as lengths`;
    fail(who, rule, `${read.length}`, 'Pass a row for each of the batch.');
  }
  packed.rows.forEach(({spans}, b) => {
    if (read[b].length === spans.length) return;
    const got = `${read[b].length} in row ${b}`;
    fail(who, `prefixes must have ${spans.length} numbers, one for each length`, got, 'Pass one a document.');
  });
  packed.rows.forEach(({spans}, b) =>
    spans.forEach(({start, end}, i) => {
      if (read[b][i] <= end - start) return;
      fail(
        who,
        `prefix ${i} must be at most its document's length, ${end - start}`,
        `${read[b][i]}`,
        'Count it into the length.',
      );
    }),
  );
  return buildPacked({name: 'prefixLmDocument', causal: false, vectors: 2}, packed, ({start, end, index, batch}, j) => [
    end,
    j - start < read[batch][index] ? start : j,
  ]);
}

/** Lengths of a question and its answers. */
export type Group = ArrayLike<number>;

/**
 * Questions with several answers each (as for reward models and DPO): every token sees its question and its own answer
 * up to itself, and no other answer.
 *
 * @param groups [question, answer, answer, ...] lengths of one group; or a list of groups for one row; or such a list
 *   for each row of a batch.
 * @param options `total`, the tokens of a row; or `padTo`, the length that rows are padded to.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.sharedQuestion([100, 30, 40]); // a prompt of 100 tokens, then the chosen and the rejected answer
 * masks.sharedQuestion([[100, 30, 40], [60, 20, 20, 20]]); // two prompts in one row
 */
export function sharedQuestion(
  groups: Group | readonly Group[] | readonly (readonly Group[])[],
  options?: PackedOptions,
): FlashMask {
  const who = 'masks.sharedQuestion';
  const rows = readGroups(who, groups);
  // Each row as the flat list of its questions and answers, and for each of these the end of the rows that see it.
  const packed = pack(
    who,
    'lengths',
    rows.map((row) => row.flat()),
    options,
  );
  const ends = rows.map((row) => {
    let used = 0;
    return row.flatMap((group) => {
      const groupEnd = used + sum(group);
      return group.map((length, part) => ((used += length), part === 0 ? groupEnd : used));
    });
  });
  return buildPacked({name: 'sharedQuestion', causal: true, vectors: 1}, packed, ({index, batch}) => [
    ends[batch][index],
  ]);
}

function readGroups(who: string, groups: unknown): number[][][] {
  const remedy = 'Pass [question, answer, ...], a list of these for a row, or a list of rows.';
  const list = listOf(who, 'groups', groups, remedy);
  const depth = depthOf(list[0]);
  if (depth > 2 || !list.every((group) => depthOf(group) === depth)) {
    fail(who, 'groups must be nested equally deep', describe(groups), remedy);
  }
  const rows: unknown[] = depth === 2 ? list : [depth === 1 ? list : [list]];
  return rows.map((row) => readLengths(who, 'groups', row));
}

/** Nesting depth of a value, by its first elements; 3 means 3 or more. */
function depthOf(value: unknown): number {
  let depth = 0;
  for (let at = value; isArray(at) && depth < 3; at = at[0]) depth++;
  return depth;
}
