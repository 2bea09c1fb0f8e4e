/** @file The one record of all benchmarks: a JSON object per line of a file. Times are milliseconds, sizes bytes. */

/** The sources of records: the commands of `npm run bench`, and `cuda` for bench/cuda/bench.py. */
const SUITES = [
  'masks', 'paper', 'decode', 'long', 'schedule', 'tiles', 'finetune', 'context-parallel', 'distributed', 'cuda',
] as const; // prettier-ignore
export type Suite = (typeof SUITES)[number];

/** tfjs's own WebGPU device, or that of createWebGPUBackend(). */
export const DEVICE_KINDS = ['stock', 'full'] as const;
export type DeviceKind = (typeof DEVICE_KINDS)[number];

const OUTCOMES = ['skipped', 'out of memory', 'time limit', 'failed', 'not run'] as const;
export type Outcome = (typeof OUTCOMES)[number];

/**
 * The fields that identify a call: records that agree in them measure the same. Values are types or the allowed values.
 */
const CALL = {
  suite: SUITES,
  /** A part of the suite `paper` or `distributed`, or a pass of the suite `tiles`. */
  part: 'string',
  /** The tfjs backend; `cuda` for the kernels called from PyTorch, `torch` for PyTorch's own steps. */
  backend: 'string',
  /** Name of the hardware. */
  device: 'string',
  kind: DEVICE_KINDS,
  /** How matrix products read their inputs. Absent if the backend has one precision or the call leaves it open. */
  precision: 'string',
  /** Type of the tensors, where it is not only float32. */
  input: 'string',
  attention: ['flash', 'dense', 'flex', 'flex-flash', 'cudnn', 'fa2', 'fa4', 'sdpa'],
  model: 'string',
  task: 'string',
  keepActivations: 'boolean',
  /** Operation by operation on tfjs-node. */
  eager: 'boolean',
  /** Compiled by XLA on tfjs-node. */
  xla: 'boolean',
  /** Type of the operands of matrix products, where it is not float32. */
  dtype: 'string',
  mask: 'string',
  /** Batch; 1 where absent. */
  B: 'number',
  /** Keys and, where `Sq` is absent, queries. */
  N: 'number',
  Sq: 'number',
  H: 'number',
  /** Key heads; H where absent. */
  Hkv: 'number',
  D: 'number',
  /** Channels of a value head; D where absent. */
  Dv: 'number',
  /** Tile shape of the suite `tiles`. */
  shape: 'string',
  /** Processes that share a row, or that train together. */
  ranks: 'number',
} as const;

const FIGURES = {
  /** Why figures are missing: the kind and the message. Absent where all went well. */
  outcome: OUTCOMES,
  reason: 'string',
  /** Fraction of masked pairs. */
  masked: 'number',
  /** Non-empty tiles of 64 x 64, over all heads. */
  tiles: 'number',
  /** Time of the first forward minus that of a later one. */
  compileMs: 'number',
  forwardMs: 'number',
  backwardMs: 'number',
  /** Forward and backward together, through tf.grads. */
  bothMs: 'number',
  forwardMedianMs: 'number',
  backwardMedianMs: 'number',
  /** Over visible pairs: 2 D + 2 Dv operations per pair forward, 6 D + 4 Dv backward. */
  forwardTflops: 'number',
  backwardTflops: 'number',
  /** Speed of tf.matMul in the same process, on CPUs. */
  matMulTflops: 'number',
  /**
   * Most bytes held beyond those held before. For a training step and the suite `long` it includes those held before.
   */
  peakBytes: 'number',
  /** Largest difference of the output from dense attention. */
  difference: 'number',
  /** Relative differences of our out, dq, dk and dv from these, of FlexAttention. */
  differences: 'numbers',
  /** Relative error of some rows of the output against float64. */
  rowsError: 'number',
  /** Largest errors of some rows of each result against float64. */
  errors: 'object',
  /** First calls of a shape class in a process with the driver's disk cache off; then the same calls again. */
  firstForwardMs: 'number',
  firstBackwardMs: 'number',
  againMs: 'number',
  /** Pipelines that the first calls compiled; the other lengths called next, and the pipelines that these compiled. */
  pipelines: 'number',
  otherLengths: 'numbers',
  otherPipelines: 'number',
  /** Time of the passes that fill the mask buffer, for forward and dq, and for dkdv. */
  queryMapMs: 'number',
  keyMapMs: 'number',
  /** Questions or documents of a training row. */
  texts: 'number',
  /** Time of the first training step, which compiles shaders and loads kernels; then of the timed steps. */
  firstMs: 'number',
  steps: 'number',
  medianMs: 'number',
  bestMs: 'number',
  /**
   * Part of these spent on dense attention's masks, which `tokensPerSecond` excludes. 0 for flash, whose masks count.
   */
  maskMs: 'number',
  tokensPerSecond: 'number',
  /** Bytes held before the first step: weights, optimizer, and on a GPU the memory that the libraries take. */
  heldBytes: 'number',
  /** What counted the bytes of a training step. */
  memoryBy: 'string',
  /** Of PyTorch and its libraries. */
  versions: 'string',
  /** Resident memory of the process, on CPUs. */
  residentBytes: 'number',
  /** Loss of the first step. The learning rate is 0. */
  loss: 'number',
  gradNorm: 'number',
  /**
   * How much more live tiles the busiest rank has than the mean: of the plan, with two chunks a rank dealt from both
   * ends of the row, and with one chunk a rank.
   */
  imbalance: 'number',
  zigzagImbalance: 'number',
  contiguousImbalance: 'number',
  /** Rows of a chunk of the plan. */
  chunk: 'number',
  /** Key rows that come to a rank from others: the mean, and the most. */
  receivedRows: 'number',
  mostReceivedRows: 'number',
  /** Time of the plan, and of the rows, keys and mask of one rank. */
  planMs: 'number',
  /** Time until the host has queued a training step; the slowest rank's. */
  hostMs: 'number',
  /** A training step without collectives, and each rank's until it would wait for the others. */
  quietMs: 'number',
  ownMs: 'numbers',
  /** The longest row that trained, and the next longer one, which failed. */
  longestN: 'number',
  nextN: 'number',
  /** Duration of the whole measurement, including the start of its process. */
  seconds: 'number',
} as const;

