/** @file Reads nested arrays, or flat ones with a shape, as numbers in row-major order. */
import {describe, fail, isArray} from './errors.js';

/** Numbers, nested as deep as they have axes. */
export type Nested = ArrayLike<number | boolean> | readonly Nested[];

export interface Flat {
  data: ArrayLike<number | boolean>;
  shape: number[];
}

/**
 * @param ranks Numbers of axes that are allowed.
 * @param shape Of a flat array; left out for a nested one.
 */
export function readNested(
  who: string,
  what: string,
  values: unknown,
  ranks: number[],
  shape?: readonly number[],
): Flat {
  const allowed = ranks.join(' or ');
  if (!isArray(values))
    fail(who, `${what} must be an array`, values, 'Pass nested arrays, or a flat one and its shape.');
  if (shape) {
    if (!ranks.includes(shape.length))
      fail(who, `shape must have ${allowed} axes`, shape, 'Pass the shape of the array.');
    const count = shape.reduce((a, b) => a * b, 1);
    if (values.length !== count) {
      fail(
        who,
        `${what} must have ${count} values for shape ${describe(shape)}`,
        `${values.length}`,
        'Mend the shape.',
      );
    }
    return {data: values as ArrayLike<number>, shape: [...shape]};
  }
  const found = shapeOfNested(values);
  if (!ranks.includes(found.length)) {
    const remedy = found.length === 1 ? 'Pass {shape} with a flat array.' : `Nest the arrays ${allowed} deep.`;
    fail(who, `${what} must have ${allowed} axes`, `${found.length}`, remedy);
  }
  const data: number[] = [];
  flatten(who, what, values, found, [], data);
  return {data, shape: found};
}

function shapeOfNested(values: unknown): number[] {
  const shape: number[] = [];
  for (let at = values; isArray(at); at = at[0]) shape.push(at.length);
  return shape;
}

function flatten(who: string, what: string, values: unknown, shape: number[], at: number[], data: unknown[]): void {
  const here = `${what}${at.map((i) => `[${i}]`).join('')}`;
  if (at.length === shape.length) {
    if (isArray(values)) fail(who, `${here} must be a number`, values, 'Nest all elements equally deep.');
    data.push(values);
    return;
  }
  const length = shape[at.length];
  if (!isArray(values) || values.length !== length) {
    const got = isArray(values) ? `${values.length}` : values;
    fail(who, `${here} must have ${length} elements, as the first of its kind`, got, 'Make all rows equally long.');
  }
  for (let i = 0; i < length; i++) flatten(who, what, values[i], shape, [...at, i], data);
}
