/**
 * @file A few of many combinations that cover every pair of values: a fault of a generator rarely depends on more than
 * two fields.
 */
import {full} from './full.js';

/**
 * Chooses combinations greedily so that every two values of two fields that occur together in `all` occur together in
 * one of them. Returns all combinations in `npm run test:all`.
 *
 * @param fieldsOf The relevant fields; different values must print differently.
 */
export function pairwise<T>(all: readonly T[], fieldsOf: (combination: T) => object): readonly T[] {
  if (full) return all;
  let left = all.map((combination) => ({combination, pairs: new Set(pairsOf(fieldsOf(combination)))}));
  const chosen: T[] = [];
  for (;;) {
    const best = left.reduce((a, b) => (b.pairs.size > a.pairs.size ? b : a), left[0]);
    if (!best) return chosen;
    chosen.push(best.combination);
    for (const {pairs} of left) if (pairs !== best.pairs) best.pairs.forEach((pair) => pairs.delete(pair));
    best.pairs.clear();
    left = left.filter(({pairs}) => pairs.size > 0);
  }
}

function pairsOf(fields: object): string[] {
  const values = Object.entries(fields).map(([name, value]) => `${name} ${String(value)}`);
  return values.flatMap((value, i) => values.slice(i + 1).map((other) => `${value}, ${other}`));
}
