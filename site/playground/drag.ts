/** @file Handles over the picture: sliders for the pointer and for the keyboard. */
import {make} from '../shell/dom.js';
import type {Handle} from './handles.js';
import type {Values} from './values.js';

/** What the handles need to know of the picture. */
interface Picture {
  layer: HTMLElement;
  /** Queries and keys. */
  size: () => {queryLength: number; keyLength: number};
  change: (values: Values) => void;
}

/** Keys that move a slider, in tokens; the page keys by a sixteenth of the range. */
const STEPS: Record<string, number> = {ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1};

/** Shows handles in a layer over the picture. The elements stay, so that the focus and a drag survive a change. */
export class Handles {
  private handles: readonly Handle[] = [];
  private readonly buttons: HTMLElement[] = [];

  constructor(private readonly picture: Picture) {}

  show(handles: readonly Handle[]): void {
    this.handles = handles;
    const {layer, size} = this.picture;
    while (this.buttons.length < handles.length) this.buttons.push(this.button(this.buttons.length));
    const shown = this.buttons.slice(0, handles.length);
    if (layer.childElementCount !== shown.length) layer.replaceChildren(...shown);
    const {queryLength, keyLength} = size();
    handles.forEach(({label, value, min, max, at: [x, y]}, i) => {
      const {style} = shown[i];
      style.left = `${(100 * Math.min(Math.max(x, 0), keyLength)) / keyLength}%`;
      style.top = `${(100 * Math.min(Math.max(y, 0), queryLength)) / queryLength}%`;
      const attributes = {'aria-label': label, 'aria-valuemin': min, 'aria-valuemax': max, 'aria-valuenow': value};
      for (const [name, text] of Object.entries(attributes)) shown[i].setAttribute(name, String(text));
      shown[i].dataset.tip = `${label}: ${value}`;
    });
  }

  private set(i: number, value: number): void {
    const {min, max, set, value: before} = this.handles[i];
    const rounded = Math.min(max, Math.max(min, Math.round(value)));
    if (rounded !== before) this.picture.change(set(rounded));
  }

  private button(i: number): HTMLElement {
    const button = make('div', {class: 'handle', role: 'slider', tabindex: '0'});
    button.addEventListener('pointerdown', (event) => {
      button.setPointerCapture(event.pointerId);
      button.focus();
      event.preventDefault();
    });
    button.addEventListener('pointermove', (event) => {
      if (button.hasPointerCapture(event.pointerId)) this.set(i, this.valueAt(i, event));
    });
    button.addEventListener('keydown', (event) => {
      const {value, min, max} = this.handles[i];
      const page = Math.max(1, Math.round((max - min) / 16));
      const to: Record<string, number> = {Home: min, End: max, PageUp: value - page, PageDown: value + page};
      const step = STEPS[event.key] as number | undefined;
      const next = step === undefined ? to[event.key] : value + step * (event.shiftKey ? 10 : 1);
      if (next === undefined) return;
      event.preventDefault();
      this.set(i, next);
    });
    return button;
  }

  private valueAt(i: number, {clientX, clientY}: PointerEvent): number {
    const {left, top, width, height} = this.picture.layer.getBoundingClientRect();
    const {queryLength, keyLength} = this.picture.size();
    return this.handles[i].read(((clientX - left) / width) * keyLength, ((clientY - top) / height) * queryLength);
  }
}
