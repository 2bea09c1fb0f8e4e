/**
 * @file Reads and writes adapters in the format of Hugging Face's PEFT, `adapter_config.json` and
 * `adapter_model.safetensors`: Python's `peft` loads ours, and we load its. Format:
 * https://huggingface.co/docs/peft/developer_guides/checkpoint
 */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';
import type {HostTensor} from '../host_tensor.js';
import {type LlamaConfig, PROJECTIONS, type Projection, projectionName, weightShapes} from '../model/config.js';
import {readJsonObject} from '../read_file.js';
import {openSafetensors, shapesOf, writeSafetensors} from '../weights/safetensors.js';
import {writeJson} from './durable_files.js';

export interface AdapterSettings {
  rank: number;
  alpha: number;
  dropout: number;
  targetModules: readonly Projection[];
  /** The base model of the adapter: a hub id or a folder, which Python's `AutoPeftModel…` looks up. */
  baseModel: string;
  /** A language model, or a reward model with its score head. */
  taskType: 'CAUSAL_LM' | 'SEQ_CLS';
  /** Scales by alpha / √rank instead of alpha / rank. */
  useRslora?: boolean;
}

export interface AdapterContent extends AdapterSettings {
  /**
   * `<projection>.lora_A.weight` `[rank, in]` and `<projection>.lora_B.weight` `[out, rank]`; for SEQ_CLS
   * `score.weight` too.
   */
  tensors: Iterable<readonly [string, HostTensor]>;
}

const CONFIG_FILE = 'adapter_config.json';
const WEIGHTS_FILE = 'adapter_model.safetensors';
/** Prefix of PEFT's keys, because PEFT wraps the model twice (PeftModel.base_model, LoraModel.model). */
const PREFIX = 'base_model.model.';
/** Heads that PEFT trains and saves whole for SEQ_CLS. Transformers' classifiers use one name or the other. */
const HEADS = ['classifier', 'score'];

/** Writes an adapter into a folder. Makes the folder if needed. */
export async function writeAdapter(folder: string, {tensors, ...settings}: AdapterContent): Promise<void> {
  makeFolder(folder);
  const named = Array.from(tensors, ([name, tensor]) => [PREFIX + name, tensor] as const);
  await writeSafetensors(join(folder, WEIGHTS_FILE), shapesOf(named), named);
  await writeJson(join(folder, CONFIG_FILE), toPeft(settings));
}

/** The fields that early versions of PEFT know. A version refuses a configuration with fields that it does not know. */
function toPeft({
  rank,
  alpha,
  dropout,
  targetModules,
  baseModel,
  taskType,
  useRslora = false,
}: AdapterSettings): object {
  return {
    peft_type: 'LORA',
    task_type: taskType,
    base_model_name_or_path: baseModel,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: dropout,
    target_modules: targetModules,
    modules_to_save: taskType === 'SEQ_CLS' ? HEADS : null,
    use_rslora: useRslora,
    bias: 'none',
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
  };
}

/**
 * Reads an adapter for a model, made here or by Python's `peft`. Throws if it is not plain LoRA on all layers of that
 * model, and names the field or the tensor.
 */
export async function readAdapter(
  folder: string,
  config: LlamaConfig,
): Promise<Required<AdapterSettings> & {tensors: Map<string, HostTensor>}> {
  const {targetModules: named, ...others} = await readSettings(folder);
  const path = join(folder, WEIGHTS_FILE);
  if (!existsSync(path)) {
    const hint = existsSync(join(folder, 'adapter_model.bin'))
      ? ' It has adapter_model.bin: load that in Python and save it with safe_serialization=True.'
      : '';
    throw new Error(`${folder} has no ${WEIGHTS_FILE}.${hint}`);
  }
  const file = await openSafetensors(path);
  try {
    const settings = {...others, targetModules: named ?? projectionsIn(file.entries.keys())};
    const shapes = adapterShapes(config, settings);
    checkNames(path, file.entries.keys(), shapes);
    const tensors = new Map<string, HostTensor>();
    for (const [name, shape] of shapes) {
      const found = file.entries.get(PREFIX + name)!.shape;
      if (found.join() !== shape.join()) {
        throw new Error(
          `${path}: ${PREFIX}${name} has shape [${found}], but rank ${settings.rank} on this model needs [${shape}]. ` +
            `Is the adapter of another model, or its r in ${CONFIG_FILE} wrong?`,
        );
      }
      tensors.set(name, await file.read(PREFIX + name));
    }
    return {...settings, tensors};
  } finally {
    await file.close();
  }
}

/** The base model of an adapter, as its configuration names it. */
export async function readBaseModel(folder: string): Promise<string> {
  return (await readSettings(folder)).baseModel;
}

/** Name and shape of all tensors in an adapter, without PEFT's prefix. */
export function adapterShapes(
  config: LlamaConfig,
  {rank, targetModules, taskType}: Pick<AdapterSettings, 'rank' | 'targetModules' | 'taskType'>,
): Map<string, number[]> {
  const weights = weightShapes(config);
  const shapes = new Map<string, number[]>();
  for (let layer = 0; layer < config.layers; layer++) {
    for (const target of targetModules) {
      const projection = projectionName(layer, target);
      const [outputs, inputs] = weights.get(`${projection}.weight`)!;
      shapes.set(`${projection}.lora_A.weight`, [rank, inputs]);
      shapes.set(`${projection}.lora_B.weight`, [outputs, rank]);
    }
  }
  if (taskType === 'SEQ_CLS') {
    shapes.set('score.weight', [1, config.hiddenSize]);
  }
  return shapes;
}

