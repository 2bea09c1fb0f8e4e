/**
 * @file Trials of influence: a value, its places in the inputs of one batch row, and what it may change. All trials of
 * a case run as one batch, together with a clean row.
 */
import * as masks from '../../src/mask/builders/index.js';
import {maskTable} from './mask_table.js';
import {type Case, type Prepared, boundsCase, columnsCase, entryCase, flashMaskCase, forms, prepare} from './cases.js';
import type {ActualResult} from './compare.js';
import {
  HUGE,
  type InputName,
  type Marks,
  NOT_FINITE,
  type Part,
  type Place,
  Visibility,
  channelsOf,
  inputNames,
  placesOf,
  put,
  reachOf,
  reachOfPart,
  rowOf,
  rowsAndHeads,
} from './influence.js';
import {type AttentionCall, forwardOracle, resultNames} from './oracle.js';
import {type Random, choose, integer, seeded} from './random.js';

/** A value, its places, and what it may change. */
export interface Trial {
  name: string;
  value: number;
  places: Place[];
  reach: Marks;
  /** Whether there is a single place: then NaN must spread to everything that `reach` marks. */
  single: boolean;
}

/** Heads: ungrouped, grouped, and one key head; masks with one head, one per key head, or one per query head. */
const headForms = [
  {H: 2, Hkv: 2, Hm: 1},
  {H: 4, Hkv: 2, Hm: 2},
  {H: 2, Hkv: 1, Hm: 2},
  {H: 2, Hkv: 2, Hm: 2},
];

const layouts = ['bshd', 'bhsd'] as const;

/** D and Dv are 16 in all, so that few shaders are compiled. */
export const influenceCases: readonly Case[] = [
  ...maskTable.map((entry, i) => entryCase('mask', entry, [67, 65, 33][i % 3], {H: 2, Hkv: 2 - (i % 2)})),
  ...forms.flatMap((form, f) =>
    headForms.map(({H, Hkv, Hm}, i) => {
      const name = `causal ${form.causal}, n ${form.n}, H ${H}, Hkv ${Hkv}, mask heads ${Hm}`;
      const style = i % 2 === 0 ? 'blocky' : 'any';
      return boundsCase('form', name, form, {Sq: 43, Sk: 59, H, Hkv, Hm, style, layout: layouts[(f + i) % 2]});
    }),
  ),
  ...[31, 32, 33, 63, 64, 65, 67, 131].flatMap((S) => {
    const documents = [Math.ceil(S / 3), S - Math.ceil(S / 3)];
    const padded = masks.causalDocument(documents, {padTo: S + 5});
    return [
      flashMaskCase(`${S} tokens of causal documents, padding`, padded, {}, 'border'),
      flashMaskCase(`${S} tokens of documents`, masks.document(documents), {H: 2, Hkv: 1}, 'border'),
    ];
  }),
  ...[1, 3].map((Sq) =>
    columnsCase('cache', `${Sq} queries, 20 of 64 keys filled`, forms[3], (j) => (j < 20 ? [0, 0, 0, 0] : [0, Sq, 0, 0]), {
      Sq, Sk: 64, H: 4, Hkv: 2,
    }),
  ),
  columnsCase('cache', '5 queries, of which 2 see no key, 257 keys', forms[3], (j) => [1, 2, 3, j < 200 ? 4 : 5], {
    Sq: 5, Sk: 257, H: 4, Hkv: 2, layout: 'bhsd',
  }),
  flashMaskCase('dropout', masks.causalDocument([20, 22], {padTo: 45}), {dropout: 0.3, seed: 5}, 'option'),
]; // prettier-ignore

/** How the trials of a case are judged. */
export interface Judging {
  /**
   * With 16-bit products and one scale per head, a huge number costs the rest of its head its precision, so huge
   * numbers are put in unseen places only.
   */
  coarse: boolean;
  /** Whether other elements must keep their bits; if not, they need only stay finite. */
  exactly: boolean;
}

/** Runs all trials of a case with `attend`; returns descriptions of the wrong elements. */
export async function wrongElements(
  c: Case,
  attend: (prepared: Prepared) => Promise<ActualResult>,
  {coarse, exactly}: Judging,
): Promise<string[]> {
  const prepared = prepare(c);
  const visibility = new Visibility(prepared.call);
  const trials = trialsOf(c, prepared.call, visibility, coarse);
  const batch = repeat(prepared, trials.length + 1);
  // One clean row in the batch is enough, unless dropout differs between rows or a head's scale depends on the numbers
  // that a trial replaces.
  trials.forEach(({places}, b) => put(batch.call, b, places, 0));
  const clean = c.dropout > 0 || coarse ? await attend(batch) : null;
  trials.forEach(({places, value}, b) => put(batch.call, b, places, value));
  const actual = await attend(batch);
  const row = (b: number) => rowOf(prepared.call, actual, b);
  const cleanRow = (b: number) => (clean ? rowOf(prepared.call, clean, b) : row(trials.length));
  return trials.flatMap((trial, b) => [
    ...wrongOf(prepared.call, trial, cleanRow(b), row(b), exactly),
    ...seenOf(prepared.call, visibility, row(b)).map((what) => `${trial.name}: ${what}`),
  ]);
}

