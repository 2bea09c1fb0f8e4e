/** @file Head and header of every page: the pages of Vite and those of the guide have the same ones. */

const REPOSITORY = 'https://github.com/tfjs-flashmask/tfjs-flashmask';

/** What the heads of all pages share. The theme is set before anything is drawn; storage may be forbidden. */
export const HEAD = `<meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <link rel="icon" href="./favicon.svg" />
    <link rel="stylesheet" href="./style.css" />
    <script>
      try {
        document.documentElement.dataset.theme = localStorage.getItem('tsd-theme') || 'os';
      } catch {}
    </script>
    <script type="module" src="./shell/main.ts"></script>`;

/** Links of the header: name of the page, its address from the root, its label. */
const LINKS = [
  ['index', 'index.html', 'Masks'],
  ['gpu', 'gpu.html', 'Your GPU'],
  ['train', 'train.html', 'Train'],
  ['guide', 'guide/index.html', 'Guide'],
  ['api', 'guide/modules/tfjs-flashmask.html', 'API'],
] as const;

const icon = (path: string): string =>
  `<svg viewBox="0 0 20 20" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" aria-hidden="true">${path}</svg>`;

const SEARCH = icon('<circle cx="9" cy="9" r="5.5"/><path d="m13.2 13.2 3.8 3.8"/>');
const THEME = icon('<circle cx="10" cy="10" r="6.5"/><path d="M10 3.5a6.5 6.5 0 0 1 0 13z" fill="currentColor"/>');
const SOURCE = icon('<path d="m7 6-4 4 4 4M13 6l4 4-4 4"/>');

/** Three documents packed in a row. */
const LOGO =
  '<svg viewBox="0 0 20 20" width="22" height="22" aria-hidden="true"><path class="logo-empty" d="M1 1h18v18H1z"/>' +
  '<path class="logo-partial" d="M1 1h3v3H1zM4 4h3v3H4zM7 7h3v3H7zM10 10h3v3h-3zM13 13h3v3h-3zM16 16h3v3h-3z"/>' +
  '<path class="logo-full" d="M1 4h3v3H1zM7 10h3v3H7zM13 16h3v3h-3z"/></svg>';

/**
 * @param root Address of the site's root, as seen from the page: './' or '../'.
 * @param current Name of the page.
 */
export function header(root: string, current: string): string {
  const links = LINKS.map(([name, path, label]) => {
    const here = name === current ? ' aria-current="page"' : '';
    return `<a href="${root}${path}"${here}>${label}</a>`;
  });
  return [
    '<a class="skip" href="#main">Skip to the content</a>',
    `<header class="site-header" data-root="${root}"><div class="site-bar">`,
    `<a class="brand" href="${root}index.html">${LOGO}<span>tfjs-flashmask</span></a>`,
    `<nav class="site-nav" aria-label="Site">${links.join('')}</nav>`,
    '<div class="site-tools">',
    `<button type="button" class="search-open" aria-haspopup="dialog">${SEARCH}<span>Search</span><kbd aria-hidden="true">/</kbd></button>`,
    `<button type="button" class="icon-button theme" aria-label="Theme">${THEME}</button>`,
    `<a class="icon-button" href="${REPOSITORY}" aria-label="Source code on GitHub">${SOURCE}</a>`,
    '</div></div></header>',
  ].join('');
}
