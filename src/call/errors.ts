/** @file Errors in the library's one form: the function that refuses, the rule, the value got, the remedy. */
import {isArray, isTensor} from './values.js';

/** Throws `<who>: <rule>, got <got>. <remedy>`. Values go into `got` through `describe`. */
export function fail(who: string, rule: string, got: string, remedy: string): never {
  throw new Error(`${who}: ${rule}, got ${got}. ${remedy}`);
}

/** Most elements or keys that an error shows. */
const SHOWN = 8;
/** Most characters of a text, and of a list, that an error shows whole. */
const LONGEST_TEXT = 60;
const LONGEST_LIST = 120;
/** Deepest nesting of arrays that an error shows. */
const DEPTH = 2;

/** A value as errors show it: a few words, even if the value is large, deeply nested or of an unexpected kind. */
export function describe(value: unknown, depth = 0): string {
  if (typeof value === 'string') return `'${shorten(value)}'`;
  if (typeof value === 'bigint') return `${shorten(String(value))}n`;
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null) return shorten(String(value));
  return isArray(value) ? describeArray(value, depth) : describeObject(value);
}

function describeArray(values: ArrayLike<unknown>, depth: number): string {
  const {length} = values;
  const summary = `an array of length ${length}`;
  if (depth > DEPTH) return summary;
  const shown = Array.from({length: Math.min(length, SHOWN)}, (_, i) => describe(values[i], depth + 1)).join(', ');
  if (shown.length > LONGEST_LIST) return summary;
  return `[${shown}${length > SHOWN ? `, ... ${length} in all` : ''}]`;
}

function describeObject(value: object): string {
  if (isTensor(value)) return `a tensor of dtype ${value.dtype} and shape ${describe(value.shape)}`;
  const {constructor} = value;
  if (typeof constructor === 'function' && constructor !== Object) {
    return `an object of the class ${shorten(constructor.name)}`;
  }
  const keys = Object.keys(value).slice(0, SHOWN);
  return `an object with ${keys.length ? `the keys ${shorten(keys.join(', '), LONGEST_LIST)}` : 'no keys'}`;
}

/** A text as errors show it. */
function shorten(text: string, longest = LONGEST_TEXT): string {
  return text.length <= longest ? text : `${text.slice(0, longest)}... (${text.length} characters)`;
}

/** A whole number of at least `least`, below 2^31. */
export function checkInteger(who: string, what: string, value: unknown, least: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value >= 2 ** 31) {
    const remedy = typeof value === 'number' ? 'Pass a number of tokens.' : 'Pass a number.';
    fail(who, `${what} must be a whole number from ${least} to 2147483647`, describe(value), remedy);
  }
  return value;
}

/** True, false, or undefined for the default. */
export function checkFlag(who: string, what: string, value: unknown): asserts value is boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return;
  fail(who, `${what} must be true or false`, describe(value), `Pass {${what}: true} or leave it out.`);
}

/** A text, or undefined for the default. */
export function checkText(who: string, what: string, value: unknown): asserts value is string | undefined {
  if (value === undefined || typeof value === 'string') return;
  fail(who, `${what} must be a text`, describe(value), 'Pass a text or leave it out.');
}

/**
 * The options of a call: an object of known names, or undefined or null for none. Without this check a misspelt option
 * would silently change nothing.
 */
export function checkOptions<T extends object>(
  who: string,
  options: T | null | undefined,
  known: readonly (keyof T & string)[],
): Partial<T> {
  const given: Partial<T> = options ?? {};
  if (typeof given !== 'object' || isArray(given)) {
    fail(who, 'options must be an object', describe(options), `Pass for example {${known[0]}: ...} or leave it out.`);
  }
  for (const name of Object.keys(given)) {
    if ((known as readonly string[]).includes(name)) continue;
    fail(who, `options must be among ${known.join(', ')}`, describe(name), 'Correct the spelling or leave it out.');
  }
  return given;
}