const FIELDS = {...CALL, ...FIGURES};

interface Types {
  string: string;
  number: number;
  boolean: boolean;
  numbers: number[];
  object: Record<string, number>;
}
type Value<T> = T extends keyof Types ? Types[T] : T extends readonly (infer U)[] ? U : never;

export type Call = {-readonly [K in keyof typeof CALL]?: Value<(typeof CALL)[K]>} & {
  suite: Suite;
  device: string;
  N: number;
};
export type Figures = {-readonly [K in keyof typeof FIGURES]?: Value<(typeof FIGURES)[K]>};
export type BenchRecord = Call & Figures;
export type Emit = (record: BenchRecord) => void;

function isOfType(value: unknown, type: string | readonly string[]): boolean {
  if (typeof type !== 'string') return type.includes(value as string);
  if (type === 'numbers') return Array.isArray(value) && value.every((x) => typeof x === 'number');
  return typeof value === type;
}

/** @throws Error if `record` lacks a required field, or has an unknown field or one of another type. */
export function checkRecord(record: BenchRecord, path: string): BenchRecord {
  for (const name of ['suite', 'device', 'N'] as const) {
    if (record[name] === undefined)
      throw new Error(`${path}: a record must have ${name}, got ${JSON.stringify(record)}.`);
  }
  for (const [name, value] of Object.entries(record)) {
    if (!(name in FIELDS) || !isOfType(value, FIELDS[name as keyof typeof FIELDS])) {
      throw new Error(`${path}: fields must be those of bench/record.ts, got ${name}: ${JSON.stringify(value)}.`);
    }
  }
  return record;
}

const keyOf = (record: BenchRecord): string =>
  (Object.keys(CALL) as (keyof Call)[]).map((name) => String(record[name] ?? '')).join('|');

/** The last record of each call, in the order of the first ones. */
export function latest(records: readonly BenchRecord[]): BenchRecord[] {
  return [...new Map(records.map((record) => [keyOf(record), record])).values()];
}

/** The records of a suite, or of one part of it, that have all figures. */
export const measured = (records: readonly BenchRecord[], suite: Suite, part?: string): BenchRecord[] =>
  records.filter((r) => r.suite === suite && r.part === part && r.outcome === undefined);

/** TFLOP/s over visible pairs: 4 D operations per pair forward, 10 D backward. */
export function tflops(
  {H = 1, N, D = 0, masked = 0}: Pick<BenchRecord, 'H' | 'N' | 'D' | 'masked'>,
  pass: 'forward' | 'backward',
  ms: number,
): number {
  return ((pass === 'forward' ? 4 : 10) * D * H * N * N * (1 - masked)) / ms / 1e9;
}

/** The times of a call's passes, and their speeds. */
export function passFigures(call: Parameters<typeof tflops>[0], forwardMs: number, backwardMs?: number): Figures {
  const forward = {forwardMs, forwardTflops: tflops(call, 'forward', forwardMs)};
  if (backwardMs === undefined) return forward;
  return {...forward, backwardMs, backwardTflops: tflops(call, 'backward', backwardMs)};
}

/** Milliseconds of both passes. */
export const totalMs = ({forwardMs = NaN, backwardMs = 0}: BenchRecord): number => forwardMs + backwardMs;

/** How many times faster one record is than another. */
export const timesFaster = (ours: BenchRecord, theirs?: BenchRecord): number =>
  theirs ? totalMs(theirs) / totalMs(ours) : NaN;

/** Groups rows by title, in the order in which the titles first appear. */
export function groupedBy<Row>(rows: readonly Row[], titleOf: (row: Row) => string): [title: string, rows: Row[]][] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) groups.set(titleOf(row), [...(groups.get(titleOf(row)) ?? []), row]);
  return [...groups];
}

/** The records of one call by attention. */
export type Attentions = Partial<Record<NonNullable<Call['attention']>, BenchRecord>>;

export const byAttention = (records: readonly BenchRecord[]): Attentions =>
  Object.fromEntries(records.map((record) => [record.attention ?? 'flash', record]));

/** Each call of flash, with the calls of the other attentions that agree in all fields but these. */
export function sideBySide(records: readonly BenchRecord[], ...apartFrom: (keyof Call)[]): Pair[] {
  const without = Object.fromEntries(['attention', ...apartFrom].map((name) => [name, undefined]));
  return groupedBy(records, (record) => keyOf({...record, ...without})).flatMap(([, group]) => {
    const {flash, ...others} = byAttention(group);
    return flash ? [{flash, ...others}] : [];
  });
}

export type Pair = Attentions & {flash: BenchRecord};
