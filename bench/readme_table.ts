/**
 * @file `npm run bench:readme`: from the committed records, docs/benchmarks/*.jsonl, to the tables in README.md, docs/benchmarks.md and
 * docs/performance.md between marks such as `<!-- benchmark -->` and `<!-- /benchmark -->`, and to the plots.
 *
 *     npm run bench -- --out bench/results      measures; copy bench/results/records.jsonl to docs/benchmarks/<name>.jsonl
 *     (bench:gpu, and bench/cuda/bench.py with --out, write such files too; bench:webgpu those named webgpu-<name>.jsonl)
 *     npm run bench:readme                      writes the tables and plots
 *     npm run bench:readme -- --check           fails if the committed ones differ
 */
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {format, resolveConfig} from 'prettier';
import {type CudaRecord, cudaTables, isCudaRecord, nodeTables} from './cuda_tables.js';
import {isWebGPUFile, performanceParts, withBlocks} from './performance_page.js';
import {memoryPlot, timePlot, type BenchRecord} from './report.js';
import type {DenseRecord} from './webgpu/records.js';
import {type Column, digits, figure as ms, table, times} from './tables.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const RECORDS = 'docs/benchmarks/';
const PLOTS = 'docs/images/benchmarks/';

/** A call that flashMaskAttention made, and dense attention too where it could. */
interface Pair {
  flash: BenchRecord;
  dense?: BenchRecord;
}

interface RecordFile {
  /** Of the file, without its ending. */
  name: string;
  records: BenchRecord[];
  /** Of bench/cuda/bench.py. */
  cuda: CudaRecord[];
}

function readFiles(): RecordFile[] {
  const folder = root + RECORDS;
  const names = existsSync(folder)
    ? readdirSync(folder).filter((name) => name.endsWith('.jsonl') && !isWebGPUFile(name))
    : [];
  return names.sort().map((name) => {
    const lines = readFileSync(folder + name, 'utf8')
      .split('\n')
      .filter(Boolean);
    const all = lines.map((line) => JSON.parse(line) as BenchRecord | CudaRecord);
    const records = all.filter((record): record is BenchRecord => !isCudaRecord(record));
    return {name: name.replace(/\.jsonl$/, ''), records, cuda: all.filter(isCudaRecord)};
  });
}

const callOf = (r: BenchRecord): string => [r.backend, r.device, r.mask, r.N, r.H, r.D, r.precision ?? ''].join(' ');

/** Flash records with their dense partners, in the order of the files. */
function pairsOf(records: readonly BenchRecord[]): Pair[] {
  const byCall = new Map<string, Partial<Pair>>();
  for (const record of records) {
    const call = callOf(record);
    const pair = byCall.get(call) ?? {};
    const earlier = pair[record.attention];
    if (earlier && !earlier.skipped && !record.skipped) {
      throw new Error(`${RECORDS}: each call must be measured once, got two of ${call}. Delete one of the lines.`);
    }
    if (!earlier || earlier.skipped) pair[record.attention] = record;
    byCall.set(call, pair);
  }
  const pairs = [...byCall.values()].filter((pair): pair is Pair => pair.flash !== undefined);
  return pairs.map(({flash, dense}) => ({flash, dense: dense?.skipped ? undefined : dense}));
}

const MIB = 2 ** 20;
const total = ({forwardMs = NaN, backwardMs = 0}: BenchRecord): number => forwardMs + backwardMs;
const mebibytes = ({peakBytes}: BenchRecord): string => (peakBytes === undefined ? '–' : digits(peakBytes / MIB));

const CALL: Column<Pair>[] = [
  ['mask', ({flash}) => `\`${flash.mask}\``],
  ['N', ({flash}) => String(flash.N)],
  ['H', ({flash}) => String(flash.H)],
  ['D', ({flash}) => String(flash.D)],
  ['masked', ({flash}) => `${(100 * flash.sparsity).toFixed(1)}%`],
];

const AGAINST_DENSE: Column<Pair>[] = [
  ...CALL,
  ['ms', ({flash}) => ms(total(flash))],
  ['dense ms', ({dense}) => ms(total(dense!))],
  ['faster', ({flash, dense}) => times(total(dense!) / total(flash))],
  ['peak MiB', ({flash}) => mebibytes(flash)],
  ['dense MiB', ({dense}) => mebibytes(dense!)],
  ['less memory', ({flash, dense}) => times((dense!.peakBytes ?? NaN) / (flash.peakBytes ?? NaN))],
  ['forward ms', ({flash}) => ms(flash.forwardMs)],
  ['dense', ({dense}) => ms(dense!.forwardMs)],
  ['backward ms', ({flash}) => ms(flash.backwardMs)],
  ['dense', ({dense}) => ms(dense!.backwardMs)],
  ['differs by', ({flash}) => (flash.difference ?? NaN).toExponential(1)],
];

