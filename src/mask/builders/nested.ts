/** @file Reads nested arrays, or flat ones with a shape, as numbers in row-major order. */
import {checkInteger, describe, fail} from '../../call/errors.js';
import {checkCount} from './limits.js';
import {isArray} from '../../call/values.js';

/** Numbers, nested one level per axis. */
export type Nested = ArrayLike<number | boolean> | readonly Nested[];

type Numbers = Uint8Array | Int32Array | Float32Array;

/** The kind of argument to read, and its name in errors. */
export interface NestedForm<T extends Numbers> {
  who: string;
  /** The argument's name. */
  what: string;
  /** Allowed numbers of axes. */
  ranks: readonly number[];
  /** Shape of a flat array; undefined for a nested one; null if the argument has no such option. */
  shape: unknown;
  /** Array type that holds the values. */
  Store: new (length: number) => T;
  isValue: (value: unknown) => boolean;
  /** The rule for values, in words, and the remedy. */
  rule: string;
  remedy: string;
}

/** Reads the values and their shape. Arrays that contain themselves, or too many others, are refused as too deep. */
export function readNested<T extends Numbers>(values: unknown, form: NestedForm<T>): {data: T; shape: number[]} {
  const {who, what, shape: given} = form;
  const isFlat = given !== undefined && given !== null;
  if (!isArray(values)) {
    const remedy = given === null ? 'Pass nested arrays.' : 'Pass nested arrays, or a flat one and its shape.';
    fail(who, `${what} must be an array`, describe(values), remedy);
  }
  const shape = isFlat ? readShape(form) : shapeOfNested(values, form);
  checkCount(who, what, shape);
  const count = shape.reduce((a, b) => a * b, 1);
  if (isFlat && values.length !== count) {
    fail(who, `${what} must have ${count} values for shape ${describe(shape)}`, `${values.length}`, 'Fix the shape.');
  }
  const reader = new Reader(form, isFlat ? [count] : shape, new form.Store(count));
  reader.read(values, []);
  return {data: reader.data, shape};
}

function readShape({who, ranks, shape}: NestedForm<Numbers>): number[] {
  if (!isArray(shape) || !ranks.includes(shape.length)) {
    fail(who, `shape must have ${ranks.join(' or ')} axes`, describe(shape), 'Pass the shape of the array.');
  }
  return Array.from(shape, (length) => checkInteger(who, 'every length in the shape', length, 1));
}

/** The shape, read from the first elements. */
function shapeOfNested(values: unknown, {who, what, ranks, shape: given}: NestedForm<Numbers>): number[] {
  const deepest = Math.max(...ranks);
  const shape: number[] = [];
  for (let at = values; isArray(at) && shape.length <= deepest; at = at[0]) shape.push(at.length);
  if (!ranks.includes(shape.length)) {
    const got = shape.length > deepest ? `more than ${deepest} (or an array that contains itself)` : `${shape.length}`;
    const flat = given === null ? '' : ', or pass {shape} with a flat array';
    const allowed = ranks.join(' or ');
    fail(who, `${what} must have ${allowed} axes`, got, `Nest the arrays ${allowed} deep${flat}.`);
  }
  return shape;
}

/** Walks arrays of a known shape and stores their values. */
class Reader<T extends Numbers> {
  private count = 0;

  constructor(
    private readonly form: NestedForm<T>,
    private readonly shape: readonly number[],
    readonly data: T,
  ) {}

  read(values: unknown, at: readonly number[]): void {
    const {who} = this.form;
    const length = this.shape[at.length];
    if (!isArray(values) || values.length !== length) {
      const got = isArray(values) ? `${values.length}` : describe(values);
      const rule = `${this.name(at)} must have ${length} elements, as the first of its kind`;
      fail(who, rule, got, 'Make all rows equally long.');
    }
    const isRow = at.length + 1 === this.shape.length;
    for (let i = 0; i < length; i++) {
      if (isRow) this.store(values[i], at, i);
      else this.read(values[i], [...at, i]);
    }
  }

  private store(value: unknown, at: readonly number[], i: number): void {
    const {who, rule, remedy, isValue} = this.form;
    if (!isValue(value)) fail(who, `${this.name([...at, i])} must be ${rule}`, describe(value), remedy);
    this.data[this.count++] = Number(value);
  }

  private name(at: readonly number[]): string {
    return `${this.form.what}${at.map((i) => `[${i}]`).join('')}`;
  }
}
