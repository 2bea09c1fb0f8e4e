/**
 * @file `trainer_state.json` of a checkpoint: the state of the run, and the sha256 of every file of the checkpoint, of
 * itself too. Each field is checked before anything is done with it.
 */
import {createHash} from 'node:crypto';
import {join} from 'node:path';
import {z} from 'zod';
import {readJsonObject} from '../read_file.js';
import {writeJson} from './durable_files.js';
import type {Fingerprint} from './fingerprint.js';
import type {MetricsRecord} from './metrics.js';

/** What a resumed run must share with the run of the checkpoint, so that its losses continue without a difference. */
export interface RunIdentity {
  /** Every option that changes the numbers, by its user-facing name. JSON values. */
  settings: Readonly<Record<string, unknown>>;
  baseModel: {origin: string; fingerprint: Fingerprint};
}

/** The part of the state that the training loop passes in and gets back. */
export interface TrainerState extends RunIdentity {
  /** Drawn at the start of a run, and the same after `--resume`. Only checkpoints of the same run are deleted. */
  run: string;
  /** Where the data continue. */
  position: {epoch: number; row: number};
  logHistory: readonly MetricsRecord[];
  /** SHA-256 of the reference log-probabilities that the run computed first; null without. */
  reference: string | null;
}

/** A whole checkpoint's state. */
export interface SavedState extends TrainerState {
  step: number;
  /** SHA-256 of each other file. */
  files: Readonly<Record<string, string>>;
}

export const STATE_FILE = 'trainer_state.json';
export const OPTIMIZER_FILE = 'optimizer.safetensors';
/** The files of a model: those of an adapter, or of a whole Hugging Face folder. */
export const MODEL_FILES: readonly (readonly string[])[] = [
  ['adapter_config.json', 'adapter_model.safetensors'],
  ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'],
];

const FORMAT = 'tfjs-flashmask checkpoint';
const FORMAT_VERSION = 2;

const scalar = z.union([z.string(), z.number(), z.boolean(), z.null()]);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'should be 64 hexadecimal digits');
const fingerprint = z.strictObject({
  ...{configuration: sha256, weights: sha256, tokenizer: sha256},
  'chat template': sha256,
});
const whole = z.int().min(0);
/** JSON has no NaN and writes it as null. */
const metric = z
  .number()
  .nullable()
  .transform((value) => value ?? NaN);
const metrics = z.object({global_step: z.int().positive()}).catchall(metric);
const fileName = z.enum([OPTIMIZER_FILE, ...MODEL_FILES.flat()]);

const SCHEMA = z
  .strictObject({
    format: z.literal(FORMAT),
    format_version: z.literal(FORMAT_VERSION),
    run: z.string().regex(/^[0-9a-f]{32}$/, 'should be 32 hexadecimal digits'),
    global_step: z.int().positive(),
    settings: z.record(z.string(), z.union([scalar, z.array(scalar)])),
    base_model: z.strictObject({origin: z.string(), fingerprint}),
    data_position: z.strictObject({epoch: whole, row: whole}),
    log_history: z.array(metrics),
    reference_log_probs: sha256.nullable(),
    files: z.partialRecord(fileName, sha256),
  })
  .refine(({global_step: step, log_history: log}) => log.length === step, {
    error: 'should have a record of each step',
    path: ['log_history'],
  })
  .refine(({log_history: log}) => log.every(({global_step: step}, i) => step === i + 1), {
    error: 'should count the steps from 1',
    path: ['log_history'],
  })
  .refine(({files}) => MODEL_FILES.some((kind) => [OPTIMIZER_FILE, ...kind].every((name) => name in files)), {
    error: `should name ${OPTIMIZER_FILE} and the files of an adapter or a model`,
    path: ['files'],
  });

/** Throws, and writes nothing, if a checkpoint with this state could not be read again. */
export async function writeState(folder: string, {step, files, ...state}: SavedState): Promise<void> {
  const body = {
    format: FORMAT,
    format_version: FORMAT_VERSION,
    run: state.run,
    global_step: step,
    settings: state.settings,
    base_model: state.baseModel,
    data_position: state.position,
    log_history: state.logHistory,
    reference_log_probs: state.reference,
    files,
  };
  const path = join(folder, STATE_FILE);
  check(path, JSON.parse(JSON.stringify(body)) as object);
  await writeJson(path, {...body, sha256: checksum(body)});
}

/** Throws if it is no state of ours, was changed after it was written, or a field of it cannot be. */
export async function readState(folder: string): Promise<SavedState> {
  const path = join(folder, STATE_FILE);
  const {sha256: written, ...body} = await readJsonObject(path);
  const {format, format_version: version} = body;
  if (format !== FORMAT || version !== FORMAT_VERSION) {
    const got = `'${String(format)}' ${String(version)}`;
    throw new Error(`${path} should be of the format '${FORMAT}' ${FORMAT_VERSION}, got ${got}: another program's?`);
  }
  if (written !== checksum(body)) {
    throw new Error(`${path} is not as it was written: its sha256 is another one than it says.`);
  }
  const data = check(path, body);
  return {
    run: data.run,
    step: data.global_step,
    settings: data.settings,
    baseModel: data.base_model,
    position: data.data_position,
    logHistory: data.log_history,
    reference: data.reference_log_probs,
    files: data.files as SavedState['files'],
  };
}

function check(path: string, body: object): z.infer<typeof SCHEMA> {
  const {data, error} = SCHEMA.safeParse(body);
  if (error === undefined) return data;
  const [{path: field, message}] = error.issues;
  throw new Error(`${path}: ${field.join('.')} is no part of such a file: ${message}.`);
}

function checksum(body: object): string {
  return createHash('sha256').update(JSON.stringify(body)).digest('hex');
}
