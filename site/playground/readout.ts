/** @file What the playground says about a mask: its tiles, its memory, its vectors, and single pairs. */
import {visibleRows} from '../../src/mask/bounds/visible.js';
import {MAX_BOUND, MIN_BOUND} from '../../src/mask/bounds/intervals.js';
import type {TileGrid, TileKind} from '../../src/mask/bounds/classify.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {byId, bytes, make, percent} from '../shell/dom.js';
import {type Vector, boundOf, vectorsOf} from './picture.js';

const KINDS: readonly TileKind[] = ['full', 'partial', 'empty'];

/** Shows counts of tiles, the sparsity and the memory. Returns them as a sentence. */
export function showTiles(mask: FlashMask, {kinds, rows, columns}: TileGrid, tile: number): string {
  const counts: Record<TileKind, number> = {full: 0, partial: 0, empty: 0};
  for (const kind of kinds) counts[kind]++;
  for (const kind of KINDS) {
    byId(`bar-${kind}`).style.flexGrow = String(counts[kind] / kinds.length);
    byId(`count-${kind}`).textContent = counts[kind].toLocaleString('en');
    byId(`share-${kind}`).textContent = percent(counts[kind] / kinds.length);
  }
  const {maskedPairs, emptyTiles} = mask.sparsity({blockQ: tile, blockK: tile});
  const {batch, heads, queryLength, keyLength, vectors} = mask;
  byId('masked').textContent = percent(maskedPairs);
  byId('skipped').textContent = percent(emptyTiles);
  byId('bytes').textContent = bytes(4 * batch * heads * keyLength * vectors);
  byId('dense-bytes').textContent = bytes(4 * batch * heads * queryLength * keyLength);
  const tiles = `${rows} × ${columns} tiles: ${counts.full} full, ${counts.partial} partial, ${counts.empty} empty`;
  return `${queryLength} queries × ${keyLength} keys, ${percent(maskedPairs)} of the pairs masked, ${tiles}`;
}

/** Most runs of equal bounds that are written. */
const MOST_RUNS = 6;

const boundText = (bound: number): string => (bound === MAX_BOUND ? '∞' : bound === MIN_BOUND ? '−∞' : String(bound));

/** The bounds of a row as runs: of equal numbers, and of numbers that grow by 1. */
function runsOf(mask: FlashMask, batch: number, head: number, vector: number): string {
  const at = (key: number): number => boundOf(mask, batch, head, key, vector);
  const runs: string[] = [];
  for (let from = 0, to = 0; from < mask.keyLength; from = to) {
    const step = from + 1 < mask.keyLength && at(from + 1) === at(from) + 1 ? 1 : 0;
    do to++;
    while (to < mask.keyLength && at(to) === at(to - 1) + step);
    if (runs.length === MOST_RUNS) return `${runs.join('  ')}  …`;
    const one = boundText(at(from));
    runs.push(to - from === 1 ? one : step === 0 ? `${one} ×${to - from}` : `${one}\u2060–\u2060${at(to - 1)}`);
  }
  return runs.join('  ');
}

const MEANS = {
  LTS: 'masked from this row',
  LTE: 'to this row',
  UTS: 'and from this row',
  UTE: 'to this row',
} satisfies Record<Vector['name'], string>;

/** Lists the vectors that the mask stores. */
export function showVectors(mask: FlashMask, batch: number, head: number): void {
  const vectors = vectorsOf(mask);
  const items = vectors.map(({name, colour, end}, i) => {
    const title = make('dt', {class: `vector-${colour}${end ? ' ends' : ''}`}, name, make('small', {}, MEANS[name]));
    return [title, make('dd', {}, runsOf(mask, batch, head, i))];
  });
  const none = make('dt', {}, mask.causal ? 'None: the causal triangle is implied.' : 'None: nothing is masked.');
  byId('vectors').replaceChildren(...(vectors.length === 0 ? [none] : items.flat()));
}

/** A sentence on one pair. */
export function pairText(
  mask: FlashMask,
  batch: number,
  head: number,
  query: number,
  key: number,
  tiles: TileGrid,
): string {
  const {queryLength, keyLength} = mask;
  if (!(query >= 0 && query < queryLength && key >= 0 && key < keyLength)) return `Queries are 0 to ${queryLength - 1}, keys 0 to ${keyLength - 1}.`; // prettier-ignore
  const visible = visibleRows(mask, batch, head, key);
  const sees = visible.some(([start, end]) => start <= query && query < end);
  const [row, column] = [Math.floor(query / tiles.blockQ), Math.floor(key / tiles.blockK)];
  const bounds = vectorsOf(mask).map(({name}, i) => `${name} ${boundText(boundOf(mask, batch, head, key, i))}`);
  const stored = bounds.length === 0 ? '' : ` The key stores ${bounds.join(', ')}.`;
  const kind = tiles.kinds[row * tiles.columns + column];
  return `Query ${query} ${sees ? 'sees' : 'does not see'} key ${key}, in a tile that is ${kind}.${stored}`;
}
