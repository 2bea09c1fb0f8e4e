/** @file Parsers for the options of the benchmarks. */

/** Parses `a, b`. */
export const list = (text: string): string[] => text.split(',').map((one) => one.trim());

/** Parses `512, 1024`. */
export const numbers = (text: string): number[] => list(text).map(count);

/** Parses a size. */
export function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`bench: sizes must be positive integers, got '${text}'.`);
  return value;
}

/** Parses a duration. */
export function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`bench: expected a positive number, got '${text}'.`);
  return value;
}

/** Parses a list of names out of `known`. The result has the order of `known`. */
export const some =
  <T extends string>(known: readonly T[]) =>
  (text: string): T[] => {
    const given = list(text);
    const unknown = given.find((name) => !(known as readonly string[]).includes(name));
    if (unknown !== undefined) throw new Error(`bench: expected some of ${known.join(', ')}, got '${unknown}'.`);
    return known.filter((name) => given.includes(name));
  };
