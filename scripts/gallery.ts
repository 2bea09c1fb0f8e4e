/**
 * @file Draws every mask of the table into docs/images/masks, by the library itself.
 *
 *     npx tsx scripts/gallery.ts            writes the pictures
 *     npx tsx scripts/gallery.ts --check    fails if the committed ones differ
 */
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {seededRandom} from '../src/mask/random.js';
import {type MaskEntry, maskTable} from '../src/mask/table.js';

/** Tokens, and tokens a tile, of a picture. */
const LENGTH = 24;
const TILE = 4;
const folder = fileURLToPath(new URL('../docs/images/masks/', import.meta.url));

/** The picture of a row of the table, always the same. */
export function galleryPicture({title, build}: MaskEntry): string {
  return build(LENGTH, seededRandom(23)).toSVG({title, blockQ: TILE, blockK: TILE});
}

/** File name to content. */
function pictures(): Map<string, string> {
  return new Map(maskTable.map((entry) => [`${entry.name}.svg`, galleryPicture(entry)]));
}

function write(): void {
  mkdirSync(folder, {recursive: true});
  stray().forEach((name) => rmSync(folder + name));
  pictures().forEach((svg, name) => writeFileSync(folder + name, svg));
  console.log(`wrote ${maskTable.length} pictures to docs/images/masks`);
}

/** Committed pictures that the table does not have. */
function stray(): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => !pictures().has(name)) : [];
}

/** Names of pictures that are missing, stray or out of date. */
export function differences(): string[] {
  const changed = [...pictures()].filter(([name, svg]) => readOr(folder + name) !== svg).map(([name]) => name);
  return [...changed, ...stray()];
}

function readOr(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

function check(): void {
  const different = differences();
  if (different.length > 0) {
    console.error(
      `docs/images/masks differs from what the library draws: ${different.join(', ')}. Run scripts/gallery.ts.`,
    );
    process.exitCode = 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--check')) check();
  else write();
}
