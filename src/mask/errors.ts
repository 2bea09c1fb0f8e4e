/** @file Errors of masks: who refuses, the rule, the values got, the remedy. */

/** Throws `<who>: <rule>, got <got>. <remedy>`. */
export function fail(who: string, rule: string, got: unknown, remedy: string): never {
  throw new Error(`${who}: ${rule}, got ${describe(got)}. ${remedy}`);
}

/** A value as an error shows it: strings as they are, arrays by their first elements. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return value;
  if (isArray(value)) {
    const shown = Array.from(value).slice(0, 8).map(describe).join(', ');
    return `[${shown}${value.length > 8 ? `, ... ${value.length} in all` : ''}]`;
  }
  if (typeof value === 'object' && value !== null) return value.constructor?.name ?? 'object';
  return typeof value === 'function' ? 'a function' : String(value);
}

export function isArray(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

/** A whole number of at least `least`, below 2^31. */
export function checkInteger(who: string, what: string, value: unknown, least: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value >= 2 ** 31) {
    const remedy = typeof value === 'number' ? 'Pass a number of tokens.' : 'Pass a number.';
    fail(who, `${what} must be a whole number from ${least} to 2147483647`, value, remedy);
  }
  return value;
}
