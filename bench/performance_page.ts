/**
 * @file From the records of `npm run bench:webgpu` in docs/benchmarks/webgpu-*.jsonl to the tables and plots of
 * docs/performance.md, between `<!-- NAME -->` and `<!-- /NAME -->`. `npm run bench:readme` writes them (bench/readme_table.ts).
 */
import {existsSync, readdirSync} from 'node:fs';
import {type DenseRecord, latest, ofPart, readRecords} from './webgpu/records.js';
import {plotsOf} from './webgpu/plots.js';
import {SECTION_NAMES, sectionsOf} from './webgpu/tables.js';

/** Whether a file of docs/benchmarks/ is one of these. */
export const isWebGPUFile = (name: string): boolean => /^webgpu-.*\.jsonl$/.test(name);

/** What fills the blocks of docs/performance.md, by their names, and the plots by their files' names. */
export interface PerformanceParts {
  page: Map<string, string>;
  plots: Map<string, string>;
  /** Forward and backward against dense attention, for README.md. */
  dense: DenseRecord[];
}

const NO_RECORDS = '_Not measured yet._';

/** @param folder Of the records; @param images Of the plots, as the page refers to it. */
export function performanceParts(folder: string, images: string): PerformanceParts {
  const names = existsSync(folder) ? readdirSync(folder).filter(isWebGPUFile).sort() : [];
  const records = latest(names.flatMap((name) => readRecords(folder + name)));
  const texts = new Map(sectionsOf(records).map(({name, text}) => [name, text]));
  const plots = plotsOf(records);
  const page = new Map(SECTION_NAMES.map((name) => [`webgpu-${name}`, texts.get(name) ?? NO_RECORDS]));
  for (const [name, section] of [
    ['tiles', 'webgpu-fit'],
    ['memory', 'webgpu-memory'],
  ] as const) {
    if (plots.some(([plot]) => plot === name))
      page.set(section, `${page.get(section)!}\n\n![${section}](${images}webgpu-${name}.svg)`);
  }
  return {
    page,
    plots: new Map(plots.map(([name, svg]) => [`webgpu-${name}.svg`, svg])),
    dense: ofPart(records, 'dense'),
  };
}

/** `text` with new contents between the marks of each block. Throws if it lacks a block. */
export function withBlocks(path: string, text: string, blocks: ReadonlyMap<string, string>): string {
  let result = text;
  for (const [name, content] of blocks) {
    const pattern = new RegExp(`<!-- ${name} -->[^]*<!-- /${name} -->`);
    if (!pattern.test(result)) throw new Error(`${path} must have <!-- ${name} --> and <!-- /${name} -->.`);
    result = result.replace(pattern, () => `<!-- ${name} -->\n\n${content}\n\n<!-- /${name} -->`);
  }
  return result;
}
