/**
 * @file The shared vectors of test/vectors/: scripts/vectors.ts writes them and the tests of every language read them.
 */
import {readFileSync} from 'node:fs';
import type {TileKind} from '../../src/mask/bounds/classify.js';

/** Each file's cases. */
export interface Vectors {
  /** A column's bounds, and LTS, LTE, UTS, UTE. `masked` has a digit per row. */
  intervals: {n: number; causal: boolean; bounds: number[]; intervals: number[]; masked: string};
  /**
   * A tile of rows [r0, r1) and columns [c0, c1), and its entry of the bounds map: smallest and largest of the four
   * bounds.
   */
  classify: {
    causal: boolean;
    n: number;
    Sq: number;
    Sk: number;
    r0: number;
    r1: number;
    c0: number;
    c1: number;
    map: number[];
    kind: TileKind;
  };
  philox: {counter: number[]; key: number[]; words: number[]};
  /** `kept` has a digit for each of the first 32 keys. */
  dropout: {rate: number; seed: number; threshold: number; batchHead: number; row: number; kept: string};
  mask_head: {maskB: number; Hm: number; H: number; Hkv: number; b: number; h: number; maskHead: number};
}

export function vectors<Name extends keyof Vectors>(name: Name): Vectors[Name][] {
  return JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), 'utf8')) as Vectors[Name][];
}