const SPEED: Column<Pair>[] = [
  ...CALL,
  ['forward ms', ({flash}) => ms(flash.forwardMs)],
  ['TFLOP/s', ({flash}) => ms(flash.forwardTflops)],
  ['backward ms', ({flash}) => ms(flash.backwardMs)],
  ['TFLOP/s', ({flash}) => ms(flash.backwardTflops)],
  ['peak MiB', ({flash}) => mebibytes(flash)],
];

/** For CPUs, whose absolute times say more about the machine and its other work than about attention. */
const RATIOS: Column<Pair>[] = [
  ...CALL,
  ['faster', ({flash, dense}) => times(total(dense!) / total(flash))],
  ['less memory', ({flash, dense}) => times((dense!.peakBytes ?? NaN) / (flash.peakBytes ?? NaN))],
  ['differs by', ({flash}) => (flash.difference ?? NaN).toExponential(1)],
];

const isCpu = ({backend, device}: BenchRecord): boolean =>
  backend === 'tensorflow' ? !/nvidia/i.test(device) : backend !== 'webgpu' || /swiftshader/i.test(device);

/** A row of README.md's table: one call against dense attention, forward and backward. */
interface SummaryRow {
  device: string;
  backend: string;
  mask: string;
  N: number;
  H: number;
  D: number;
  faster: number;
  lessMemory?: number;
}

const SUMMARY: Column<SummaryRow>[] = [
  ['device', ({device}) => device],
  ['backend', ({backend}) => backend],
  ['mask', ({mask}) => `\`${mask}\``],
  ['N', ({N}) => String(N)],
  ['H', ({H}) => String(H)],
  ['D', ({D}) => String(D)],
  ['faster', ({faster}) => times(faster)],
  ['less memory', ({lessMemory}) => times(lessMemory ?? NaN)],
];

/** The mask that README.md shows of each device: the first of these that was measured there. */
const SUMMARY_MASKS = ['causalDocument', 'causal'];

/** Of each backend and device the longest measured call, and of the full WebGPU device the fastest one. */
function summary(pairs: readonly Pair[], onFullDevice: readonly DenseRecord[]): string {
  const fastest = onFullDevice
    .filter(({device}) => device === 'full')
    .sort((a, b) => b.denseMs / b.flashMs - a.denseMs / a.flashMs)
    .slice(0, 1)
    .map((r): SummaryRow => {
      const backend = `\`webgpu\`, full device, ${r.precision}`;
      return {...r, device: r.machine, backend, mask: 'causal', faster: r.denseMs / r.flashMs};
    });
  const measured = byDevice(pairs.filter(({dense}) => dense)).map((own): SummaryRow => {
    const mask = SUMMARY_MASKS.find((name) => own.some(({flash}) => flash.mask === name));
    const [{flash, dense}] = own.filter((pair) => pair.flash.mask === mask).sort((a, b) => b.flash.N - a.flash.N);
    const {device, backend, N, H, D} = flash;
    const lessMemory = (dense!.peakBytes ?? NaN) / (flash.peakBytes ?? NaN);
    const name = device === backend ? 'one CPU core' : device;
    return {
      device: name,
      backend: `\`${backend}\``,
      mask: flash.mask,
      N,
      H,
      D,
      faster: total(dense!) / total(flash),
      lessMemory,
    };
  });
  return table(SUMMARY, [
    ...fastest,
    ...measured.sort((a, b) => Number(/NVIDIA/.test(b.device)) - Number(/NVIDIA/.test(a.device))),
  ]);
}

/** The tables of one device. */
function deviceTables(pairs: readonly Pair[]): string[] {
  const {backend, device} = pairs[0].flash;
  const against = pairs.filter(({dense}) => dense);
  const alone = pairs.filter(({dense}) => !dense);
  const name = device === backend ? `\`${backend}\`` : `${device}, \`${backend}\``;
  if (isCpu(pairs[0].flash)) {
    return [
      `**${name}**, how many times faster and smaller than dense masked attention of tfjs:`,
      table(RATIOS, against),
    ];
  }
  const parts = [];
  if (against.length > 0) {
    parts.push(
      `**${name}**, forward and backward, against dense masked attention of tfjs:`,
      table(AGAINST_DENSE, against),
    );
  }
  if (alone.length > 0) parts.push(`**${name}**, by itself:`, table(SPEED, alone));
  return parts;
}

