/** @file A model's configuration (config.json of Llama, Mistral and Qwen2), and the names and shapes of its weights. */
import {JsonFields} from './json_fields.js';

/**
 * How rotary positions extend beyond the length that a model was trained at; see transformers'
 * `modeling_rope_utils.py`.
 */
export type RopeScaling =
  | {type: 'linear'; factor: number}
  /** NTK-aware: beyond `maxPositions` the base grows with the longest position of a call. */
  | {type: 'dynamic'; factor: number}
  | {type: 'llama3'; factor: number; lowFactor: number; highFactor: number; originalMaxPositions: number}
  | {
      type: 'yarn';
      factor: number;
      /** Multiplies sines and cosines. */
      attentionFactor: number;
      betaFast: number;
      betaSlow: number;
      originalMaxPositions: number;
      /** Rounds the ramp's ends to whole channels. */
      truncate: boolean;
    };

export interface LlamaConfig {
  modelType: 'llama' | 'mistral' | 'qwen2';
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  /** A divisor of `heads`: each key head serves `heads / kvHeads` consecutive query heads. */
  kvHeads: number;
  /** Even. */
  headSize: number;
  /** Length of the longest text that the model was made for, in tokens. */
  maxPositions: number;
  rmsNormEpsilon: number;
  rope: {theta: number; scaling: RopeScaling | null};
  /** Whether the language head is the table of embeddings. */
  tiedEmbeddings: boolean;
  qkvBias: boolean;
  /** Whether o_proj has a bias. */
  outputBias: boolean;
  mlpBias: boolean;
  /** Per layer the number of keys that a query sees, itself included; null for all. */
  slidingWindows: (number | null)[];
  bosTokenId: number | null;
  eosTokenIds: number[];
  padTokenId: number | null;
  /** A reward model, `...ForSequenceClassification` with one label: `score.weight [1, hiddenSize]` is its head. */
  scoreHead: boolean;
}

/** The matrices of a block, in the order in which they are applied. LoRA can adapt these. */
export const PROJECTIONS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] as const;

export type Projection = (typeof PROJECTIONS)[number];

/** @example projectionName(3, 'q_proj') // 'model.layers.3.self_attn.q_proj' */
export function projectionName(layer: number, projection: Projection): string {
  const part = PROJECTIONS.indexOf(projection) < PROJECTIONS.indexOf('gate_proj') ? 'self_attn' : 'mlp';
  return `model.layers.${layer}.${part}.${projection}`;
}

/** Shape of every weight by its Hugging Face name, in the model's order. Matrices are `[out, in]`. */
export function weightShapes(config: LlamaConfig): Map<string, number[]> {
  const {hiddenSize, vocabSize} = config;
  const shapes = new Map<string, number[]>([['model.embed_tokens.weight', [vocabSize, hiddenSize]]]);
  for (let layer = 0; layer < config.layers; layer++) {
    shapes.set(`model.layers.${layer}.input_layernorm.weight`, [hiddenSize]);
    for (const projection of PROJECTIONS) {
      if (projection === 'gate_proj') {
        shapes.set(`model.layers.${layer}.post_attention_layernorm.weight`, [hiddenSize]);
      }
      const {shape, bias} = projectionShape(config, projection);
      const name = projectionName(layer, projection);
      shapes.set(`${name}.weight`, shape);
      if (bias) shapes.set(`${name}.bias`, [shape[0]]);
    }
  }
  shapes.set('model.norm.weight', [hiddenSize]);
  if (config.scoreHead) return shapes.set('score.weight', [1, hiddenSize]);
  return config.tiedEmbeddings ? shapes : shapes.set('lm_head.weight', [vocabSize, hiddenSize]);
}