function checkNames(path: string, found: Iterable<string>, shapes: ReadonlyMap<string, number[]>): void {
  const missing = new Set(Array.from(shapes.keys(), (name) => PREFIX + name));
  const unexpected = [...found].filter((name) => !missing.delete(name));
  if (missing.size > 0) {
    throw new Error(`${path} lacks ${listSome([...missing])}. Is the adapter of another model?`);
  }
  if (unexpected.length > 0) {
    throw new Error(
      `${path} holds ${listSome(unexpected)}, which the target_modules of ${CONFIG_FILE} do not name on this model. ` +
        'Is the adapter of another model, or are other weights trained besides LoRA?',
    );
  }
}

function listSome(names: string[]): string {
  const more = names.length > 3 ? ` and ${names.length - 3} more` : '';
  return names.slice(0, 3).join(', ') + more;
}

/** Fields of PEFT that do not affect what the adapter computes. */
const WITHOUT_EFFECT = new Set(
  ['auto_mapping', 'inference_mode', 'megatron_core', 'peft_version', 'qalora_group_size', 'revision'].concat([
    'ensure_weight_tying', // for embeddings in modules_to_save, which are refused
    'exclude_modules', // chose modules when the adapter was made; the tensors show them
    'runtime_config',
  ]),
);

/**
 * Ways to initialise that leave the base model's weights unchanged. `pissa`, `olora`, `loftq` and others change them.
 */
const HARMLESS_STARTS: readonly unknown[] = [undefined, true, false, 'gaussian', 'orthogonal', 'eva'];

/** Null for `targetModules` that only the tensors tell. */
type ReadSettings = Omit<Required<AdapterSettings>, 'targetModules'> & {targetModules: Projection[] | null};

async function readSettings(folder: string): Promise<ReadSettings> {
  const path = join(folder, CONFIG_FILE);
  const json = await readObject(path);
  const {peft_type, task_type, r, lora_alpha, lora_dropout, target_modules, modules_to_save, ...others} = json;
  const {base_model_name_or_path, use_rslora, init_lora_weights, bias, ...rest} = others;
  const check = (sound: boolean, field: string, rule: string): void => {
    if (!sound) {
      throw new Error(`${path}: ${field} should be ${rule}, got ${JSON.stringify(json[field]) ?? 'nothing'}.`);
    }
  };
  check(peft_type === 'LORA', 'peft_type', "'LORA' (of PEFT's methods, only LoRA is supported)");
  check(
    [undefined, null, 'CAUSAL_LM', 'SEQ_CLS'].includes(task_type as string),
    'task_type',
    "'CAUSAL_LM' or 'SEQ_CLS'",
  );
  check(Number.isInteger(r) && (r as number) > 0, 'r', 'a whole number above 0');
  check(Number.isFinite(lora_alpha) && (lora_alpha as number) > 0, 'lora_alpha', 'a number above 0');
  const dropout = (lora_dropout ?? 0) as number;
  check(Number.isFinite(dropout) && dropout >= 0 && dropout < 1, 'lora_dropout', 'a number from 0 to below 1');
  // Unsloth writes a regular expression, PEFT 'all-linear'. A hostile expression could run for ever.
  const named = typeof target_modules !== 'string';
  const rule = `a text, or a list of one or more of ${PROJECTIONS.join(', ')}`;
  check(!named || isProjections(target_modules), 'target_modules', rule);
  check(isHeads(modules_to_save), 'modules_to_save', 'null, or ["score"] for a reward model\'s adapter');
  check(HARMLESS_STARTS.includes(init_lora_weights), 'init_lora_weights', 'one that leaves the base model as it is');
  check([undefined, 'none'].includes(bias as string), 'bias', "'none' (trained biases are not supported)");
  for (const field of Object.keys(rest)) {
    check(WITHOUT_EFFECT.has(field) || isOff(rest[field]), field, 'off (only plain LoRA is supported)');
  }
  return {
    rank: r as number,
    alpha: lora_alpha as number,
    dropout,
    targetModules: named ? (target_modules as Projection[]) : null,
    baseModel: typeof base_model_name_or_path === 'string' ? base_model_name_or_path : '',
    taskType: task_type === 'SEQ_CLS' ? 'SEQ_CLS' : 'CAUSAL_LM',
    useRslora: use_rslora === true,
  };
}

async function readObject(path: string): Promise<Record<string, unknown>> {
  try {
    return await readJsonObject(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(`${path} cannot be read (ENOENT). An adapter's folder has that file.`, {cause: error});
  }
}

function isProjections(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((name) => PROJECTIONS.includes(name as Projection));
}

/** The projections that have tensors. */
function projectionsIn(names: Iterable<string>): Projection[] {
  const found = new Set(Array.from(names, (name) => name.split('.').at(-3)));
  return PROJECTIONS.filter((name) => found.has(name));
}

function isHeads(value: unknown): boolean {
  return value == null || (Array.isArray(value) && value.every((name) => HEADS.includes(name as string)));
}

/** Whether a field that may be unknown has PEFT's value for off. */
function isOff(value: unknown): boolean {
  const empty = typeof value === 'object' && value !== null && Object.keys(value).length === 0;
  return value === null || value === false || empty;
}
