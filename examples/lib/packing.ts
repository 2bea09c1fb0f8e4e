/** @file Packs whole documents into rows of a fixed number of tokens, best fit first. */

/** Label of a position that teaches nothing: prompts, the last token of a document, padding. */
export const IGNORED = -100;

/** One text as tokens: `tokens[0 .. promptLength)` are given, the rest is to be learned. */
export interface Document {
  tokens: readonly number[];
  promptLength: number;
}

/** Documents one after the other, then padding. All arrays have the row's full length. */
export interface Row {
  tokens: Int32Array;
  /** The next token of the same document, or `IGNORED`. */
  labels: Int32Array;
  /** Position within the document: restarts at 0 in each. */
  positions: Int32Array;
  /** Document lengths in order; what they leave of the row is padding. */
  lengths: number[];
}

/**
 * Best-fit decreasing: the longest document first, each into the fullest row that still has room.
 * Throws when a document is longer than a row: a document is never cut here.
 *
 * @example packDocuments([{tokens: [2, 7, 3], promptLength: 1}], 8)[0].labels // [7, 3, -100, -100, ...]
 */
export function packDocuments(documents: readonly Document[], rowTokens: number): Row[] {
  const byFreeTokens: Document[][][] = Array.from({length: rowTokens + 1}, () => []);
  const rows: Document[][] = [];
  for (const document of [...documents].sort((a, b) => b.tokens.length - a.tokens.length)) {
    const length = document.tokens.length;
    if (length > rowTokens) {
      throw new Error(`A document of ${length} tokens does not fit a row of ${rowTokens}. Give longer --row-tokens.`);
    }
    let free = length;
    while (free < rowTokens && byFreeTokens[free].length === 0) {
      free++;
    }
    const row = byFreeTokens[free].pop() ?? openRow(rows);
    row.push(document);
    byFreeTokens[free - length].push(row);
  }
  return rows.map((row) => fillRow(row, rowTokens));
}

function openRow(rows: Document[][]): Document[] {
  const row: Document[] = [];
  rows.push(row);
  return row;
}

function fillRow(documents: readonly Document[], rowTokens: number): Row {
  const row: Row = {
    tokens: new Int32Array(rowTokens),
    labels: new Int32Array(rowTokens).fill(IGNORED),
    positions: new Int32Array(rowTokens),
    lengths: documents.map(({tokens}) => tokens.length),
  };
  let start = 0;
  for (const {tokens, promptLength} of documents) {
    tokens.forEach((token, i) => {
      row.tokens[start + i] = token;
      row.positions[start + i] = i;
      const teaches = i + 1 >= promptLength && i + 1 < tokens.length;
      row.labels[start + i] = teaches ? tokens[i + 1] : IGNORED;
    });
    start += tokens.length;
  }
  return row;
}
