/**
 * @file A mask as a standalone SVG document: its pairs or tiles, coloured by what the kernels do with them, and its
 * vectors.
 */
import {checkInteger, checkOptions, checkText, describe, fail} from '../../call/errors.js';
import {type HostBounds, MAX_BOUND, MIN_BOUND} from '../bounds/intervals.js';
import {type TileKind, type TileGrid, tileKinds} from '../bounds/classify.js';
import {sparsityOf, visibleRows} from '../bounds/visible.js';
import {isFlashMask} from '../is_flash_mask.js';
import {type FlashMask, readPlace, requireHost} from '../flash_mask.js';

/** How a mask is drawn. */
export interface SVGOptions {
  /** Default: the mask's name. */
  title?: string;
  /**
   * Queries per tile. Default: a size that divides the picture into 6 to 12 tiles per side, or up to 64 for a large
   * mask.
   */
  blockQ?: number;
  /** Keys per tile. Default: as for queries. */
  blockK?: number;
  /** Default 0. */
  batch?: number;
  /** Default 0. */
  head?: number;
  /** 'auto' (the default) follows the reader's preference. */
  theme?: 'auto' | 'light' | 'dark';
}

/** Masks up to this length are drawn pair by pair, larger ones tile by tile. */
const PAIRS = 64;
/** Most tiles that a picture may have, so that a page can show it. */
const MAX_TILES = 2 ** 18;
/** Pixels of the longer side of the mask. */
const SIDE = 336;
const LEFT = 52;
const TOP = 98;
const RIGHT = 22;
const VECTOR_ROW = 19;
const LEGEND_ROW = 20;

interface Frame {
  mask: HostBounds;
  title: string;
  batch: number;
  head: number;
  tiles: TileGrid;
  /** Pixels of a pair. */
  cell: number;
  /** Whether pairs are drawn, or only tiles. */
  pairs: boolean;
  width: number;
  /** Where the mask ends, in pixels from the top. */
  bottom: number;
}

/**
 * A picture of a mask as a standalone SVG document: the mask, its empty, partial and full tiles, and the bound vectors
 * below it. It is readable on light and on dark pages. It is a function and not a method of the mask, so that pages
 * that draw no masks do not bundle it.
 *
 * @param options see {@link SVGOptions}.
 * @returns the text of the document.
 * @throws Error for invalid options, and for a mask whose bounds are in a tensor.
 *
 * @example
 * ```ts
 * document.body.innerHTML = toSVG(masks.causalDocument([3, 5]), {title: 'two documents'});
 * ```
 */
export function toSVG(mask: FlashMask, options?: SVGOptions): string {
  if (!isFlashMask(mask)) fail('toSVG', 'mask must be a FlashMask', describe(mask), 'Build one with masks.');
  requireHost('toSVG', mask);
  const given = checkOptions('toSVG', options, ['title', 'blockQ', 'blockK', 'batch', 'head', 'theme']);
  const [batch, head] = readPlace('toSVG', mask, given.batch, given.head);
  return drawSVG(mask, {title: mask.name, ...given, batch, head});
}

