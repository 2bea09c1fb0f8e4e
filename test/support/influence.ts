/**
 * @file What a number of the inputs may influence: the elements of the results that visible pairs connect with it. They
 * follow from the definition of attention and the `visible` rule alone. No other element may change by a bit, whatever
 * the number is.
 */
import type {ActualResult} from './compare.js';
import {type AttentionCall, type AttentionResult, offsetOf, resultNames} from './oracle.js';

export type InputName = 'q' | 'k' | 'v' | 'dOut' | 'dLse';
/** Numbers whose products exceed the range of float32. */
export const HUGE = [3.4028234e38, -3.4028234e38, 1e38];
export const NOT_FINITE = [NaN, Infinity, -Infinity];

export const inputNames = ['q', 'k', 'v', 'dOut', 'dLse'] as const;

/** An element of an input in batch row 0. `dLse` has one channel. */
export interface Place {
  input: InputName;
  /** A query head for q, dOut and dLse; a key head for k and v. */
  head: number;
  /** A query row, or a key. */
  row: number;
  channel: number;
}

/** Query rows and keys of one key head, each row with its query head. */
export interface Part {
  keyHead: number;
  rows: [head: number, row: number][];
  keys: number[];
}

/** For each element of the results, 1 if it may change. */
export type Marks = Record<keyof AttentionResult, Uint8Array>;

/** The number of channels of an input. */
export function channelsOf(call: AttentionCall, input: InputName): number {
  if (input === 'dLse') return 1;
  return input === 'q' || input === 'k' ? call.D : call.Dv;
}

/** Whether an input has a row per query; otherwise it has one per key. */
function ofQueries(input: InputName): boolean {
  return input !== 'k' && input !== 'v';
}

/** The numbers of rows and heads of an input. */
export function rowsAndHeads(call: AttentionCall, input: InputName): [rows: number, heads: number] {
  return ofQueries(input) ? [call.Sq, call.H] : [call.Sk, call.Hkv];
}

/** Where a place lies in its tensor. */
function indexOf(call: AttentionCall, {input, head, row, channel}: Place): number {
  if (input === 'dLse') return head * call.Sq + row;
  return offsetOf(call.layout, [...rowsAndHeads(call, input), channelsOf(call, input)], 0, row, head) + channel;
}

/** Puts a value into places of batch row b. The inputs must be the call's own. */
export function put(call: AttentionCall, b: number, places: Place[], value: number): void {
  for (const place of places) {
    const to = call[place.input] as Float32Array;
    to[(b * to.length) / call.B + indexOf(call, place)] = value;
  }
}

/** Batch row b of the results. */
export function rowOf({H, Hkv, Sq, Sk, D, Dv}: AttentionCall, results: ActualResult, b: number): ActualResult {
  const sizes = {out: H * Sq * Dv, lse: H * Sq, dq: H * Sq * D, dk: Hkv * Sk * D, dv: Hkv * Sk * Dv};
  const row: ActualResult = {};
  for (const name of resultNames) {
    const at = b * sizes[name];
    if (results[name]) row[name] = (results[name] as Float32Array).subarray(at, at + sizes[name]);
  }
  return row;
}

/** All places of a part, in every input. */
export function placesOf(call: AttentionCall, part: Part): Place[] {
  return inputNames.flatMap((input) => {
    const rows = ofQueries(input) ? part.rows : part.keys.map((j): [number, number] => [part.keyHead, j]);
    const channels = Array.from({length: channelsOf(call, input)}, (_, channel) => channel);
    return rows.flatMap(([head, row]) => channels.map((channel) => ({input, head, row, channel})));
  });
}

/** The visible pairs of batch row 0. */
export class Visibility {
  private readonly group: number;
  /** Keys seen, by query head and row. */
  private readonly keys: number[][];
  /** Rows that see a key, by key head and key. */
  private readonly rows: [head: number, row: number][][];

  constructor(private readonly call: AttentionCall) {
    const {H, Hkv, Sq, Sk, visible} = call;
    this.group = H / Hkv;
    this.keys = Array.from({length: H * Sq}, () => []);
    this.rows = Array.from({length: Hkv * Sk}, () => []);
    for (let head = 0; head < H; head++) {
      for (let row = 0; row < Sq; row++) {
        for (let j = 0; j < Sk; j++) {
          if (!visible(0, head, row, j)) continue;
          this.keys[head * Sq + row].push(j);
          this.rows[this.keyHeadOf(head) * Sk + j].push([head, row]);
        }
      }
    }
  }

  keyHeadOf(head: number): number {
    return Math.floor(head / this.group);
  }

  /** The keys that a row sees. */
  keysOf(head: number, row: number): number[] {
    return this.keys[head * this.call.Sq + row];
  }

  /** The rows, of all query heads of a key head, that see a key. */
  rowsOf(keyHead: number, key: number): [head: number, row: number][] {
    return this.rows[keyHead * this.call.Sk + key];
  }

