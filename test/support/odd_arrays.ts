/** @file Arrays on which a naive reader overflows its stack or never ends. */

/** An array that contains itself. */
export function circular(): unknown[] {
  const array: unknown[] = [];
  array.push(array);
  return array;
}

/** A number within many arrays. */
export function deep(levels: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = [value];
  return value;
}

/** An array with so many elements at every level that counting them one by one takes too long. */
export function wide(levels: number): unknown {
  return levels === 0 ? 1 : new Array<unknown>(1000).fill(wide(levels - 1));
}
