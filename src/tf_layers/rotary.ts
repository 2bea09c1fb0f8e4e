/** @file Rotary position embeddings of a layer: tables by position, kept for all layers of the same head size. */
import {type Rank, type Tensor2D, engine, keep, reshape, slice, tensor2d, tile} from '@tensorflow/tfjs-core';
import type {RotaryTables} from '../layers/rotate.js';

interface Kept {
  key: string;
  backend: unknown;
  rows: number;
  tables: [cosines: Tensor2D, sines: Tensor2D];
}

/** Most pairs of tables kept at a time. Each holds rows · head size numbers twice. */
const MOST_KEPT = 4;
/** Least recently used first. */
const kept: Kept[] = [];

/**
 * Tables for the tokens of a call, `[batch · length, 1, headSize]`.
 *
 * @param first The position of the first token of each row.
 */
export function rotaryTables(
  batch: number,
  length: number,
  first: number,
  headSize: number,
  maxWavelength: number,
): RotaryTables {
  const all = tablesUpTo(first + length, headSize, maxWavelength);
  const [cosines, sines] = all.map((table) => {
    const rows = slice(table, [first, 0], [length, headSize]);
    return reshape<Rank.R3>(tile(rows, [batch, 1]), [batch * length, 1, headSize]);
  });
  return {cosines, sines};
}

/** Tables for all positions below `length`, and for more, so that a longer text seldom needs new ones. */
function tablesUpTo(length: number, headSize: number, maxWavelength: number): Kept['tables'] {
  const [key, {backend}] = [`${headSize} ${maxWavelength}`, engine()];
  const at = kept.findIndex((entry) => entry.key === key && entry.backend === backend);
  let entry = at >= 0 ? kept.splice(at, 1)[0] : undefined;
  if (entry === undefined || entry.rows < length) {
    entry?.tables.forEach((table) => table.dispose());
    const rows = 2 ** Math.ceil(Math.log2(length));
    entry = {key, backend, rows, tables: makeTables(rows, headSize, maxWavelength)};
  }
  kept.push(entry);
  if (kept.length > MOST_KEPT) kept.shift()!.tables.forEach((table) => table.dispose());
  return entry.tables;
}

/** On the host: devices compute sines of large angles less exactly. */
function makeTables(rows: number, headSize: number, maxWavelength: number): Kept['tables'] {
  const half = headSize / 2;
  const cosines = new Float32Array(rows * headSize);
  const sines = new Float32Array(rows * headSize);
  for (let at = 0; at < cosines.length; at++) {
    const [position, channel] = [Math.floor(at / headSize), at % headSize];
    const angle = position * maxWavelength ** (-(channel % half) / half);
    cosines[at] = Math.cos(angle);
    sines[at] = Math.sin(angle) * (channel < half ? -1 : 1);
  }
  return [cosines, sines].map((data) => keep(tensor2d(data, [rows, headSize]))) as Kept['tables'];
}