  private allRows(keyHead: number): [head: number, row: number][] {
    const heads = Array.from({length: this.group}, (_, g) => keyHead * this.group + g);
    return heads.flatMap((head) => Array.from({length: this.call.Sq}, (_, row): [number, number] => [head, row]));
  }

  /** Rows that see no key and keys that no row sees. */
  unseen(keyHead: number): Part {
    const keys = Array.from({length: this.call.Sk}, (_, j) => j);
    return {
      keyHead,
      rows: this.allRows(keyHead).filter(([head, row]) => this.keysOf(head, row).length === 0),
      keys: keys.filter((j) => this.rowsOf(keyHead, j).length === 0),
    };
  }

  /**
   * The connected parts of a key head's rows and keys: two of them are in the same part if a path of visible pairs
   * connects them.
   */
  parts(keyHead: number): Part[] {
    const partOfKey = new Map<number, Part>();
    const parts = new Set<Part>();
    for (const [head, row] of this.allRows(keyHead)) {
      const keys = this.keysOf(head, row);
      if (keys.length === 0) continue;
      const joined: Part = {keyHead, rows: [[head, row]], keys: []};
      for (const part of new Set(keys.map((j) => partOfKey.get(j)))) {
        if (part === undefined) continue;
        joined.rows.push(...part.rows);
        joined.keys.push(...part.keys);
        parts.delete(part);
      }
      joined.keys = [...new Set([...joined.keys, ...keys])];
      joined.keys.forEach((j) => partOfKey.set(j, joined));
      parts.add(joined);
    }
    return [...parts];
  }
}

/** Marks elements of the results by row, key and channel. */
class Marker {
  readonly marks: Marks;

  constructor(
    private readonly call: AttentionCall,
    private readonly visibility: Visibility,
  ) {
    const {H, Hkv, Sq, Sk, D, Dv} = call;
    const [out, lse, dq] = [H * Sq * Dv, H * Sq, H * Sq * D].map((size) => new Uint8Array(size));
    const [dk, dv] = [Hkv * Sk * D, Hkv * Sk * Dv].map((size) => new Uint8Array(size));
    this.marks = {out, lse, dq, dk, dv};
  }

  /** All channels, or one. */
  private mark(name: 'out' | 'dq' | 'dk' | 'dv', head: number, row: number, channel?: number): void {
    const {call} = this;
    const size = ({out: call.Dv, dq: call.D, dk: call.D, dv: call.Dv} as const)[name];
    const shape: [number, number] = name === 'out' || name === 'dq' ? [call.Sq, call.H] : [call.Sk, call.Hkv];
    const at = offsetOf(call.layout, [...shape, size], 0, row, head);
    if (channel === undefined) this.marks[name].fill(1, at, at + size);
    else this.marks[name][at + channel] = 1;
  }

  out(head: number, row: number, channel?: number): void {
    this.mark('out', head, row, channel);
  }

  lse(head: number, row: number): void {
    this.marks.lse[head * this.call.Sq + row] = 1;
  }

  /** dv of the keys that a row sees. */
  dv(head: number, row: number, channel?: number): void {
    const keyHead = this.visibility.keyHeadOf(head);
    for (const j of this.visibility.keysOf(head, row)) this.mark('dv', keyHead, j, channel);
  }

  /** The gradients of a row's scores: dq of the row, and dk of the keys that it sees. */
  scores(head: number, row: number): void {
    const keyHead = this.visibility.keyHeadOf(head);
    this.mark('dq', head, row);
    for (const j of this.visibility.keysOf(head, row)) this.mark('dk', keyHead, j);
  }

  /** Everything that a row's weights influence. */
  weights(head: number, row: number): void {
    this.out(head, row);
    this.lse(head, row);
    this.dv(head, row);
    this.scores(head, row);
  }

  part({keyHead, rows, keys}: Part): void {
    for (const [head, row] of rows) {
      this.out(head, row);
      this.lse(head, row);
      this.mark('dq', head, row);
    }
    for (const j of keys) {
      this.mark('dk', keyHead, j);
      this.mark('dv', keyHead, j);
    }
  }
}

/** What a single number may change. A NaN turns exactly these elements into NaN. */
export function reachOf(call: AttentionCall, visibility: Visibility, {input, head, row, channel}: Place): Marks {
  const marker = new Marker(call, visibility);
  if (ofQueries(input)) {
    if (visibility.keysOf(head, row).length === 0) return marker.marks;
    if (input === 'q') marker.weights(head, row);
    else marker.scores(head, row);
    if (input === 'dOut') marker.dv(head, row, channel);
    return marker.marks;
  }
  for (const [h, r] of visibility.rowsOf(head, row)) {
    if (input === 'k') {
      marker.weights(h, r);
    } else {
      marker.out(h, r, channel);
      marker.scores(h, r);
    }
  }
  return marker.marks;
}

/** What all numbers of a connected part may change together; nothing without a part. */
export function reachOfPart(call: AttentionCall, visibility: Visibility, part?: Part): Marks {
  const marker = new Marker(call, visibility);
  if (part) marker.part(part);
  return marker.marks;
}
