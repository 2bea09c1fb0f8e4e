/** @file Arrays that end a naive reader. */

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

/** An array that is wide at every level: its elements are too many to count one by one. */
export function wide(levels: number): unknown {
  return levels === 0 ? 1 : new Array<unknown>(1000).fill(wide(levels - 1));
}
