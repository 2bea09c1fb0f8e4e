/**
 * @file Draws every mask of the table into docs/images/masks with the library's `toSVG`, and lists the pictures in
 * docs/masks.md between `<!-- gallery -->` and `<!-- /gallery -->`. Also draws how a row is dealt to ranks,
 * and the life of a tile in the CUDA kernels.
 *
 *     npx tsx scripts/gallery.ts            writes pictures and lists
 *     npx tsx scripts/gallery.ts --check    fails if the committed ones differ
 */
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {seededRandom} from '../src/mask/builders/random.js';
import {toSVG} from '../src/mask/pictures/svg.js';
import {type MaskEntry, maskTable} from '../test/support/mask_table.js';
import {dealtPicture} from './dealt_row.js';
import {tilePicture} from './tile_life.js';

/** Tokens of a picture, and tokens per tile. */
const LENGTH = 24;
const TILE = 4;
/** A seed for the table. Its documents show full, partial and empty tiles. */
const SEED = 23;
const COLUMNS = 3;

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = 'docs/images/masks/';

/** The picture of one row of the table. It is the same in every run. */
export function galleryPicture({title, build}: MaskEntry): string {
  return toSVG(build(LENGTH, seededRandom(SEED)), {title, blockQ: TILE, blockK: TILE});
}

/** An HTML table of the pictures. */
function galleryList(): string {
  const cells = maskTable.map(({name, title, description}) =>
    [
      `<td width="${Math.floor(100 / COLUMNS)}%" valign="top">`,
      `<img src="${IMAGES}${name}.svg" alt="${title} mask"><br>`,
      `<code>masks.${name}</code><br>${description}`,
      '</td>',
    ].join('\n'),
  );
  const rows: string[] = [];
  for (let i = 0; i < cells.length; i += COLUMNS) rows.push(`<tr>\n${cells.slice(i, i + COLUMNS).join('\n')}\n</tr>`);
  return `<table>\n${rows.join('\n')}\n</table>`;
}

/** The document that lists the gallery, and the folder of the pictures, relative to it. */
const DOCUMENT = 'docs/masks.md';
const IMAGES = 'images/masks/';

/** All files that this script writes: path to content. */
function outputs(): Map<string, string> {
  const files = new Map(maskTable.map((entry) => [`${folder}${entry.name}.svg`, galleryPicture(entry)]));
  files.set('docs/images/context-parallel.svg', dealtPicture());
  files.set('docs/images/hopper-tile.svg', tilePicture());
  const text = readOr(DOCUMENT) ?? '';
  const list = `<!-- gallery -->\n${galleryList()}\n<!-- /gallery -->`;
  files.set(
    DOCUMENT,
    text.replace(/<!-- gallery -->[^]*<!-- \/gallery -->/, () => list),
  );
  return files;
}

/** Committed pictures of masks that are not in the table. */
function stray(files: Map<string, string>): string[] {
  const names = existsSync(root + folder) ? readdirSync(root + folder) : [];
  return names.map((name) => folder + name).filter((path) => !files.has(path));
}

/** Files that are missing, stray or out of date. */
export function differences(): string[] {
  const files = outputs();
  const changed = [...files].filter(([path, content]) => readOr(path) !== content).map(([path]) => path);
  return [...changed, ...stray(files)];
}

function readOr(path: string): string | null {
  return existsSync(root + path) ? readFileSync(root + path, 'utf8') : null;
}

function write(): void {
  const files = outputs();
  mkdirSync(root + folder, {recursive: true});
  stray(files).forEach((path) => {
    rmSync(root + path);
  });
  files.forEach((content, path) => {
    writeFileSync(root + path, content);
  });
  console.log(`wrote ${[...files.keys()].join(', ')}`);
}

function check(): void {
  const different = differences();
  if (different.length === 0) return;
  console.error(`Not what the library draws: ${different.join(', ')}. Run scripts/gallery.ts.`);
  process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--check')) check();
  else write();
}
