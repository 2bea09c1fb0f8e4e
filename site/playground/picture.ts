/**
 * @file Draws a mask on a canvas: tiles, and within partial tiles the visible intervals of a column a pixel. The work
 * grows with the pixels and the tiles, never with the pairs.
 */
import {type TileGrid, tileKinds} from '../../src/mask/bounds/classify.js';
import {visibleRows} from '../../src/mask/bounds/visible.js';
import type {HostBounds} from '../../src/mask/bounds/intervals.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';

export type Colour = 'full' | 'visible' | 'masked' | 'empty' | 'grid' | 'lower' | 'upper';
export type Palette = Record<Colour, string>;

/** The colours of the style sheet, in the current theme. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const names: Colour[] = ['full', 'visible', 'masked', 'empty', 'grid', 'lower', 'upper'];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--mask-${name}`)])) as Palette;
}

export interface Drawing {
  mask: FlashMask;
  /** Side of the tiles. */
  tile: number;
  batch: number;
  head: number;
  /** Whether the vectors are drawn over the mask. */
  vectors: boolean;
  /** Whether lines are drawn between tiles and, where there is room, between pairs. */
  grid: boolean;
}

/** A canvas of `width` pixels of the device; its height follows from the mask. Returns the tiles. */
export function drawMask(canvas: HTMLCanvasElement, width: number, drawing: Drawing, colours: Palette): TileGrid {
  const {mask, tile, batch, head} = drawing;
  const height = Math.max(1, Math.min(2 * width, Math.round((width * mask.queryLength) / mask.keyLength)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext('2d', {alpha: false})!;
  const tiles = tileKinds(mask, tile, tile, batch, head);
  const scale = {x: width / mask.keyLength, y: height / mask.queryLength};
  context.fillStyle = colours.empty;
  context.fillRect(0, 0, width, height);
  fillTiles(context, tiles, 'partial', colours.masked, scale);
  fillVisible(context, drawing, colours.visible, scale, width);
  fillTiles(context, tiles, 'full', colours.full, scale);
  if (drawing.grid) drawGrid(context, drawing, colours.grid, scale);
  if (drawing.vectors) drawVectors(context, drawing, colours, scale, width);
  return tiles;
}

interface Scale {
  x: number;
  y: number;
}

/** All tiles of a kind; neighbours of a row as one rectangle. */
function fillTiles(
  context: CanvasRenderingContext2D,
  {rows, columns, kinds, blockQ, blockK}: TileGrid,
  kind: 'partial' | 'full',
  colour: string,
  {x, y}: Scale,
): void {
  context.fillStyle = colour;
  for (let row = 0; row < rows; row++) {
    const [top, bottom] = [Math.round(row * blockQ * y), Math.round((row + 1) * blockQ * y)];
    for (let from = 0, to = 0; from < columns; from = to) {
      const first = kinds[row * columns + from];
      while (to < columns && kinds[row * columns + to] === first) to++;
      const left = Math.round(from * blockK * x);
      if (first === kind) context.fillRect(left, top, Math.round(to * blockK * x) - left, bottom - top);
    }
  }
}

/** The visible rows of each column, or of a column a pixel where there are more columns. */
function fillVisible(
  context: CanvasRenderingContext2D,
  {mask, batch, head}: Drawing,
  colour: string,
  {y}: Scale,
  width: number,
): void {
  context.fillStyle = colour;
  const strips = Math.min(width, mask.keyLength);
  for (let i = 0; i < strips; i++) {
    const key = Math.floor(((i + 0.5) * mask.keyLength) / strips);
    const [left, right] = [Math.round((i * width) / strips), Math.round(((i + 1) * width) / strips)];
    for (const [start, end] of visibleRows(mask, batch, head, key)) {
      context.fillRect(
        left,
        Math.round(start * y),
        right - left,
        Math.max(1, Math.round(end * y) - Math.round(start * y)),
      );
    }
  }
}

function drawGrid(context: CanvasRenderingContext2D, {mask, tile}: Drawing, colour: string, {x, y}: Scale): void {
  const lines = (step: number, lineWidth: number): void => {
    if (step * Math.min(x, y) < 7) return;
    context.beginPath();
    for (let key = step; key < mask.keyLength; key += step) line(context, key * x, 0, key * x, mask.queryLength * y);
    for (let row = step; row < mask.queryLength; row += step) line(context, 0, row * y, mask.keyLength * x, row * y);
    context.lineWidth = lineWidth;
    context.stroke();
  };
  context.strokeStyle = colour;
  lines(1, 1);
  lines(tile, tile * x > 24 && x > 7 ? 3 : 1);
}

function line(context: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void {
  context.moveTo(Math.round(x0), Math.round(y0));
  context.lineTo(Math.round(x1), Math.round(y1));
}

/** A stored vector. */
export interface Vector {
  name: 'LTS' | 'LTE' | 'UTS' | 'UTE';
  colour: 'lower' | 'upper';
  /** Whether masked rows end there. */
  end: boolean;
}

const LTS: Vector = {name: 'LTS', colour: 'lower', end: false};
const LTE: Vector = {name: 'LTE', colour: 'lower', end: true};
const UTS: Vector = {name: 'UTS', colour: 'upper', end: false};
const UTE: Vector = {name: 'UTE', colour: 'upper', end: true};

/** The vectors that a mask of this form stores. */
export function vectorsOf({vectors, causal}: HostBounds): Vector[] {
  if (vectors === 4) return [LTS, LTE, UTS, UTE];
  if (vectors === 2) return causal ? [LTS, LTE] : [LTS, UTE];
  return vectors === 1 ? [LTS] : [];
}

/** The bound of a column. */
export const boundOf = (mask: FlashMask, batch: number, head: number, key: number, vector: number): number =>
  mask.bounds![((batch * mask.heads + head) * mask.keyLength + key) * mask.vectors + vector];

/** The vectors as stairs: solid where the masked rows of a column start, dashed where they end. */
function drawVectors(
  context: CanvasRenderingContext2D,
  {mask, batch, head}: Drawing,
  colours: Palette,
  {y}: Scale,
  width: number,
): void {
  const strips = Math.min(width, mask.keyLength);
  const thick = Math.max(2, Math.round(width / 360));
  vectorsOf(mask).forEach(({colour, end}, vector) => {
    context.beginPath();
    let last = -Infinity;
    for (let i = 0; i < strips; i++) {
      const key = Math.floor(((i + 0.5) * mask.keyLength) / strips);
      const bound = Math.min(mask.queryLength, Math.max(0, boundOf(mask, batch, head, key, vector)));
      const at = Math.min(mask.queryLength * y - thick / 2, Math.max(thick / 2, bound * y));
      // Stairs are connected, but not from one document to the next.
      if (Math.abs(at - last) < 16 * thick) context.lineTo((i * width) / strips, at);
      else context.moveTo((i * width) / strips, at);
      last = at;
      context.lineTo(((i + 1) * width) / strips, at);
    }
    context.setLineDash(end ? [4 * thick, 3 * thick] : []);
    context.strokeStyle = colours[colour];
    context.lineWidth = thick;
    context.stroke();
  });
  context.setLineDash([]);
}
