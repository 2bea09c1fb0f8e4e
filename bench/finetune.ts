/**
 * @file `npm run bench:finetune`: what a training step of the example application costs with flashMaskAttention and with dense masked
 * attention: tokens/s, peak memory, and the longest row that each can train. Models of real shapes with random weights.
 *
 *     npm run bench:finetune -- --models smollm2-135m --tasks sft,lora,dpo,rm --lengths 2048,4096,8192 --longest --out bench/results/ft.jsonl
 *     npm run bench:finetune -- --backend webgpu --models tiny --lengths 128,256
 *     npm run bench:finetune -- --from docs/benchmarks/finetune/h100.jsonl --markdown    the tables of docs/finetune.md
 *
 * A process of its own measures each attention, so that running out of memory, at which TensorFlow may abort, is a result and not the
 * end. Its lengths grow; those after one that failed are not started.
 */
import {appendFileSync, mkdirSync, readFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {Command, Option} from 'commander';
import {positive, whole} from '../examples/finetune/commands/train_options.js';
import type {BackendName} from '../examples/finetune/device.js';
import type {AttentionKind} from '../examples/finetune/train/attention.js';
import {type ChildOptions, runChild} from './finetune/child.js';
import {longest} from './finetune/longest.js';
import {Measurer} from './finetune/measurer.js';
import {nvidiaSmi} from './finetune/memory_meter.js';
import {MODELS, type ModelName} from './finetune/models.js';
import type {StepRecord, Subject} from './finetune/records.js';
import {DISTRIBUTION, TASKS, type Task} from './finetune/rows.js';
import {describeRecord, markdownTables, tables} from './finetune/tables.js';
import {list, numbers} from './settings.js';

interface Options {
  backend: BackendName;
  models: ModelName[];
  tasks: Task[];
  attention: AttentionKind[];
  lengths: number[];
  steps: number;
  seconds: number;
  longest?: boolean;
  longestUpTo: number;
  bisections: number;
  keepActivations: boolean;
  timeout: number;
  minutes: number;
  machine?: string;
  out?: string;
  from?: string;
  markdown?: boolean;
  child?: string;
}

/** Dense first: flash is also measured at the longest that dense can. */
const ATTENTIONS: AttentionKind[] = ['dense', 'flash'];

const LENGTHS = [2048, 4096, 8192, 16384, 32768, 65536];

/** Some of `known`, in its order, as an option. */
const some =
  <T extends string>(known: readonly T[]) =>
  (text: string): T[] => {
    const given = list(text);
    const unknown = given.find((name) => !(known as readonly string[]).includes(name));
    if (unknown !== undefined) throw new Error(`bench: expected some of ${known.join(', ')}, got '${unknown}'.`);
    return known.filter((name) => given.includes(name));
  };

function readOptions(): Options {
  const backend = new Option('--backend <name>', 'tfjs backend').choices(['tensorflow', 'webgpu', 'cpu']);
  return new Command('bench:finetune')
    .addOption(backend.default('tensorflow'))
    .option('--models <names>', `of ${MODELS.join(', ')}`, some(MODELS), ['smollm2-135m'])
    .option('--tasks <names>', `of ${TASKS.join(', ')}`, some(TASKS), [...TASKS])
    .option('--attention <names>', `of ${ATTENTIONS.join(', ')}`, some(ATTENTIONS), ATTENTIONS)
    .option('--lengths <N,...>', 'tokens of a row', numbers, LENGTHS)
    .option('--steps <n>', 'timed steps after the first', whole(1), 3)
    .option('--seconds <s>', 'begin no further timed step after so many', positive, 10)
    .option('--longest', 'also find the longest row that each attention can train')
    .option('--longest-up-to <N>', 'but no longer than this', whole(1), 2 ** 20)
    .option('--bisections <n>', 'times that the gap to the first failure is halved', whole(0), 2)
    .option('--keep-activations', 'do not compute blocks twice', false)
    .option('--timeout <s>', 'seconds for one measurement, with the start of its process', positive, 120)
    .option('--minutes <m>', 'start nothing after so many', positive, Infinity)
    .option('--machine <name>', 'name of the device in the records')
    .option('--out <file>', 'append the records to it, as JSON lines')
    .option('--from <file>', 'measure nothing: print the tables of the records in it')
    .option('--markdown', 'with --from: as Markdown')
    .addOption(new Option('--child <json>', 'be the process that measures; used by the benchmark itself').hideHelp())
    .parse()
    .opts<Options>();
}

function printRecords(file: string, markdown = false): void {
  const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  const records = lines.map((line) => JSON.parse(line) as StepRecord);
  if (!markdown) {
    console.log(tables(records));
    return;
  }
  const {longest: summary, lengths} = markdownTables(records);
  console.log(`${summary}\n\n${lengths}`);
}

/** Measures one model in one kind of training with each attention. */
async function measureTask(
  pair: Omit<Subject, 'attention'>,
  options: Options,
  deadline: number,
  report: (record: StepRecord) => void,
): Promise<void> {
  let lengths = options.lengths;
  for (const attention of options.attention) {
    const measurer = new Measurer({...options, ...pair, attention, deadline});
    const reported = new Set<number>();
    const works = async (N: number): Promise<boolean | null> => {
      const record = await measurer.measure(N);
      if (!reported.has(N)) report(record);
      reported.add(N);
      return record.outcome === 'done' ? true : record.outcome === 'out of memory' ? false : null;
    };
    try {
      const best = await longestOf(works, lengths, options);
      lengths = [...new Set(best === 0 ? lengths : [...lengths, best])];
    } finally {
      await measurer.stop();
    }
  }
}

/** Tries the lengths, and on request others: the longest that works, 0 if none. */
async function longestOf(
  works: (N: number) => Promise<boolean | null>,
  lengths: readonly number[],
  {longest: search, longestUpTo: upTo, bisections}: Options,
): Promise<number> {
  let best = 0;
  for (const N of [...lengths].sort((a, b) => a - b)) {
    if ((await works(N)) === true) best = N;
  }
  return search ? longest(works, {from: best === 0 ? Math.min(...lengths) : best, upTo, bisections}) : best;
}

async function main(): Promise<void> {
  const options = readOptions();
  if (options.child !== undefined) {
    runChild(JSON.parse(options.child) as ChildOptions);
    return;
  }
  if (options.from !== undefined) {
    printRecords(options.from, options.markdown);
    return;
  }
  const start = performance.now();
  const elapsed = (): string => `[${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s]`;
  const machine = options.machine ?? (options.backend === 'tensorflow' ? (nvidiaSmi('name') ?? undefined) : undefined);
  if (options.out) mkdirSync(dirname(options.out), {recursive: true});
  console.log(`${options.backend}${machine === undefined ? '' : ` on ${machine}`}; one row a step; ${DISTRIBUTION}`);
  const records: StepRecord[] = [];
  const report = (record: StepRecord): void => {
    records.push(record);
    const {model, task, attention, N} = record;
    console.log(`${elapsed()} ${model} ${task} ${attention} N ${N}: ${describeRecord(record)}`);
    if (options.out) appendFileSync(options.out, `${JSON.stringify(record)}\n`);
  };
  for (const model of options.models) {
    for (const task of options.tasks) {
      await measureTask({model, task}, {...options, machine}, start + 60000 * options.minutes, report);
    }
  }
  console.log(`\n${tables(records)}\n\n${elapsed()} done`);
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
