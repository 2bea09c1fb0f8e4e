/** @file The playground: a builder and its values become a picture, counts, vectors and code, in every frame anew. */
import type {TileGrid} from '../../src/mask/bounds/classify.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {byId, copyOnClick} from '../shell/dom.js';
import {onTheme} from '../shell/theme.js';
import {type BuilderName, builders, lengthOf, programOf} from './builders.js';
import {showCode} from './code.js';
import {Handles} from './drag.js';
import {showFields} from './form.js';
import {descriptionOf, showGallery} from './gallery.js';
import {changeParts} from './handles.js';
import {drawMask, palette} from './picture.js';
import {pairText, showTiles, showVectors} from './readout.js';
import {readLink, writeLink} from './link.js';
import {type Values, rescaledText} from './values.js';

/** Longer rows have more tiles than a frame has time for. */
const MOST_TOKENS = 16384;
/** Most tiles along a side. */
const MOST_TILES = 512;
const FIRST: {name: BuilderName; length: number} = {name: 'causalDocument', length: 1024};

/** What is shown: a builder, its values, and the mask that they last made. */
interface State {
  name: BuilderName;
  values: Values;
  mask: FlashMask;
  tiles: TileGrid;
  code: string;
}

const canvas = byId<HTMLCanvasElement>('picture');
const tileField = byId<HTMLSelectElement>('tile');
const lengthField = byId<HTMLInputElement>('length');
const batchField = byId<HTMLSelectElement>('batch');
const headField = byId<HTMLSelectElement>('head');
const vectorsField = byId<HTMLInputElement>('show-vectors');
const queryField = byId<HTMLInputElement>('pair-query');
const keyField = byId<HTMLInputElement>('pair-key');

const start = readLink(Object.keys(builders) as BuilderName[]);
const firstName = start?.name ?? FIRST.name;
const state = {name: firstName, values: {...builders[firstName].initial(FIRST.length), ...start?.values}} as State;
const handles = new Handles({layer: byId('handles'), size: () => state.mask, change: changeValues});
let showValues: (values: Values) => void = () => undefined;

/** Builds the mask of the values; where the builder refuses them, says why and keeps the one before. */
function build(): boolean {
  const error = byId('error');
  try {
    const length = lengthOf(state.values);
    if (length > MOST_TOKENS)
      throw new Error(`The playground draws rows of at most ${MOST_TOKENS} tokens, got ${length}.`);
    const call = builders[state.name].call(state.values);
    state.mask = call.mask;
    state.code = programOf(state.name, call);
    error.hidden = true;
    return true;
  } catch (reason) {
    error.textContent = (reason as Error).message;
    error.hidden = false;
    return false;
  }
}

/** A select with the numbers of a mask's batch rows or heads; hidden where there is one. */
function showChoices(field: HTMLSelectElement, count: number): number {
  if (field.options.length !== count) {
    field.replaceChildren(...Array.from({length: count}, (_, i) => new Option(String(i))));
  }
  field.closest<HTMLElement>('.field')!.hidden = count === 1;
  return field.selectedIndex;
}

function draw(): void {
  const {name, mask, values} = state;
  const batch = showChoices(batchField, mask.batch);
  const head = showChoices(headField, mask.heads);
  const longest = Math.max(mask.queryLength, mask.keyLength);
  const tile = Math.max(Number(tileField.value), 2 ** Math.ceil(Math.log2(longest / MOST_TILES)));
  const width = Math.round(canvas.clientWidth * Math.min(devicePixelRatio, 2));
  const drawing = {mask, tile, batch, head, vectors: vectorsField.checked, grid: true};
  state.tiles = drawMask(canvas, width, drawing, palette());
  canvas.setAttribute('aria-label', `${name}: ${showTiles(mask, state.tiles, tile)}`);
  showVectors(mask, batch, head);
  showCode(byId('code'), state.code);
  handles.show(batch === 0 && head === 0 ? (builders[name].handles?.(values, mask) ?? []) : []);
  if (document.activeElement !== lengthField) lengthField.value = String(mask.keyLength);
  showPair();
}

let frame = 0;
let linkTimer: ReturnType<typeof setTimeout> | undefined;

/** Shows the values in the next frame. */
function update(): void {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    showValues(state.values);
    if (build()) draw();
  });
  clearTimeout(linkTimer);
  linkTimer = setTimeout(() => {
    writeLink(state.name, state.values);
  }, 300);
}

function changeValues(changed: Values): void {
  state.values = {...state.values, ...changed};
  update();
}

/** Shows another builder, with its first values for rows as long as now. */
function choose(name: BuilderName, values?: Values): void {
  const {controls, initial, fixedLength = false} = builders[name];
  state.name = name;
  state.values = values ?? initial(Math.max(32, state.mask?.keyLength ?? FIRST.length));
  byId('description').textContent = descriptionOf(name);
  showValues = showFields(
    byId('fields'),
    controls.filter(({key}) => key !== 'length'),
    changeValues,
  );
  lengthField.disabled = fixedLength;
  byId('parts').hidden = partsKey() === null;
  update();
}

/** The field whose parts buttons can add and remove. */
function partsKey(): 'lengths' | 'groups' | null {
  const {values} = state;
  if ('prefixes' in values) return null;
  return 'lengths' in values ? 'lengths' : 'groups' in values ? 'groups' : null;
}

function showPair(): void {
  const [query, key] = [Number(queryField.value), Number(keyField.value)];
  byId('pair').textContent = pairText(
    state.mask,
    batchField.selectedIndex,
    headField.selectedIndex,
    query,
    key,
    state.tiles,
  );
}

/** Values of the same proportions for rows of another length. */
function resize(length: number): void {
  const before = state.mask.keyLength;
  const next: Values = {...state.values};
  for (const {key, kind, scales} of builders[state.name].controls) {
    const value = state.values[key];
    if (key === 'length') next[key] = length;
    else if (kind === 'list') next[key] = rescaledText(String(value), before, length, key === 'groups');
    else if (scales) next[key] = Math.round((Number(value) * length) / before);
  }
  changeValues(next);
}

function listen(): void {
  for (const field of [tileField, batchField, headField, vectorsField]) field.addEventListener('change', update);
  lengthField.addEventListener('input', () => {
    const length = Number(lengthField.value);
    if (Number.isInteger(length) && length >= 8) resize(length);
  });
  for (const [id, change] of [
    ['add-part', 1],
    ['remove-part', -1],
  ] as const) {
    byId(id).addEventListener('click', () => {
      const key = partsKey();
      if (key !== null) changeValues({[key]: changeParts(String(state.values[key]), change)});
    });
  }
  for (const field of [queryField, keyField]) field.addEventListener('input', showPair);
  canvas.addEventListener('pointermove', ({offsetX, offsetY}) => {
    queryField.value = String(Math.floor((offsetY / canvas.clientHeight) * state.mask.queryLength));
    keyField.value = String(Math.floor((offsetX / canvas.clientWidth) * state.mask.keyLength));
    showPair();
  });
  copyOnClick(byId('copy-code'), () => state.code);
  copyOnClick(byId('copy-link'), () => {
    writeLink(state.name, state.values);
    return location.href;
  });
  copyOnClick(byId('copy-install'), () => byId('install').textContent);
  onTheme(update);
  new ResizeObserver(update).observe(canvas.parentElement!);
}

showGallery(byId('gallery'), firstName, (name) => {
  choose(name);
});
listen();
// A damaged link shows the builder's first values.
choose(firstName, build() ? state.values : builders[firstName].initial(FIRST.length));