/** Draws one batch row and head of a mask. */
function drawSVG(mask: HostBounds, options: SVGOptions): string {
  const frame = layOut(mask, options);
  const vectors = drawVectors(frame, frame.bottom + 14);
  const legend = drawLegend(frame, vectors.end + 12);
  const height = legend.end + 14;
  const {width, title} = frame;
  const body = [drawHeading(frame), drawAxes(frame), drawPairs(frame), drawGrid(frame), drawBounds(frame)];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escapeXml(`Attention mask: ${title}`)}</title>`,
    `<style>${styles(options.theme ?? 'auto')}</style>`,
    `<rect class="fm-card" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>`,
    ...body,
    vectors.text,
    legend.text,
    '</svg>\n',
  ].join('\n');
}

function layOut(mask: HostBounds, options: SVGOptions): Frame {
  const longest = Math.max(mask.queryLength, mask.keyLength);
  const pairs = longest <= PAIRS;
  const side = pairs ? Math.max(1, Math.ceil(longest / 48) * 4) : 2 ** Math.ceil(Math.log2(longest / 64));
  const {blockQ = side, blockK = side, batch = 0, head = 0, title = '', theme = 'auto'} = options;
  checkInteger('toSVG', 'blockQ', blockQ, 1);
  checkInteger('toSVG', 'blockK', blockK, 1);
  checkText('toSVG', 'title', title);
  if (!Object.keys(themes).includes(theme)) {
    fail('toSVG', "theme must be 'auto', 'light' or 'dark'", describe(theme), 'Pass one of them.');
  }
  const cell = pairs ? Math.min(28, Math.max(1, Math.floor(SIDE / longest))) : SIDE / longest;
  const width = Math.ceil(Math.max(LEFT + mask.keyLength * cell + RIGHT, 410));
  const bottom = TOP + mask.queryLength * cell;
  checkPicture(mask, blockQ, blockK);
  const tiles = tileKinds(mask, blockQ, blockK, batch, head);
  return {mask, title, batch, head, tiles, cell, pairs, width, bottom};
}

function checkPicture({queryLength, keyLength}: HostBounds, blockQ: number, blockK: number): void {
  const tiles = Math.ceil(queryLength / blockQ) * Math.ceil(keyLength / blockK);
  if (tiles <= MAX_TILES) return;
  fail('toSVG', `a picture must have at most ${MAX_TILES} tiles`, `${tiles}`, 'Raise blockQ and blockK.');
}

/**
 * Colours: page, border, text, muted text, full, partial visible, partial masked, empty, lower bounds, upper bounds.
 */
const palettes = {
  light: ['#ffffff', '#d0d7de', '#1f2328', '#59636e', '#3874d8', '#f0a030', '#fdeccd', '#eceff3', '#c2185b', '#00796b'],
  dark: ['#0d1117', '#3d444d', '#e6edf3', '#9198a1', '#4e8ef2', '#e0962a', '#3d2f16', '#1c222b', '#ff7eb0', '#3dd6c0'],
};
const themes = {auto: '', light: palettes.light, dark: palettes.dark};

function styles(theme: keyof typeof themes): string {
  const base = colours(theme === 'dark' ? palettes.dark : palettes.light);
  const font =
    "text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}.fm-title{font-size:15px;font-weight:600}";
  const small =
    '.fm-tick,.fm-num{font-size:9px}.fm-name{font-size:10px;font-weight:600}.fm-bound{fill:none;stroke-width:2}';
  const dark = theme === 'auto' ? `@media (prefers-color-scheme:dark){${colours(palettes.dark)}}` : '';
  return `${font}${small}${base}${dark}`;
}

function colours([page, border, text, muted, full, visible, masked, empty, lower, upper]: string[]): string {
  return [
    `.fm-card{fill:${page};stroke:${border}}.fm-text,.fm-num{fill:${text}}.fm-muted,.fm-tick{fill:${muted}}`,
    `.fm-full{fill:${full}}.fm-visible{fill:${visible}}.fm-masked{fill:${masked}}.fm-empty{fill:${empty}}`,
    `.fm-grid{stroke:${page};fill:none}.fm-lower{fill:${lower}}.fm-upper{fill:${upper}}`,
    `.fm-bound.fm-lower{fill:none;stroke:${lower}}.fm-bound.fm-upper{fill:none;stroke:${upper}}`,
  ].join('');
}

function drawHeading({mask, title, batch, head, tiles}: Frame): string {
  const {maskedPairs, emptyTiles} = sparsityOf(oneHead(mask, batch, head), tiles.blockQ, tiles.blockK);
  const which = [mask.batch > 1 && `batch ${batch}`, mask.heads > 1 && `head ${head}`].filter(Boolean).join(', ');
  const sizes = `${mask.queryLength} × ${mask.keyLength} pairs in tiles of ${tiles.blockQ} × ${tiles.blockK}`;
  const share = `${percent(maskedPairs)} of pairs masked, ${percent(emptyTiles)} of tiles skipped`;
  return [
    text(16, 25, 'fm-text fm-title', which ? `${title} (${which})` : title),
    text(16, 42, 'fm-muted', sizes),
    text(16, 57, 'fm-muted', share),
  ].join('\n');
}

function oneHead(mask: HostBounds, batch: number, head: number): HostBounds {
  const {queryLength, keyLength, causal, vectors, heads} = mask;
  const from = (batch * heads + head) * keyLength * vectors;
  const bounds = mask.bounds && mask.bounds.subarray(from, from + keyLength * vectors);
  return {queryLength, keyLength, causal, vectors, bounds, batch: 1, heads: 1};
}

function percent(fraction: number): string {
  const rounded = Math.round(fraction * 100);
  if (fraction > 0 && rounded === 0) return '< 1%';
  return fraction < 1 && rounded === 100 ? '> 99%' : `${rounded}%`;
}

function drawAxes({mask, tiles, cell, bottom}: Frame): string {
  const ticks = (length: number, step: number): number[] => {
    const room = 8 + 6 * String(length).length;
    const every = step * 2 ** Math.max(0, Math.ceil(Math.log2(room / (step * cell))));
    return Array.from({length: Math.ceil(length / every)}, (_, i) => i * every);
  };
  const columns = ticks(mask.keyLength, tiles.blockK).map((j) =>
    text(LEFT + (j + 0.5) * cell, TOP - 5, 'fm-tick', tick(j), 'middle'),
  );
  const rows = ticks(mask.queryLength, tiles.blockQ).map((r) =>
    text(LEFT - 6, TOP + (r + 0.5) * cell + 3, 'fm-tick', tick(r), 'end'),
  );
  const middle = number((TOP + bottom) / 2);
  return [
    ...columns,
    ...rows,
    text(LEFT + (mask.keyLength * cell) / 2, TOP - 17, 'fm-muted', 'keys →', 'middle'),
    `<text class="fm-muted" text-anchor="middle" transform="translate(20 ${middle}) rotate(-90)">← queries</text>`,
  ].join('\n');
}

/** The label of a position on an axis, in K tokens if that is a whole number. */
function tick(position: number): string {
  return position >= 1024 && position % 1024 === 0 ? `${position / 1024}K` : String(position);
}

/** The kinds of pairs, by colour. */
type Fill = 'full' | 'visible' | 'masked' | 'empty';

/** Pairs (or tiles) as one path per colour, with runs of a row joined. */
function drawPairs(frame: Frame): string {
  const paths: Record<Fill, string[]> = {empty: [], masked: [], visible: [], full: []};
  const {rows, columns, height, width, at} = frame.pairs ? pairFills(frame) : tileFills(frame);
  for (let row = 0; row < rows; row++) {
    for (let from = 0, to = 0; from < columns; from = to) {
      const fill = at(row, from);
      while (to < columns && at(row, to) === fill) to++;
      const [x0, x1] = [LEFT + from * width, LEFT + Math.min(to * width, frame.mask.keyLength * frame.cell)];
      const [y0, y1] = [TOP + row * height, TOP + Math.min((row + 1) * height, frame.mask.queryLength * frame.cell)];
      paths[fill].push(`M${number(x0)} ${number(y0)}H${number(x1)}V${number(y1)}H${number(x0)}Z`);
    }
  }
  const fills = Object.entries(paths).filter(([, path]) => path.length > 0);
  return fills
    .map(([fill, path]) => `<path class="fm-${fill}" shape-rendering="crispEdges" d="${path.join('')}"/>`)
    .join('\n');
}

/** A grid of coloured rectangles. */
interface Fills {
  rows: number;
  columns: number;
  height: number;
  width: number;
  at: (row: number, column: number) => Fill;
}

function pairFills({mask, batch, head, tiles, cell}: Frame): Fills {
  const {queryLength: rows, keyLength: columns} = mask;
  const visible = Array.from({length: columns}, (_, j) => visibleRows(mask, batch, head, j));
  const kindAt = (r: number, j: number): TileKind =>
    tiles.kinds[Math.floor(r / tiles.blockQ) * tiles.columns + Math.floor(j / tiles.blockK)];
  const at = (r: number, j: number): Fill => {
    const kind = kindAt(r, j);
    if (kind !== 'partial') return kind;
    return visible[j].some(([start, end]) => start <= r && r < end) ? 'visible' : 'masked';
  };
  return {rows, columns, height: cell, width: cell, at};
}

function tileFills({tiles, cell}: Frame): Fills {
  const {rows, columns, kinds, blockQ, blockK} = tiles;
  const at = (row: number, column: number): Fill => {
    const kind = kinds[row * columns + column];
    return kind === 'partial' ? 'visible' : kind;
  };
  return {rows, columns, height: blockQ * cell, width: blockK * cell, at};
}

function drawGrid({mask, tiles, cell, pairs, bottom}: Frame): string {
  const right = LEFT + mask.keyLength * cell;
  const lines = (stepK: number, stepQ: number): string => {
    const across: string[] = [];
    for (let j = stepK; j < mask.keyLength; j += stepK)
      across.push(`M${number(LEFT + j * cell)} ${TOP}V${number(bottom)}`);
    for (let r = stepQ; r < mask.queryLength; r += stepQ)
      across.push(`M${LEFT} ${number(TOP + r * cell)}H${number(right)}`);
    return across.join('');
  };
  const fine = pairs && cell >= 5 ? [`<path class="fm-grid" stroke-width="0.75" d="${lines(1, 1)}"/>`] : [];
  const roomy = tiles.blockK * cell >= 4 && tiles.blockQ * cell >= 4;
  const coarse = roomy
    ? [`<path class="fm-grid" stroke-width="${pairs ? 2.5 : 0.75}" d="${lines(tiles.blockK, tiles.blockQ)}"/>`]
    : [];
  return [...fine, ...coarse].join('\n');
}

/** A stored vector: its name, its interval, and whether it is the interval's end. */
interface Vector {
  name: string;
  interval: 'lower' | 'upper';
  end: boolean;
}

function vectorsOf({vectors, causal}: HostBounds): Vector[] {
  const LTS: Vector = {name: 'LTS', interval: 'lower', end: false};
  const LTE: Vector = {name: 'LTE', interval: 'lower', end: true};
  const UTS: Vector = {name: 'UTS', interval: 'upper', end: false};
  const UTE: Vector = {name: 'UTE', interval: 'upper', end: true};
  if (vectors === 4) return [LTS, LTE, UTS, UTE];
  if (vectors === 2) return causal ? [LTS, LTE] : [LTS, UTE];
  return vectors === 1 ? [LTS] : [];
}

function boundAt({mask, batch, head}: Frame, j: number, vector: number): number {
  return mask.bounds![((batch * mask.heads + head) * mask.keyLength + j) * mask.vectors + vector];
}

/** Columns [from, to) of equal bound. */
interface BoundRun {
  from: number;
  to: number;
  bound: number;
}

/**
 * A vector as runs of columns, with bounds clamped to the rows. Of a long mask it reads only as many columns as pixels
 * can show.
 */
function boundRuns(frame: Frame, vector: number): BoundRun[] {
  const {queryLength, keyLength} = frame.mask;
  const stride = Math.max(1, Math.floor(keyLength / 1024));
  const runs: BoundRun[] = [];
  for (let j = 0; j < keyLength; j += stride) {
    const bound = Math.min(queryLength, Math.max(0, boundAt(frame, j, vector)));
    const to = Math.min(keyLength, j + stride);
    const last = runs[runs.length - 1];
    if (last?.bound === bound) last.to = to;
    else runs.push({from: j, to, bound});
  }
  return runs;
}

/** The bounds as stairs over the mask: solid where the masked rows of a column start, dashed where they end. */
function drawBounds(frame: Frame): string {
  const {mask, cell} = frame;
  const stairs = vectorsOf(mask).map(({interval, end}, i) => {
    const path = boundRuns(frame, i).map(({from, to, bound}) => {
      const y = number(TOP + bound * cell);
      return `M${number(LEFT + from * cell)} ${y}H${number(LEFT + to * cell)}`;
    });
    return `<path class="fm-bound fm-${interval}"${end ? ' stroke-dasharray="4 2.5"' : ''} d="${path.join('')}"/>`;
  });
  return stairs.join('\n');
}

/** A part of the picture, and its end in pixels. */
interface Part {
  text: string;
  end: number;
}

function drawVectors(frame: Frame, top: number): Part {
  const {mask, cell} = frame;
  const vectors = vectorsOf(mask);
  if (vectors.length === 0) {
    const none = mask.causal ? 'no vectors: the causal triangle is implied' : 'no vectors';
    return {text: text(LEFT, top + 9, 'fm-muted', none), end: top + 12};
  }
  const rows = vectors.map(({name, interval}, i) => {
    const y = top + i * VECTOR_ROW;
    const label = text(LEFT - 8, y + 11, `fm-name fm-${interval}`, name, 'end');
    return [label, cell >= 12 ? drawNumbers(frame, i, y) : drawProfile(frame, i, y, interval)].join('\n');
  });
  return {text: rows.join('\n'), end: top + vectors.length * VECTOR_ROW};
}

/** One number per column. */
function drawNumbers(frame: Frame, vector: number, y: number): string {
  const {mask, cell} = frame;
  const size = 15;
  const cells: string[] = [];
  const numbers: string[] = [];
  for (let j = 0; j < mask.keyLength; j++) {
    const x = LEFT + j * cell;
    cells.push(`M${number(x + 0.5)} ${y}h${number(cell - 1)}v${size}h${number(1 - cell)}Z`);
    numbers.push(text(x + cell / 2, y + 11, 'fm-num', shortBound(boundAt(frame, j, vector)), 'middle'));
  }
  return [`<path class="fm-empty" d="${cells.join('')}"/>`, ...numbers].join('\n');
}

function shortBound(bound: number): string {
  if (bound === MAX_BOUND) return '∞';
  if (bound === MIN_BOUND) return '−∞';
  return Math.abs(bound) < 100 ? `${bound}`.replace('-', '−') : bound < 0 ? '−…' : '…';
}

/** The vector as a profile from row 0 (bottom of the strip) to the last row (its top). */
function drawProfile(frame: Frame, vector: number, y: number, interval: string): string {
  const {mask, cell} = frame;
  const height = 15;
  const parts = boundRuns(frame, vector).map(({to, bound}) => {
    const share = bound / mask.queryLength;
    return `V${number(y + height - share * height)}H${number(LEFT + to * cell)}`;
  });
  const outline = `M${LEFT} ${y + height}${parts.join('')}V${y + height}Z`;
  const strip = `<rect class="fm-empty" x="${LEFT}" y="${y}" width="${number(mask.keyLength * cell)}" height="${height}"/>`;
  return `${strip}\n<path class="fm-${interval}" opacity="0.75" d="${outline}"/>`;
}

function drawLegend({pairs, mask}: Frame, top: number): Part {
  const swatches: [Fill, string][] = pairs
    ? [
        ['full', 'full tile: no mask work'],
        ['visible', 'partial tile: visible pair'],
        ['empty', 'empty tile: skipped'],
        ['masked', 'partial tile: masked pair'],
      ]
    : [
        ['full', 'full tile: no mask work'],
        ['visible', 'partial tile: masked pair by pair'],
        ['empty', 'empty tile: skipped'],
      ];
  const items = swatches.map(([fill, label], i) => {
    const [x, y] = [16 + (i % 2) * 180, top + Math.floor(i / 2) * LEGEND_ROW];
    return `<rect class="fm-${fill}" x="${x}" y="${y}" width="12" height="12" rx="2"/>\n${text(x + 18, y + 10, 'fm-text', label)}`;
  });
  const lines = vectorsOf(mask).map((vector, i) =>
    drawLine(vector, 16 + (i % 2) * 180, top + (2 + (i >> 1)) * LEGEND_ROW),
  );
  const rows = 2 + Math.ceil(lines.length / 2);
  return {text: [...items, ...lines].join('\n'), end: top + rows * LEGEND_ROW - 6};
}

/** The legend entry of a bound: its line and its name. */
function drawLine({name, interval, end}: Vector, x: number, y: number): string {
  const dash = end ? ' stroke-dasharray="4 2.5"' : '';
  const line = `<path class="fm-bound fm-${interval}"${dash} d="M${x - 2} ${y + 6}h16"/>`;
  const label = `${name}: masked rows ${end ? 'end' : 'start'}`;
  return `${line}\n${text(x + 18, y + 10, 'fm-text', label)}`;
}

function text(x: number, y: number, className: string, content: string | number, anchor?: 'middle' | 'end'): string {
  const anchored = anchor ? ` text-anchor="${anchor}"` : '';
  return `<text class="${className}" x="${number(x)}" y="${number(y)}"${anchored}>${escapeXml(String(content))}</text>`;
}

function escapeXml(value: string): string {
  return value.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
}

/** At most two decimals. */
function number(value: number): string {
  return String(Math.round(value * 100) / 100);
}