function projectionShape(config: LlamaConfig, projection: Projection): {shape: [number, number]; bias: boolean} {
  const {hiddenSize, intermediateSize, heads, kvHeads, headSize, qkvBias, outputBias, mlpBias} = config;
  switch (projection) {
    case 'q_proj':
      return {shape: [heads * headSize, hiddenSize], bias: qkvBias};
    case 'k_proj':
    case 'v_proj':
      return {shape: [kvHeads * headSize, hiddenSize], bias: qkvBias};
    case 'o_proj':
      return {shape: [hiddenSize, heads * headSize], bias: outputBias};
    case 'gate_proj':
    case 'up_proj':
      return {shape: [intermediateSize, hiddenSize], bias: mlpBias};
    case 'down_proj':
      return {shape: [hiddenSize, intermediateSize], bias: mlpBias};
  }
}

/** Far above the layers and sizes of real models (126 layers, 256,000 tokens), but lists of these sizes stay small. */
const MOST_LAYERS = 4096;
const MOST_SIZE = 2 ** 24;
/** The limit of flashMaskAttention. */
const MOST_HEAD_SIZE = 256;

/** Class names in `architectures` that this network implements, by `model_type`. */
const FAMILIES = {llama: 'Llama', mistral: 'Mistral', qwen2: 'Qwen2'} as const;

/**
 * Reads a config.json of transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`). The sizes of the
 * network are required. Other fields default to the defaults of transformers.
 *
 * @param origin How error messages begin: the file or model.
 * @throws Error that names the field, for another architecture or activation, quantised weights, or sizes that are
 *   absurd or do not match each other.
 */
export function parseConfig(json: unknown, origin: string): LlamaConfig {
  const fields = new JsonFields(json, origin);
  const {modelType, scoreHead} = readArchitecture(fields);
  checkSupported(fields);
  const layers = readSize(fields, 'num_hidden_layers', {most: MOST_LAYERS});
  const maxPositions = fields.positiveInteger('max_position_embeddings', DEFAULT_MAX_POSITIONS[modelType]);
  const attentionBias = modelType === 'llama' && fields.boolean('attention_bias', false);
  return {
    modelType,
    vocabSize: readSize(fields, 'vocab_size'),
    hiddenSize: readSize(fields, 'hidden_size'),
    intermediateSize: readSize(fields, 'intermediate_size'),
    layers,
    ...readHeads(fields, modelType),
    maxPositions,
    rmsNormEpsilon: fields.positive('rms_norm_eps', 1e-6),
    rope: readRope(fields, maxPositions),
    tiedEmbeddings: fields.boolean('tie_word_embeddings', false),
    qkvBias: attentionBias || modelType === 'qwen2',
    outputBias: attentionBias,
    mlpBias: modelType === 'llama' && fields.boolean('mlp_bias', false),
    slidingWindows: readWindows(fields, modelType, layers),
    bosTokenId: fields.tokenIds('bos_token_id', modelType === 'qwen2' ? null : 1)[0] ?? null,
    eosTokenIds: fields.tokenIds('eos_token_id', modelType === 'qwen2' ? null : 2),
    padTokenId: fields.tokenIds('pad_token_id', null)[0] ?? null,
    scoreHead,
  };
}

const DEFAULT_MAX_POSITIONS = {llama: 2048, mistral: 131072, qwen2: 32768} as const;
/** Defaults of `num_key_value_heads`. Null takes the number of query heads, as a null in the file does. */
const DEFAULT_KV_HEADS = {llama: null, mistral: 8, qwen2: 32} as const;

/** A size that determines lists and tensors. Refuses sizes that no model can have, before anything is allocated. */
function readSize(fields: JsonFields, name: string, {most = MOST_SIZE, ifMissing}: SizeRule = {}): number {
  const size = fields.positiveInteger(name, ifMissing);
  if (size > most) {
    throw new Error(`${fields.origin}: ${name} must be at most ${most}, got ${size}.`);
  }
  return size;
}

interface SizeRule {
  most?: number;
  ifMissing?: number;
}

