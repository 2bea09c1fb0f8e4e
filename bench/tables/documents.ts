/**
 * @file Turns the committed records, docs/benchmarks/*.jsonl, into the tables of README.md and docs/*.md and the plots
 * beside them. A table stands between marks like `<!-- webgpu-masks -->` and `<!-- /webgpu-masks -->`.
 */
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {format, resolveConfig} from 'prettier';
import {readRecords} from '../record_files.js';
import {plotsOf} from './plots.js';
import {sectionsOf} from './report.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const RECORDS = 'docs/benchmarks/';
const PLOTS = 'docs/images/benchmarks/';

/** The section that shows the plots of each kind, below its table. */
const PLOT_SECTIONS: [RegExp, string][] = [
  [/^webgpu-.*-tiles$/, 'webgpu-fit'],
  [/^webgpu-.*-memory$/, 'webgpu-memory'],
  [/^context-parallel-/, 'context-parallel'],
  [/-speed-\d+$/, 'cuda-speed'],
  [/./, 'benchmark'],
];

/** The record files by name, without ending. */
function readFiles(): [name: string, path: string][] {
  const paths = readdirSync(root + RECORDS, {recursive: true, encoding: 'utf8'}).filter((path) =>
    path.endsWith('.jsonl'),
  );
  return paths.sort().map((path) => [path.replace(/\.jsonl$/, ''), root + RECORDS + path]);
}

/** The text between the marks of each section, and the plots by path. */
function contents(): {blocks: Map<string, string>; plots: Map<string, string>} {
  const files = readFiles().map(([name, path]) => ({name, records: readRecords(path)}));
  const plots = new Map(files.flatMap(({name, records}) => [...plotsOf(name, records)]));
  const blocks = new Map(sectionsOf(files.flatMap(({records}) => records)).map(({name, text}) => [name, text]));
  for (const name of plots.keys()) {
    const [, section] = PLOT_SECTIONS.find(([pattern]) => pattern.test(name))!;
    const title = name.replace(/-(time|memory|tiles|balance|bytes|speed-\d+)$/, ': $1');
    blocks.set(section, `${blocks.get(section)!}\n\n![${title}](images/benchmarks/${name}.svg)`);
  }
  return {blocks, plots: new Map([...plots].map(([name, svg]) => [`${PLOTS}${name}.svg`, svg]))};
}

/** Replaces the text between the marks of each block that `text` has. Also returns the names of these blocks. */
export function withBlocks(text: string, blocks: ReadonlyMap<string, string>): {text: string; names: string[]} {
  let result = text;
  const names = [...blocks.keys()].filter((name) => text.includes(`<!-- ${name} -->`));
  for (const name of names) {
    const pattern = new RegExp(`<!-- ${name} -->[^]*?<!-- /${name} -->`);
    if (!pattern.test(result)) throw new Error(`<!-- ${name} --> must be closed by <!-- /${name} -->.`);
    result = result.replace(pattern, () => `<!-- ${name} -->\n\n${blocks.get(name)!}\n\n<!-- /${name} -->`);
  }
  return {text: result, names};
}

/** All files to write: path to content. Throws if a section has records but no document shows it. */
async function outputs(): Promise<Map<string, string>> {
  const {blocks, plots} = contents();
  const files = new Map(plots);
  const shown = new Set<string>();
  const documents = readdirSync(`${root}docs`).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`); // prettier-ignore
  for (const path of ['README.md', ...documents.sort()]) {
    const {text, names} = withBlocks(readFileSync(root + path, 'utf8'), blocks);
    names.forEach((name) => shown.add(name));
    if (names.length > 0) files.set(path, await format(text, {...(await resolveConfig(root + path)), filepath: path}));
  }
  const hidden = [...blocks].filter(([name, text]) => text !== '' && !shown.has(name)).map(([name]) => name);
  if (hidden.length > 0)
    throw new Error(`bench: a document must have the marks of each section, got none of ${hidden.join(', ')}.`);
  return files;
}

/** Committed plots whose records are gone. */
function stray(files: ReadonlyMap<string, string>): string[] {
  const names = existsSync(root + PLOTS) ? readdirSync(root + PLOTS) : [];
  return names.map((name) => PLOTS + name).filter((path) => !files.has(path));
}

/** Writes the tables and plots of the documents. */
export async function writeDocuments(): Promise<void> {
  const files = await outputs();
  mkdirSync(root + PLOTS, {recursive: true});
  for (const path of stray(files)) rmSync(root + path);
  for (const [path, content] of files) writeFileSync(root + path, content);
  console.log(`wrote ${[...files.keys()].join(', ')}`);
}

/** @throws Error if the documents differ from the records. */
export async function checkDocuments(): Promise<void> {
  const files = await outputs();
  const current = (path: string): string | null => (existsSync(root + path) ? readFileSync(root + path, 'utf8') : null);
  const changed = [...files].filter(([path, content]) => current(path) !== content).map(([path]) => path);
  const different = [...changed, ...stray(files)];
  if (different.length > 0) {
    throw new Error(`Not what ${RECORDS} says: ${different.join(', ')}. Run \`npm run bench -- tables\`.`);
  }
}
