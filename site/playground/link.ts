/** @file The shown mask in the address, so that a link shows it again. */
import type {BuilderName} from './builders.js';
import type {Values} from './values.js';

/** Reads `#mask=name&key=value…`; null where the address names no builder. */
export function readLink(names: readonly BuilderName[]): {name: BuilderName; values: Values} | null {
  const {mask, ...given} = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!names.includes(mask as BuilderName)) return null;
  const values = Object.entries(given).map(([key, text]): [string, Values[string]] => {
    if (text === 'true' || text === 'false') return [key, text === 'true'];
    return [key, /^\d+$/.test(text) && !TEXTS.includes(key) ? Number(text) : text];
  });
  return {name: mask as BuilderName, values: Object.fromEntries(values)};
}

/** Values that are texts even if they are one number. */
const TEXTS = ['lengths', 'groups', 'prefixes', 'spans', 'matrix', 'indices'];

export function writeLink(name: BuilderName, values: Values): void {
  const given = Object.entries(values).map(([key, value]): [string, string] => [key, String(value)]);
  history.replaceState(null, '', `#${new URLSearchParams([['mask', name], ...given]).toString()}`);
}