function readArchitecture(fields: JsonFields): Pick<LlamaConfig, 'modelType' | 'scoreHead'> {
  const [architecture] = fields.strings('architectures') ?? [];
  const modelType = fields.value('model_type');
  const family = Object.entries(FAMILIES).find(([type, name]) => {
    const heads = [undefined, `${name}ForCausalLM`, `${name}ForSequenceClassification`];
    return type === modelType && heads.includes(architecture);
  });
  if (family === undefined) {
    const known = Object.entries(FAMILIES).map(
      ([type, name]) => `${type} (${name}ForCausalLM, ...ForSequenceClassification)`,
    );
    const got = `${fields.text('model_type')} (${architecture ?? 'no architectures'})`;
    throw new Error(`${fields.origin}: model_type must be ${known.join(', ')}, got ${got}.`);
  }
  const scoreHead = architecture?.endsWith('ForSequenceClassification') ?? false;
  if (scoreHead) checkOneLabel(fields);
  return {modelType: family[0] as LlamaConfig['modelType'], scoreHead};
}

function checkOneLabel(fields: JsonFields): void {
  const names = fields.value('id2label');
  // transformers omits the default of two labels.
  const labels = typeof names === 'object' && names !== null ? Object.keys(names).length : 2;
  if (labels !== 1) {
    throw new Error(`${fields.origin}: a reward model has one label (id2label), got ${labels}: this is a classifier.`);
  }
}

function checkSupported(fields: JsonFields): void {
  const activation = fields.value('hidden_act') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    throw new Error(`${fields.origin}: hidden_act must be "silu", got ${fields.text('hidden_act')}.`);
  }
  if (fields.value('quantization_config') != null) {
    const method = fields.object('quantization_config').value('quant_method');
    const remedy = 'Use the model in float32, float16 or bfloat16, or as a .gguf file.';
    throw new Error(
      `${fields.origin}: the weights are quantised (${JSON.stringify(method)}), which is not read. ${remedy}`,
    );
  }
}

function readHeads(
  fields: JsonFields,
  modelType: LlamaConfig['modelType'],
): Pick<LlamaConfig, 'heads' | 'kvHeads' | 'headSize'> {
  const heads = readSize(fields, 'num_attention_heads');
  const defaultKvHeads = fields.value('num_key_value_heads') === null ? null : DEFAULT_KV_HEADS[modelType];
  const kvHeads = readSize(fields, 'num_key_value_heads', {ifMissing: defaultKvHeads ?? heads});
  const hiddenSize = readSize(fields, 'hidden_size');
  if (fields.value('head_dim') == null && hiddenSize % heads !== 0) {
    throw new Error(
      `${fields.origin}: without head_dim, hidden_size must be a multiple of num_attention_heads, got ${hiddenSize} and ${heads}.`,
    );
  }
  const headSize = readSize(fields, 'head_dim', {most: MOST_HEAD_SIZE, ifMissing: hiddenSize / heads});
  if (heads % kvHeads !== 0) {
    throw new Error(
      `${fields.origin}: num_attention_heads must be a multiple of num_key_value_heads, got ${heads} and ${kvHeads}.`,
    );
  }
  if (headSize % 2 !== 0) {
    throw new Error(`${fields.origin}: rotary positions need an even head_dim, got ${headSize}.`);
  }
  return {heads, kvHeads, headSize};
}

function readRope(fields: JsonFields, maxPositions: number): LlamaConfig['rope'] {
  const has = (name: string): boolean => fields.value(name) != null;
  const name = ['rope_scaling', 'rope_parameters'].find(has);
  const theta = fields.positive('rope_theta', 10000);
  checkWholeHeads(fields);
  if (name === undefined) return {theta, scaling: null};
  const rope = fields.object(name);
  checkWholeHeads(rope);
  if (rope.value('full_attention') != null || rope.value('sliding_attention') != null) {
    throw new Error(`${rope.origin}: rotary positions must be the same in all layers, got some for each layer type.`);
  }
  const original = has('original_max_position_embeddings') ? fields : rope;
  const originalMaxPositions = original.positiveInteger('original_max_position_embeddings', maxPositions);
  return {theta: rope.positive('rope_theta', theta), scaling: readScaling(rope, originalMaxPositions, maxPositions)};
}

