/** @file The guide and the API reference: TypeDoc's pages, with the header, style and search of all other pages. */
import {execFile} from 'node:child_process';
import {cpSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {join, sep} from 'node:path';
import {promisify} from 'node:util';
import {header} from './header.js';

/** README.md shows pictures from here, so that npm shows them too. */
const RAW = 'https://raw.githubusercontent.com/tfjs-flashmask/tfjs-flashmask/main/docs/images/';

/** Writes TypeDoc's pages. Its warnings are errors, as in `npm run docs`. */
export async function writeGuide(root: string, folder: string): Promise<void> {
  const typedoc = join(root, 'node_modules/typedoc/bin/typedoc');
  await promisify(execFile)(process.execPath, [typedoc, '--out', folder], {cwd: root});
}

/**
 * Gives the pages of `output`/guide what the others have. `guide.html`, which Vite built for this, has the links of
 * style and scripts in its head; it is removed.
 */
export function joinGuide(root: string, output: string): void {
  const template = join(output, 'guide.html');
  const head =
    readFileSync(template, 'utf8').match(/<(?:link|script)[^>]*(?:href|src)="\.\/[^>]*>(?:<\/script>)?/g) ?? [];
  rmSync(template);
  // Pagefind's index takes the place of TypeDoc's.
  rmSync(join(output, 'guide/assets/search.js'));
  cpSync(join(root, 'docs/images'), join(output, 'images'), {recursive: true});
  for (const page of pagesOf(join(output, 'guide'))) {
    const path = join(output, 'guide', page);
    writeFileSync(path, joined(readFileSync(path, 'utf8'), page, head.join('')));
  }
}

/** All HTML files below a folder, relative to it. */
export function pagesOf(folder: string): string[] {
  const files = readdirSync(folder, {recursive: true, encoding: 'utf8'}).map((path) => path.replaceAll(sep, '/'));
  return files.filter((path) => path.endsWith('.html')).sort();
}

/** One page of TypeDoc as a page of the site. */
function joined(html: string, page: string, head: string): string {
  const up = '../'.repeat(page.split('/').length);
  const current = /^(index|documents)/.test(page) ? 'guide' : 'api';
  const toolbar = /<header class="tsd-page-toolbar">[^]*?<\/header>/;
  return replaced(html, [
    ['<body>', `<body class="guide${page === 'index.html' ? ' home' : ''}">`],
    ['</head>', `${head.replaceAll('"./', `"${up}`)}</head>`],
    [toolbar, (old) => `${header(up, current)}${controls(old)}`],
    ['<div class="col-content">', '<main class="col-content" id="main" data-pagefind-body>'],
    [/<\/div>(\s*<div class="col-sidebar">)/, '</main>$1'],
    [
      /<script async src="[^"]*assets\/search.js" id="tsd-search-script">/,
      '<script type="application/json" id="tsd-search-script">',
    ],
  ]).replaceAll(RAW, `${up}images/`);
}

/**
 * TypeDoc's script needs the controls of its search, which stay hidden. Its menu of narrow windows cannot be reached by
 * the keyboard, so a button takes its place (site/shell/guide.ts).
 */
function controls(toolbar: string): string {
  const [, search] = /(<button id="tsd-search-trigger"[^]*?<\/dialog>)/.exec(toolbar) ?? [];
  const menu = '<button type="button" class="guide-menu" aria-expanded="false">Contents</button>';
  return `<div hidden><div id="tsd-toolbar-links"></div>${search}</div>${menu}`;
}

type Replacement = string | ((old: string) => string);

/** Replaces the first place of each pattern. Throws without one: TypeDoc's pages are then other than expected. */
function replaced(html: string, changes: [pattern: string | RegExp, by: Replacement][]): string {
  return changes.reduce((text, [pattern, by]) => {
    const result = text.replace(pattern, by as string);
    if (result === text) throw new Error(`A page of TypeDoc should have ${String(pattern)}.`);
    return result;
  }, html);
}
