/** @file The search over playground, guide and API reference: a dialog over Pagefind's index. */
import {make} from './dom.js';

interface Found {
  url: string;
  excerpt: string;
  meta: {title?: string};
  sub_results?: {title: string; url: string; excerpt: string}[];
}

/** The parts of Pagefind's module that are used here. */
interface Pagefind {
  options(options: {excerptLength: number; baseUrl: string}): Promise<void>;
  debouncedSearch(query: string): Promise<{results: {data(): Promise<Found>}[]} | null>;
}

const MOST_PAGES = 8;
const NO_INDEX = 'There is no index here. `npm run site:build` makes it.';

/** Loads the index when it is first needed. */
async function loadPagefind(root: string): Promise<Pagefind> {
  const base = new URL(root, location.href);
  const pagefind = (await import(/* @vite-ignore */ new URL('pagefind/pagefind.js', base).href)) as Pagefind;
  await pagefind.options({excerptLength: 18, baseUrl: base.pathname});
  return pagefind;
}

/** The results of a page: the page, or the sections that match. */
function entries({url, excerpt, meta, sub_results: sections = []}: Found): HTMLLIElement[] {
  const parts = sections.length === 0 ? [{title: '', url, excerpt}] : sections.slice(0, 3);
  return parts.map((part) => {
    const link = make('a', {href: part.url});
    const page = meta.title ?? url;
    link.append(make('strong', {}, part.title && part.title !== page ? `${page} › ${part.title}` : page));
    const text = make('span');
    // Pagefind escapes the text and marks the words that were found.
    text.innerHTML = part.excerpt;
    link.append(text);
    return make('li', {}, link);
  });
}

/** Makes the dialog; it opens by a click on `button`, by `/` and by Ctrl or Cmd with K. */
export function startSearch(button: HTMLElement, root: string): void {
  const input = make('input', {type: 'text',
    // Of the type `search`, the first Escape would empty the field, not close the dialog.
    role: 'searchbox',
    enterkeyhint: 'search', placeholder: 'Search guide, API and pages', 'aria-label': 'Search', autocomplete: 'off'}); // prettier-ignore
  const status = make('p', {role: 'status', class: 'search-status'});
  const list = make('ul', {class: 'search-results', 'aria-label': 'Results'});
  const close = make('button', {type: 'button', class: 'quiet'}, 'Close');
  const dialog = make('dialog', {class: 'search', 'aria-label': 'Search'}, make('div', {class: 'search-field'}, input, close), status, list); // prettier-ignore
  document.body.append(dialog);
  let pagefind: Promise<Pagefind> | undefined;
  const search = async (): Promise<void> => {
    const query = input.value.trim();
    try {
      const answer =
        query === '' ? {results: []} : await (await (pagefind ??= loadPagefind(root))).debouncedSearch(query);
      // Null where a later key press has asked again.
      if (answer === null) return;
      const pages = await Promise.all(answer.results.slice(0, MOST_PAGES).map((result) => result.data()));
      list.replaceChildren(...pages.flatMap(entries));
      status.textContent = query === '' ? '' : `${answer.results.length} pages`;
    } catch {
      status.textContent = NO_INDEX;
    }
  };
  const open = (): void => {
    if (!dialog.open) dialog.showModal();
    input.select();
  };
  input.addEventListener('input', () => void search());
  button.addEventListener('click', open);
  close.addEventListener('click', () => {
    dialog.close();
  });
  dialog.addEventListener('keydown', (event) => {
    moveBetween(event, [input, ...list.querySelectorAll('a')]);
  });
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog || (event.target as Element).closest('a')) dialog.close();
  });
  openByKeys(open);
}

/** Arrow keys go from the field to the results and between them. */
function moveBetween(event: KeyboardEvent, stops: HTMLElement[]): void {
  const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
  const at = stops.indexOf(document.activeElement as HTMLElement);
  if (step === 0 || at < 0) return;
  event.preventDefault();
  stops[Math.min(stops.length - 1, Math.max(0, at + step))].focus();
}

function openByKeys(open: () => void): void {
  // In the capture phase, so that TypeDoc's own search, which these pages hide, does not open too.
  const onKey = (event: KeyboardEvent): void => {
    const inField = (event.target as Element).closest?.('input, textarea, select, [contenteditable]') != null;
    const asked = (event.key === '/' && !inField && !event.ctrlKey && !event.metaKey && !event.altKey) ||
      (event.key.toLowerCase() === 'k' && (event.ctrlKey || event.metaKey)); // prettier-ignore
    if (!asked) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    open();
  };
  addEventListener('keydown', onKey, {capture: true});
}