/** Checks that all channels of a head rotate. */
function checkWholeHeads(fields: JsonFields): void {
  if ((fields.value('partial_rotary_factor') ?? 1) !== 1) {
    throw new Error(`${fields.origin}: partial_rotary_factor must be 1, got ${fields.text('partial_rotary_factor')}.`);
  }
}

function readScaling(rope: JsonFields, originalMaxPositions: number, maxPositions: number): RopeScaling | null {
  const type = (rope.value('rope_type') ?? rope.value('type') ?? 'default') as RopeScaling['type'] | 'default';
  switch (type) {
    case 'default':
      return null;
    case 'linear':
    case 'dynamic':
      return {type, factor: rope.positive('factor')};
    case 'llama3':
      return readLlama3(rope, originalMaxPositions);
    case 'yarn':
      return readYarn(rope, originalMaxPositions, maxPositions);
    default:
      throw new Error(
        `${rope.origin}: rope_type must be "default", "linear", "dynamic", "llama3" or "yarn", got ${JSON.stringify(type)}.`,
      );
  }
}

function readLlama3(rope: JsonFields, originalMaxPositions: number): RopeScaling {
  const [lowFactor, highFactor] = [rope.positive('low_freq_factor'), rope.positive('high_freq_factor')];
  if (lowFactor >= highFactor) {
    throw new Error(
      `${rope.origin}: low_freq_factor must be under high_freq_factor, got ${lowFactor} and ${highFactor}.`,
    );
  }
  return {type: 'llama3', factor: rope.positive('factor'), lowFactor, highFactor, originalMaxPositions};
}

/** YaRN, arXiv 2309.00071. The attention factor is that of its equation 22, or DeepSeek's ratio of two of them. */
function readYarn(rope: JsonFields, originalMaxPositions: number, maxPositions: number): RopeScaling {
  const factor = rope.positive('factor', maxPositions / originalMaxPositions);
  const scaleOf = (weight: number): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  const [one, all] = ['mscale', 'mscale_all_dim'].map((name) => rope.nonNegative(name, 0));
  const attentionFactor = one && all ? scaleOf(one) / scaleOf(all) : scaleOf(1);
  return {
    type: 'yarn',
    factor,
    attentionFactor: rope.positive('attention_factor', attentionFactor),
    betaFast: rope.positive('beta_fast', 32),
    betaSlow: rope.positive('beta_slow', 1),
    originalMaxPositions,
    truncate: rope.boolean('truncate', true),
  };
}

/**
 * Windows as in transformers: every layer of Mistral, and Qwen2's layers from `max_window_layers` on if
 * `use_sliding_window` is set.
 */
function readWindows(fields: JsonFields, modelType: LlamaConfig['modelType'], layers: number): (number | null)[] {
  const every = new Array<number | null>(layers);
  if (modelType === 'llama' || (modelType === 'qwen2' && !fields.boolean('use_sliding_window', false))) {
    return every.fill(null);
  }
  const window = fields.value('sliding_window') === null ? null : fields.positiveInteger('sliding_window', 4096);
  if (modelType === 'mistral') return every.fill(window);
  const types = readLayerTypes(fields, layers);
  const first = fields.nonNegative('max_window_layers', 28);
  return Array.from(every, (_, layer) => {
    const slides = types === null ? layer >= first : types[layer] === 'sliding_attention';
    return slides ? window : null;
  });
}

function readLayerTypes(fields: JsonFields, layers: number): string[] | null {
  const types = fields.strings('layer_types');
  const known = types?.every((type) => type === 'full_attention' || type === 'sliding_attention') ?? true;
  if (types !== null && (types.length !== layers || !known)) {
    throw new Error(
      `${fields.origin}: layer_types must be "full_attention" or "sliding_attention" for each of ${layers} layers, ` +
        `got ${fields.text('layer_types')}.`,
    );
  }
  return types;
}