/** The same call in B batch rows. */
function repeat({case: c, call, mask}: Prepared, B: number): Prepared {
  const copies = (x: ArrayLike<number>) => {
    const all = new Float32Array(B * x.length);
    for (let b = 0; b < B; b++) all.set(x, b * x.length);
    return all;
  };
  const {q, k, v, dOut, dLse, visible} = call;
  const inputs = {q: copies(q), k: copies(k), v: copies(v), dOut: copies(dOut), dLse: copies(dLse)};
  return {case: {...c, B}, call: {...call, B, ...inputs, visible: (_b, h, r, j) => visible(0, h, r, j)}, mask};
}

/** The trials of a case; its name is the seed. */
export function trialsOf(c: Case, call: AttentionCall, visibility: Visibility, coarse: boolean): Trial[] {
  const random = seeded(`influence: ${c.group}: ${c.name}`);
  const values = coarse ? NOT_FINITE : [...NOT_FINITE, choose(random, HUGE)];
  const make = (kind: string, value: number, places: Place[], reach: Marks, single = false): Trial => {
    return {name: `${value} in ${kind}`, value, places, reach, single};
  };
  const trials: Trial[] = [];

  const unseen = heads(call).flatMap((keyHead) => placesOf(call, visibility.unseen(keyHead)));
  if (unseen.length > 0) {
    const nothing = reachOfPart(call, visibility);
    trials.push(...[...NOT_FINITE, ...HUGE].map((value) => make('unseen places', value, unseen, nothing)));
  }

  const parts = heads(call).flatMap((keyHead) => ofSeveral(visibility.parts(keyHead)));
  if (parts.length > 0) {
    for (const value of values) {
      const part = choose(random, parts);
      trials.push(make('a part', value, placesOf(call, part), reachOfPart(call, visibility, part)));
    }
  }

  for (const input of inputNames.filter((name) => c.lse || name !== 'dLse')) {
    for (const value of [NaN, choose(random, values)]) {
      const place = drawPlace(random, call, input);
      trials.push(make(input, value, [place], reachOf(call, visibility, place), true));
    }
  }
  return trials;
}

function heads({Hkv}: AttentionCall): number[] {
  return Array.from({length: Hkv}, (_, keyHead) => keyHead);
}

function ofSeveral(parts: Part[]): Part[] {
  return parts.length > 1 ? parts : [];
}

function drawPlace(random: Random, call: AttentionCall, input: InputName): Place {
  const [rows, heads] = rowsAndHeads(call, input);
  const channel = integer(random, 0, channelsOf(call, input));
  return {input, head: integer(random, 0, heads), row: integer(random, 0, rows), channel};
}

/** Describes the wrong elements of a batch row. 0 and -0 count as equal. */
function wrongOf(
  call: AttentionCall,
  {name, value, places, reach, single}: Trial,
  clean: ActualResult,
  actual: ActualResult,
  exactly: boolean,
): string[] {
  const notFinite = single ? notFiniteOut(call, places, value) : null;
  const allNaN = single && Number.isNaN(value) && call.dropout === 0;
  return resultNames.flatMap((result) => {
    const wrong: string[] = [];
    const [before, after, reached] = [clean[result]!, actual[result] ?? [], reach[result]];
    for (let i = 0; i < after.length; i++) {
      let must = '';
      if (reached[i] === 0) {
        if (!(after[i] === before[i] || (!exactly && Number.isFinite(after[i])))) must = 'not change';
      } else if (allNaN) {
        if (!Number.isNaN(after[i])) must = 'be NaN';
      } else if (result === 'out' && notFinite?.[i] && Number.isFinite(after[i])) {
        must = 'not be finite';
      }
      if (must) wrong.push(`${name}: ${result}[${i}] must ${must}, got ${after[i]}, clean ${before[i]}`);
    }
    return wrong;
  });
}

/** Describes results of rows that see no key, and of keys that no row sees, other than 0 or, for lse, -Infinity. */
function seenOf(call: AttentionCall, visibility: Visibility, actual: ActualResult): string[] {
  return heads(call).flatMap((keyHead) => {
    const unseen = reachOfPart(call, visibility, visibility.unseen(keyHead));
    return resultNames.flatMap((result) => {
      const [values, none] = [actual[result] ?? [], result === 'lse' ? -Infinity : 0];
      const wrong: string[] = [];
      for (let i = 0; i < values.length; i++) {
        if (unseen[result][i] === 1 && values[i] !== none) wrong.push(`${result}[${i}] is ${values[i]}, and unseen`);
      }
      return wrong;
    });
  });
}

/** Where an infinity makes the output of dense attention infinite or NaN. */
function notFiniteOut(call: AttentionCall, places: Place[], value: number): boolean[] | null {
  if (Number.isFinite(value)) return null;
  const {q, k, v, dOut, dLse} = call;
  const copy = {...call, q: Float32Array.from(q), k: Float32Array.from(k), v: Float32Array.from(v), dOut, dLse};
  if (places[0].input === 'dOut' || places[0].input === 'dLse') return null;
  put(copy, 0, places, value);
  return Array.from(forwardOracle(copy).out, (x) => !Number.isFinite(x));
}
