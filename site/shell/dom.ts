/** @file Short names for what all pages do with the document. */

/** The element of this id. Throws without one, because then the page and its script do not match. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the page's own HTML says what it is
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`The page has no element #${id}.`);
  return element as T;
}

/** The field of a form. */
export const field = (id: string): HTMLInputElement | HTMLSelectElement => byId<HTMLInputElement>(id);

/** Shows what the page's work is at. */
export function say(text: string): void {
  byId('status').textContent = text;
}

/** A new element with attributes and children. An attribute that is undefined is left out. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | undefined> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Copies a text, and says so in the button for a moment. */
export function copyOnClick(button: HTMLElement, text: () => string): void {
  const label = button.textContent ?? '';
  let timer: ReturnType<typeof setTimeout> | undefined;
  const say = (words: string): void => {
    button.textContent = words;
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = label), 1500);
  };
  button.addEventListener('click', () => {
    navigator.clipboard.writeText(text()).then(
      () => {
        say('Copied');
      },
      () => {
        say('Select and copy');
      },
    );
  });
}

/** @example bytes(33554432) // '32.0 MiB' */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** power;
  return `${power === 0 ? value : value.toPrecision(value < 1000 ? 3 : 4)} ${units[power]}`;
}

/** @example significant(0.012345) // '0.0123' */
export const significant = (value: number): string =>
  value >= 1000 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));

/** @example percent(0.5) // '50.0%' */
export const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
