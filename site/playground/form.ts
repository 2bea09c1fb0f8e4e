/** @file The fields of the chosen builder. */
import {make} from '../shell/dom.js';
import type {Control, Values} from './values.js';

/** A field, and how to show another value in it. */
interface Field {
  element: HTMLElement;
  show: (value: Values[string]) => void;
}

export type OnChange = (changed: Values) => void;

function flagField({key, label}: Control, change: OnChange): Field {
  const input = make('input', {type: 'checkbox', id: `field-${key}`});
  input.addEventListener('change', () => {
    change({[key]: input.checked});
  });
  const element = make('label', {class: 'flag', for: input.id}, input, label);
  return {element, show: (value) => (input.checked = value === true)};
}

function field({key, label, hint, min = 0, kind}: Control, change: OnChange): Field {
  const id = `field-${key}`;
  const described = {id, 'aria-describedby': hint && `${id}-hint`, spellcheck: 'false'};
  const input =
    kind === 'number'
      ? make('input', {...described, type: 'number', min: String(min), step: '1', inputmode: 'numeric'})
      : make('textarea', {...described, rows: kind === 'matrix' ? '8' : '3', class: kind});
  input.addEventListener('input', () => {
    change({[key]: kind === 'number' ? Number(input.value) : input.value});
  });
  const parts: HTMLElement[] = [make('label', {for: id}, label), input];
  if (hint !== undefined) parts.push(make('small', {id: `${id}-hint`}, hint));
  const show = (value: Values[string]): void => {
    // What the visitor is typing stays as it is.
    if (document.activeElement !== input) input.value = String(value);
  };
  return {element: make('div', {class: 'field'}, ...parts), show};
}

/** Replaces the fields in `container`. Returns a function that shows other values in them. */
export function showFields(
  container: HTMLElement,
  controls: readonly Control[],
  change: OnChange,
): (values: Values) => void {
  const fields = controls.map((control): [string, Field] => [
    control.key,
    (control.kind === 'flag' ? flagField : field)(control, change),
  ]);
  container.replaceChildren(...fields.map(([, {element}]) => element));
  return (values) => {
    for (const [key, {show}] of fields) show(values[key]);
  };
}