/** Pairs of one backend and device together. */
function byDevice(pairs: readonly Pair[]): Pair[][] {
  const deviceOf = ({flash}: Pair): string => `${flash.backend} ${flash.device}`;
  const devices = [...new Set(pairs.map(deviceOf))];
  return devices.map((device) => pairs.filter((pair) => deviceOf(pair) === device));
}

/** Records that are worth a plot. */
const LEAST_PLOTTED = 3;

/** Plots of each file: time against sparsity, and where it has several lengths, memory against length. */
function plotsOf({name, records}: RecordFile): [path: string, svg: string][] {
  const own = records.filter(({attention}) => attention === 'flash');
  if (own.length < LEAST_PLOTTED || records.every(isCpu)) return [];
  const plots: [string, string][] = [[`${PLOTS}${name}-time.svg`, timePlot(records)]];
  const measured = records.filter(({peakBytes}) => peakBytes !== undefined);
  if (new Set(measured.map(({N}) => N)).size > 1) plots.push([`${PLOTS}${name}-memory.svg`, memoryPlot(records)]);
  return plots;
}

function plotList(paths: readonly string[]): string {
  return paths
    .map((path) => {
      const name = path.slice(PLOTS.length).replace(/\.svg$/, '');
      return `![${name.replace(/-(time|memory)$/, ': $1')}](${path.slice('docs/'.length)})`;
    })
    .join('\n\n');
}

/** A document with new contents of its blocks, formatted. */
async function withTables(path: string, blocks: ReadonlyMap<string, string>): Promise<string> {
  const replaced = withBlocks(path, readFileSync(root + path, 'utf8'), blocks);
  return format(replaced, {...(await resolveConfig(root + path)), filepath: path});
}

/** Everything that this script writes: path to content. */
async function outputs(): Promise<Map<string, string>> {
  const files = readFiles();
  const records = files.flatMap((file) => file.records);
  const cuda = files.flatMap((file) => file.cuda);
  const pairs = pairsOf(records);
  const plots = new Map(files.flatMap(plotsOf));
  const own = byDevice(pairs).flatMap(deviceTables);
  const details = [...own, ...nodeTables(records, cuda), ...cudaTables(cuda), plotList([...plots.keys()])]
    .filter(Boolean)
    .join('\n\n');
  const performance = performanceParts(root + RECORDS, PLOTS.slice('docs/'.length));
  return new Map([
    ...plots,
    ...[...performance.plots].map(([name, svg]): [string, string] => [PLOTS + name, svg]),
    ['README.md', await withTables('README.md', new Map([['benchmark', summary(pairs, performance.dense)]]))],
    ['docs/benchmarks.md', await withTables('docs/benchmarks.md', new Map([['benchmark', details]]))],
    ['docs/performance.md', await withTables('docs/performance.md', performance.page)],
  ]);
}

/** Committed plots of records that are gone. */
function stray(files: ReadonlyMap<string, string>): string[] {
  const names = existsSync(root + PLOTS) ? readdirSync(root + PLOTS) : [];
  return names.map((name) => PLOTS + name).filter((path) => !files.has(path));
}

function check(files: ReadonlyMap<string, string>): void {
  const current = (path: string): string | null => (existsSync(root + path) ? readFileSync(root + path, 'utf8') : null);
  const changed = [...files].filter(([path, content]) => current(path) !== content).map(([path]) => path);
  const different = [...changed, ...stray(files)];
  if (different.length === 0) return;
  console.error(`Not what ${RECORDS} says: ${different.join(', ')}. Run \`npm run bench:readme\`.`);
  process.exitCode = 1;
}

function write(files: ReadonlyMap<string, string>): void {
  mkdirSync(root + PLOTS, {recursive: true});
  stray(files).forEach((path) => {
    rmSync(root + path);
  });
  files.forEach((content, path) => {
    writeFileSync(root + path, content);
  });
  console.log(`wrote ${[...files.keys()].join(', ')}`);
}

const files = await outputs();
if (process.argv.includes('--check')) check(files);
else write(files);
