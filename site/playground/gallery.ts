/** @file The pictures from which a builder is chosen. */
import {maskTable} from '../../test/support/mask_table.js';
import {make} from '../shell/dom.js';
import {onTheme} from '../shell/theme.js';
import {type BuilderName, builders} from './builders.js';
import {drawMask, palette} from './picture.js';

/** Tokens and tiles of the small pictures, and their pixels. */
const LENGTH = 24;
const TILE = 4;
const PIXELS = 120;

/** Fills the group of radio buttons. */
export function showGallery(container: HTMLElement, chosen: BuilderName, choose: (name: BuilderName) => void): void {
  const pictures: (() => void)[] = [];
  for (const {name, title} of maskTable) {
    const input = make('input', {type: 'radio', name: 'builder', value: name, id: `builder-${name}`});
    input.checked = name === chosen;
    input.addEventListener('change', () => {
      choose(name);
    });
    const canvas = make('canvas', {'aria-hidden': 'true'});
    const {mask} = builders[name].call(builders[name].initial(LENGTH));
    pictures.push(() =>
      drawMask(canvas, PIXELS, {mask, tile: TILE, batch: 0, head: 0, vectors: false, grid: false}, palette()),
    );
    container.append(make('label', {class: 'thumb', for: input.id}, input, canvas, make('span', {}, title)));
  }
  const draw = (): void => {
    pictures.forEach((picture) => {
      picture();
    });
  };
  draw();
  onTheme(draw);
}

/** What a query sees under a builder's masks. */
export const descriptionOf = (name: BuilderName): string => maskTable.find((entry) => entry.name === name)!.description;
