/**
 * @file `npm run bench:webgpu`: all figures of docs/performance.md on the machine it runs on: speed against the targets and against dense
 * attention, every mask, long rows, time against visible tiles, memory against length, and first calls.
 *
 *     npm run bench:webgpu -- --out bench/results/webgpu.jsonl
 *     npm run bench:webgpu -- --parts targets,dense --devices full --precisions float16
 *     npm run bench:webgpu -- --parts masks,fit --lengths 512 --heads 2 --dims 64 --seconds 0.2     a software adapter
 *     npm run bench:webgpu -- --parts none --out bench/results/webgpu.jsonl                        only print what is in the file
 *
 * A process has one WebGPU device, so each kind of device gets a process. Records are written as they are made: a run that is killed
 * keeps what it had, and one with other options adds to it.
 */
import {fork} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Command} from 'commander';
import {list, numbers, positive} from './settings.js';
import {measureDevice, type MeasurerOptions} from './webgpu/measurer.js';
import {paperMaskNames} from './webgpu/paper_masks.js';
import {plotsOf} from './webgpu/plots.js';
import {
  DEVICE_KINDS,
  PARTS,
  PRECISIONS,
  appendRecord,
  readRecords,
  type DeviceKind,
  type WebGPURecord,
} from './webgpu/records.js';
import {describeRecord, sectionsOf} from './webgpu/tables.js';

interface Options extends MeasurerOptions {
  devices: DeviceKind[];
  out: string;
  child?: boolean;
}

/** Some of `known`, in its order, as an option; `none` for none of them. */
const some =
  <T extends string>(what: string, known: readonly T[]) =>
  (text: string): T[] => {
    const given = text === 'none' ? [] : list(text);
    const unknown = given.find((name) => !(known as readonly string[]).includes(name));
    if (unknown !== undefined) throw new Error(`bench: ${what} must be some of ${known.join(', ')}, got '${unknown}'.`);
    return known.filter((name) => given.includes(name));
  };

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`bench: seconds must be a positive number, got '${text}'.`);
  return value;
}

function readOptions(): Options {
  return new Command('bench:webgpu')
    .option('--parts <names>', `some of ${PARTS.join(', ')}; or none`, some('parts', PARTS), [...PARTS])
    .option('--devices <kinds>', 'stock, full', some('devices', DEVICE_KINDS), [...DEVICE_KINDS])
    .option('--precisions <names>', 'of the full device', some('precisions', PRECISIONS), [...PRECISIONS])
    .option('--masks <names>', `some of ${paperMaskNames.join(', ')}`, some('masks', paperMaskNames), paperMaskNames)
    .option('--lengths <N,...>', 'of masks; the first one of targets, fit and memory', numbers)
    .option('--dims <D,...>', 'head sizes', numbers, [64, 128])
    .option('--heads <H>', 'instead of as many as suit each part', positive)
    .option('--dense-length <N>', 'of the part dense', positive, 4096)
    .option('--long-length <N>', 'of the part long', positive, 131072)
    .option('--seconds <s>', 'for each measurement, after half a second to warm up', seconds, 0.7)
    .option('--machine <name>', 'name of the device in the records, where the adapter does not tell it')
    .option('--out <file>', 'records are added to it; plots lie beside it', join('bench', 'results', 'webgpu.jsonl'))
    .option('--child', 'measure one kind of device and print no tables; used by the command itself')
    .parse()
    .opts<Options>();
}

/** The command once more, for one kind of device; resolves to whether it went well. */
function runChild(device: DeviceKind): Promise<boolean> {
  const child = fork(process.argv[1], [...process.argv.slice(2), '--devices', device, '--child']);
  return new Promise((resolve) => {
    child.on('error', () => resolve(false));
    child.on('exit', (code, signal) => {
      if (code !== 0) console.error(`bench: the process of the ${device} device ended by ${signal ?? `code ${code}`}.`);
      resolve(code === 0);
    });
  });
}

async function measure(options: Options): Promise<boolean> {
  const {devices, parts, out} = options;
  if (parts.length === 0) return true;
  if (devices.length > 1) {
    const results: boolean[] = [];
    for (const device of devices) results.push(await runChild(device));
    return results.every(Boolean);
  }
  let failed = false;
  const emit = (record: WebGPURecord): void => {
    failed ||= 'error' in record;
    appendRecord(out, record);
    console.log(describeRecord(record));
  };
  for (const device of devices) await measureDevice(device, options, emit);
  return !failed;
}

function report(out: string): void {
  const records = readRecords(out);
  for (const {title, text} of sectionsOf(records)) console.log(`\n${title}\n\n${text}`);
  for (const [name, svg] of plotsOf(records)) {
    const path = out.replace(/(\.jsonl)?$/, `-${name}.svg`);
    writeFileSync(path, svg);
    console.log(`\nwrote ${path}`);
  }
}

async function main(): Promise<boolean> {
  const options = readOptions();
  const good = await measure(options);
  if (!options.child) report(options.out);
  return good;
}

try {
  const good = await main();
  process.exit(good ? 0 : 1);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}
