/**
 * @file Gathers rows of tensors, with a gradient that is a gather too. tfjs's own is a scattered sum, whose order, and
 * so whose roundings, change from run to run on GPUs.
 */
import {
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  concat,
  customGrad,
  gatherND,
  reshape,
  sum,
  tensor2d,
  tidy,
  transpose,
  zeros,
} from '@tensorflow/tfjs-core';
import {remember} from '../../call/remember.js';

/** `x[rows]`, `[rows.length, C]`, of `x [R, C]`. Rows may repeat. Differentiable to any order. */
function gatherRows(x: Tensor2D, rows: Int32Array): Tensor2D {
  const gather = (): Tensor2D => tidy(() => gatherND(x, tensor2d(rows, [rows.length, 1], 'int32')) as Tensor2D);
  if (x.dtype !== 'float32') return gather();
  const gradFunc = (dy: Tensor): Tensor => tidy(() => addRows(dy as Tensor2D, rows, x.shape[0]));
  return customGrad(() => ({value: gather(), gradFunc}))(x) as Tensor2D;
}

/** The gradient of `gatherRows`: each of `count` rows is the sum of those rows of `dy` that were copied from it. */
function addRows(dy: Tensor2D, rows: Int32Array, count: number): Tensor2D {
  const {most, places} = remember(copiesOf, rows, () => findCopies(rows, count));
  const channels = dy.shape[1];
  const all = gatherRows(concat([dy, zeros([1, channels]) as Tensor2D]), places);
  return most === 1 ? all : sum(reshape(all, [count, most, channels]), 1);
}

/** Where each row was copied to. */
interface Copies {
  /** The most copies of a row. */
  most: number;
  /** `[rows, most]`; where a row has fewer copies, the number of all copies. */
  places: Int32Array;
}

/** Of the same rows, which a plan gives to all layers. */
const copiesOf = new WeakMap<Int32Array, Copies>();

function findCopies(rows: Int32Array, count: number): Copies {
  const copies = new Int32Array(count);
  for (const row of rows) copies[row]++;
  const most = copies.reduce((a, b) => Math.max(a, b), 1);
  // The row of zeros after those of dy.
  const places = new Int32Array(count * most).fill(rows.length);
  copies.fill(0);
  rows.forEach((row, i) => (places[row * most + copies[row]++] = i));
  return {most, places};
}

/** Sizes of a tensor around an axis: of the axes before it, of itself, and of those after it. */
type Sizes = [before: number, length: number, after: number];

function around({shape}: Tensor, axis: number): Sizes {
  const product = (sizes: number[]): number => sizes.reduce((a, b) => a * b, 1);
  return [product(shape.slice(0, axis)), shape[axis], product(shape.slice(axis + 1))];
}

/** The shape of `x` with another length of an axis. */
function withLength({shape}: Tensor, axis: number, length: number): number[] {
  return shape.map((size, i) => (i === axis ? length : size));
}

/** Rows of `x` along an axis, which stays in its place. */
export function gatherAlong(x: Tensor, rows: Int32Array, axis: number): Tensor {
  const sizes = around(x, axis);
  const indices = indicesOf(rows, sizes, (row, place) => place * rows.length + row);
  return tidy(() => reshape(gatherRows(flat(x, sizes), indices), withLength(x, axis, rows.length)));
}

/** Rows of `x` along an axis, which becomes the first of two: `[rows.length, all others]`. */
export function rowsFirst(x: Tensor, rows: Int32Array, axis: number): Tensor2D {
  const sizes = around(x, axis);
  const [before, , after] = sizes;
  const indices = indicesOf(rows, sizes, (row, place) => row * before + place);
  return tidy(() => reshape(gatherRows(flat(x, sizes), indices), [rows.length, before * after]));
}

const flat = (x: Tensor, [before, length, after]: Sizes): Tensor2D => reshape(x, [before * length, after]);

/**
 * The indices of rows in a flat tensor, for each place before their axis.
 *
 * @param at Where an index goes, by its number in `rows` and its place.
 */
function indicesOf(rows: Int32Array, [before, length]: Sizes, at: (row: number, place: number) => number): Int32Array {
  if (before === 1) return rows;
  const indices = new Int32Array(before * rows.length);
  rows.forEach((row, i) => {
    for (let place = 0; place < before; place++) indices[at(i, place)] = place * length + row;
  });
  return indices;
}

/** The inverse of `rowsFirst`, for other rows: `[M, all others]` to the axes of `like`, with M along `axis`. */
export function rowsBack(rows: Tensor2D, like: Tensor, axis: number): Tensor {
  const [before, , after] = around(like, axis);
  const shape = withLength(like, axis, rows.shape[0]);
  if (before === 1) return reshape(rows, shape);
  const split = (): Tensor3D => reshape(rows, [rows.shape[0], before, after]);
  return tidy(() => reshape(transpose(split(), [1, 0, 2]), shape));
}

/**
 * `[ranks * B, ..., L, ...]` to `[B, ..., ranks * L, ...]`.
 *
 * @param places For each row of the result: rank * L + the row's place on the rank.
 */
export function restoreOrder(x: Tensor, ranks: number, places: Int32Array, axis: number): Tensor {
  const sizes = around(x, axis);
  const [before, length] = sizes;
  const inBatch = before / ranks;
  const indices = new Int32Array(inBatch * places.length);
  places.forEach((place, row) => {
    const [rank, at] = [Math.floor(place / length), place % length];
    for (let i = 0; i < inBatch; i++) indices[i * places.length + row] = (rank * inBatch + i) * length + at;
  });
  const shape = withLength(x, axis, places.length);
  shape[0] /= ranks;
  return tidy(() => reshape(gatherRows(flat(x, sizes), indices), shape));
}
