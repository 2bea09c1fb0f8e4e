/**
 * @file From the records of `npm run bench:webgpu` in docs/benchmarks/webgpu-*.jsonl to the tables and plots of docs/performance.md and the
 * summary in README.md, between `<!-- NAME -->` and `<!-- /NAME -->`. `npm run bench:readme` writes them (bench/readme_table.ts).
 */
import {existsSync, readdirSync} from 'node:fs';
import {targetOf, latest, ofPart, readRecords, type SpeedRecord, type WebGPURecord} from './webgpu/records.js';
import {plotsOf} from './webgpu/plots.js';
import {SECTION_NAMES, sectionsOf} from './webgpu/tables.js';
import {type Column, figure, table, times} from './tables.js';

/** Whether a file of docs/benchmarks/ is one of these. */
export const isWebGPUFile = (name: string): boolean => /^webgpu-.*\.jsonl$/.test(name);

/** What fills the blocks of docs/performance.md and README.md, by their names, and the plots by their files' names. */
export interface PerformanceParts {
  page: Map<string, string>;
  readme: Map<string, string>;
  plots: Map<string, string>;
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
    readme: new Map([['webgpu', summary(records)]]),
    plots: new Map(plots.map(([name, svg]) => [`webgpu-${name}.svg`, svg])),
  };
}

/** A row for each device, precision and head size. */
function summary(records: readonly WebGPURecord[]): string {
  const speeds = ofPart(records, 'targets');
  if (speeds.length === 0) return NO_RECORDS;
  const dense = ofPart(records, 'dense');
  const faster = (r: SpeedRecord): string => {
    const same = dense.find(
      (d) => d.machine === r.machine && d.device === r.device && d.precision === r.precision && d.D === r.D,
    );
    return same ? times(same.denseMs / same.flashMs) : '–';
  };
  const columns: Column<SpeedRecord>[] = [
    ['on', ({machine}) => machine],
    ['device', ({device}) => device],
    ['precision', ({precision}) => precision],
    ['D', ({D}) => String(D)],
    ['forward', (r) => figure(r.forwardTflops)],
    ['backward', (r) => figure(r.backwardTflops)],
    ['asked', (r) => askedOf(r)],
    ['against dense tfjs', faster],
  ];
  return table(columns, speeds);
}

function askedOf(r: SpeedRecord): string {
  const target = targetOf(r);
  return target ? `${figure(target.forward[r.D])} / ${figure(target.backward[r.D])}` : '–';
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
