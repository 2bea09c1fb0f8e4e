/** @file A mask as text: one character per pair, or per block of pairs if the mask is large. */
import {checkInteger} from '../../call/errors.js';
import type {HostBounds} from '../bounds/intervals.js';
import {visibleRows} from '../bounds/visible.js';

/** How a mask prints. */
export interface TextOptions {
  /** At most this many characters per side; larger masks print blocks of pairs. Default 32. */
  blocks?: number;
  /** Default 0. */
  batch?: number;
  /** Default 0. */
  head?: number;
}

/** A heading, then a line for each query or block of queries: █ every pair visible, ▒ some, · none. */
export function drawText(mask: HostBounds, heading: string, {blocks = 32, batch = 0, head = 0}: TextOptions): string {
  checkInteger('FlashMask.toString', 'blocks', blocks, 1);
  const {queryLength, keyLength} = mask;
  const side = Math.max(1, Math.ceil(Math.max(queryLength, keyLength) / blocks));
  const counts = countBlocks(mask, side, batch, head);
  const columns = Math.ceil(keyLength / side);
  const lines = [side === 1 ? heading : `${heading}, ${side} × ${side} pairs a character`];
  for (let at = 0, r0 = 0; r0 < queryLength; r0 += side, at += columns) {
    const height = Math.min(side, queryLength - r0);
    let line = '';
    for (let block = 0; block < columns; block++) {
      const pairs = height * Math.min(side, keyLength - block * side);
      line += counts[at + block] === 0 ? '·' : counts[at + block] === pairs ? '█' : '▒';
    }
    lines.push(line);
  }
  return lines.join('\n');
}

/** Visible pairs of each `side x side` block of pairs, row-major. */
function countBlocks(mask: HostBounds, side: number, batch: number, head: number): Float64Array {
  const columns = Math.ceil(mask.keyLength / side);
  const counts = new Float64Array(Math.ceil(mask.queryLength / side) * columns);
  for (let j = 0; j < mask.keyLength; j++) {
    for (const [start, end] of visibleRows(mask, batch, head, j)) {
      for (let row = Math.floor(start / side); row * side < end; row++) {
        const pairs = Math.min(end, (row + 1) * side) - Math.max(start, row * side);
        counts[row * columns + Math.floor(j / side)] += pairs;
      }
    }
  }
  return counts;
}
