/** @file Packs whole samples into rows of a fixed number of tokens. */
import type {Row, Sample} from './sample.js';

/**
 * Best-fit decreasing: takes the longest sample first and puts it into the fullest row with room for it. Equally long
 * samples keep their order, so that equal lists give equal rows.
 *
 * @throws Error for a sample longer than a row. Encoding shortens samples; packing never does.
 */
export function packSamples(samples: readonly Sample[], rowTokens: number): Row[] {
  const rows: {row: Row; free: number}[] = [];
  for (const sample of [...samples].sort((a, b) => b.tokens.length - a.tokens.length)) {
    const {length} = sample.tokens;
    if (length > rowTokens) {
      throw new Error(`Sample ${sample.id} has ${length} tokens, which is more than a row's ${rowTokens}.`);
    }
    let best: {row: Row; free: number} | null = null;
    for (const candidate of rows) {
      if (candidate.free >= length && candidate.free < (best?.free ?? Infinity)) best = candidate;
    }
    if (best === null) {
      best = {row: {samples: []}, free: rowTokens};
      rows.push(best);
    }
    best.row.samples.push(sample);
    best.free -= length;
  }
  return rows.map(({row}) => row);
}
