/**
 * @file `npm run bench -- SUITE` measures and prints a line per record. It then prints the tables of the record file,
 * to which it adds the records. `npm run bench -- tables` writes the tables of the documents.
 */
import {writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {Command, Option} from 'commander';
import {DTYPES} from '../examples/finetune/commands/train_options.js';
import {BACKENDS} from './backend.js';
import {answer} from './child.js';
import {MODELS} from './finetune/models.js';
import {measureRanks} from './finetune/rank_steps.js';
import {TASKS} from './finetune/rows.js';
import {measureSteps} from './finetune/step.js';
import {paperMasks} from './masks.js';
import {count, list, numbers, positive, some} from './options.js';
import {answerAsRank} from './ranks.js';
import {DEVICE_KINDS, type DeviceKind, type Emit, type Suite} from './record.js';
import {appendRecord, readRecords} from './record_files.js';
import {runContextParallel} from './suites/context_parallel.js';
import {runDecode} from './suites/decode.js';
import {DISTRIBUTED_PARTS, SHARED_MASKS, runDistributed} from './suites/distributed.js';
import {ATTENTIONS, runFinetune} from './suites/finetune.js';
import {runLong} from './suites/long.js';
import {peakOf, runMasks} from './suites/masks.js';
import {PARTS, PRECISIONS, runPaper} from './suites/paper.js';
import {runSchedule} from './suites/schedule.js';
import {runTiles} from './suites/tiles.js';
import {checkDocuments, writeDocuments} from './tables/documents.js';
import {plotsOf} from './tables/plots.js';
import {describeRecord, tablesOf} from './tables/report.js';

/** Prints the tables of a record file, and writes its plots beside it. */
function report(file: string): void {
  const records = readRecords(file);
  console.log(`\n${tablesOf(records)}`);
  for (const [name, svg] of plotsOf(basename(file, '.jsonl'), records)) {
    const path = join(file, '..', `${name}.svg`);
    writeFileSync(path, svg);
    console.log(`\nwrote ${path}`);
  }
}

/** Runs `work`, adds its records to the file, then reports the file. */
async function measure(file: string, work: (emit: Emit) => Promise<void>): Promise<void> {
  let failed = false;
  await work((record) => {
    failed ||= record.outcome === 'failed';
    appendRecord(file, record);
    console.log(describeRecord(record));
  });
  report(file);
  if (failed) process.exitCode = 1;
}

const program = new Command('npm run bench --')
  .description('Benchmarks. Each suite has its own --help.')
  .configureHelp({sortSubcommands: false});

/** A command named after a suite. `--out` says where its records go. */
const suite = (name: Suite, description: string, run: (options: never, emit: Emit) => Promise<void>): Command =>
  program
    .command(name, {isDefault: name === 'masks'})
    .description(description)
    .option('--machine <name>', 'name of the device in the records, where the adapter does not tell it')
    .option('--out <file>', 'records are added to it, and plots lie beside it', join('bench', 'results', `${name}.jsonl`))
    .action((options: {out: string}) => measure(options.out, (emit) => run(options as never, emit))); // prettier-ignore

/** Defaults of the options of attention calls. */
interface Calls {
  device?: DeviceKind;
  masks?: string[];
  /** Masks to choose from. Default: any name, which the source of the documents must know. */
  known?: string[];
  lengths?: number[];
  heads?: number;
  dims?: number[];
  seconds?: number;
}

const withCalls = (command: Command, {device = 'stock', known, masks = known ?? [], lengths, heads, dims, seconds = 1}: Calls): Command =>
  command
    .addOption(
      new Option('--device <kind>', "the WebGPU device: tfjs's own, or createWebGPUBackend()'s")
        .choices(DEVICE_KINDS)
        .default(device),
    )
    .option('--masks <names>', 'masks by their builders', known ? some(known) : list, masks)
    .option('--lengths <N,...>', 'sequence lengths', numbers, lengths)
    .option('--heads <H>', 'heads', count, heads)
    .option('--dims <D,...>', 'head sizes', numbers, dims)
    .option('--seconds <s>', 'seconds for each measurement', positive, seconds); // prettier-ignore

const precision = (): Option =>
  new Option('--precision <name>', 'what the products of flashMaskAttention read')
    .choices(['auto', 'float32', 'float16', 'bfloat16'])
    .default('auto');

withCalls(suite('masks', 'forward and backward against dense masked attention of tfjs ops, on any backend', runMasks), {
  lengths: [512, 1024], heads: 2, dims: [64], masks: ['full', 'causal', 'slidingWindow', 'causalDocument'],
})
  .addOption(precision())
  .addOption(new Option('--backend <name>', 'tfjs backend').choices(BACKENDS).default('webgpu'))
  .option(
    '--documents <source>',
    'what is packed in a row: as the table of masks draws it (table), the paper (paper), bench/cuda/masks.py (cuda), or so many equal documents',
    (text) => (['table', 'paper', 'cuda'].includes(text) ? text : count(text)),
    'table',
  )
  .option('--no-dense', 'leave dense attention out')
  .option('--forward-only', 'leave the backward out')
  .option('--deterministic', 'bit-identical gradients')
  .option('--memory', 'on tensorflow: also measure peak memory, each attention in a process of its own'); // prettier-ignore

withCalls(
  suite('paper', 'the WebGPU kernels on one kind of device: every mask of the paper, long rows, memory, first calls', runPaper),
  {device: 'full', dims: [64, 128], seconds: 0.7, known: paperMasks},
)
  .option('--parts <names>', `some of ${PARTS.join(', ')}`, some(PARTS), [...PARTS])
  .option('--precisions <names>', 'of a full device', some(PRECISIONS), [...PRECISIONS])
  .option('--dense-length <N>', 'of the part dense', count, 4096)
  .option('--long-length <N>', 'of the part long', count, 131072); // prettier-ignore

withCalls(suite('decode', 'one query against long keys, next to dense attention of tfjs ops', runDecode), {
  lengths: [4096, 8192, 16384, 32768, 65536, 131072], heads: 32, dims: [128], seconds: 0.3,
})
  .addOption(precision())
  .option('--key-heads <Hkv,...>', 'key and value heads', numbers, [8, 32]); // prettier-ignore

withCalls(
  suite('long', 'tensors past what a storage binding covers, rows of the results compared with float64', runLong),
  {device: 'full', lengths: [131072], heads: 32, dims: [128], masks: ['causal', 'causalDocument']},
)
  .addOption(precision())
  .addOption(new Option('--layout <order>').choices(['bhsd', 'bshd']).default('bhsd'))
  .option('--documents <count>', 'equal documents of causalDocument', count, 16)
  .option('--binding <bytes>', 'take bindings to cover no more than this', count);

withCalls(
  suite('schedule', 'the passes that make the bounds map and schedule of a mask, next to its forward', runSchedule),
  {lengths: [8192], heads: 32, dims: [64], masks: ['slidingWindow', 'causalDocument', 'document', 'sharedQuestion']},
);

withCalls(suite('tiles', 'tile shapes of each pass, as autotune() times them, of causal calls', runTiles), {
  lengths: [8192], heads: 32, dims: [64, 128],
}).addOption(precision()); // prettier-ignore

suite('finetune', 'training steps of the example application with both attentions', runFinetune)
  .addOption(
    new Option('--backend <name>', 'tfjs backend').choices(['tensorflow', 'webgpu', 'cpu']).default('tensorflow'),
  )
  .option('--models <names>', `of ${MODELS.join(', ')}`, some(MODELS), ['smollm2-135m'])
  .option('--tasks <names>', `of ${TASKS.join(', ')}`, some(TASKS), [...TASKS])
  .option('--attention <names>', `of ${ATTENTIONS.join(', ')}`, some(ATTENTIONS), ATTENTIONS)
  .option('--lengths <N,...>', 'tokens of a row', numbers, [2048, 4096, 8192, 16384, 32768, 65536])
  .option('--steps <n>', 'timed steps after the first', count, 3)
  .option('--seconds <s>', 'begin no further timed step after so many', positive, 10)
  .option('--longest', 'also find the longest row that each attention can train')
  .option('--longest-up-to <N>', 'but no longer than this', count, 2 ** 20)
  .option('--bisections <n>', 'times that the gap to the first failure is halved', Number, 2)
  .option('--keep-activations', 'do not compute blocks twice', false)
  .option('--eager', 'on tfjs-node: operation by operation, not in traced functions', false)
  .option('--xla', 'on tfjs-node: compile by XLA', false)
  .addOption(
    new Option('--dtype <type>', 'of the operands of products, on tfjs-node').choices(DTYPES).default('float32'),
  )
  .option('--python <path>', "its PyTorch's steps are measured too (with --backend tensorflow)", 'python3')
  .option('--no-torch', 'without them')
  .option('--timeout <s>', 'seconds for one measurement, with the start of its process', positive, 120)
  .option('--minutes <m>', 'start nothing after so many', positive, Infinity);

suite('context-parallel', 'balance and bytes of plans for ranks that share a row, without ranks', runContextParallel)
  .option('--masks <names>', 'masks of the paper', some(paperMasks), paperMasks)
  .option('--lengths <N,...>', 'tokens of a row', numbers, [131072, 1048576])
  .option('--ranks <n,...>', 'processes that share a row', numbers, [8, 64, 512]);

suite('distributed', 'training steps of the example application on one GPU and on several', runDistributed)
  .option('--parts <names>', `some of ${DISTRIBUTED_PARTS.join(', ')}`, some(DISTRIBUTED_PARTS), [...DISTRIBUTED_PARTS])
  .option('--ranks <n,...>', 'processes, a GPU each', numbers, [1, 2])
  .option('--models <names>', `of ${MODELS.join(', ')}; long rows are for the last`, some(MODELS), ['smollm2-135m', 'llama-1b'])
  .option('--masks <names>', `of a row that ranks share: ${SHARED_MASKS.join(', ')}`, some(SHARED_MASKS), [...SHARED_MASKS])
  .option('--data-length <N>', 'tokens of a row of one rank', count, 8192)
  .option('--context-length <N>', 'tokens of a row that the ranks share', count, 131072)
  .option('--longest-from <N>', 'the first of the two rows that tell where memory ends', count, 65536)
  .option('--longest-up-to <N>', 'times the ranks: try no longer rows', count, 2 ** 20)
  .option('--document-tokens <N>', 'of the documents of the longest row', count, 16384)
  .option('--steps <n>', 'timed steps', count, 10)
  .option('--seconds <s>', 'begin no further timed step after so many', positive, 10)
  .option('--timeline', 'also steps without collectives: what is left is transfers, and waiting for others', false)
  .option('--eager', 'operation by operation, not in traced functions', false)
  .option('--xla', 'compile by XLA', false)
  .addOption(new Option('--dtype <type>', 'of the operands of products').choices(DTYPES).default('float32'))
  .option('--mpiexec <path>', 'starts the processes, which CPUs need; default: as torchrun does')
  .option('--timeout <s>', 'seconds for one measurement, with the start of its processes', positive, 180); // prettier-ignore

/** Measurements that run in a process of their own (child.ts). */
const CHILDREN: Record<string, (options: never) => Promise<object>> = {peak: peakOf, step: measureSteps};
program
  .command('child <measurement> <options>', {hidden: true})
  .action((name: string, options: string) => answer(() => CHILDREN[name](JSON.parse(options) as never)));

/** A measurement that runs in several processes (ranks.ts). */
program
  .command('rank <options>', {hidden: true})
  .action((options: string) => answerAsRank((emit) => measureRanks(JSON.parse(options) as never, emit)));

program
  .command('tables')
  .description('write the tables and plots of README.md and docs/ from docs/benchmarks/*.jsonl')
  .option('--check', 'fail if they differ from the records, and write nothing')
  .option('--from <file>', 'print the tables of this record file instead')
  .action(async ({check, from}: {check?: boolean; from?: string}) => {
    if (from !== undefined) console.log(tablesOf(readRecords(from)));
    else await (check ? checkDocuments() : writeDocuments());
  });

try {
  await program.parseAsync();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
// Dawn may keep the process alive.
process.exit(process.exitCode ?? 0);
