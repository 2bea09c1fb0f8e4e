/**
 * @file A model in a .gguf file, under Hugging Face's names and in its layout. Names and metadata: llama.cpp's
 * gguf-py/gguf/constants.py
 */
import type {HostTensor} from '../host_tensor.js';
import {parseConfig, weightShapes} from '../model/config.js';
import {type GgufFile, openGguf} from './gguf.js';
import {Metadata} from './gguf_metadata.js';
import {tokenizerOf} from './gguf_tokenizer.js';
import type {ModelFiles} from './model_files.js';
import {pairsToHalves} from './rotary_rows.js';

/** GGUF's tensor names to Hugging Face's. Names within a layer omit the layer's prefix on both sides. */
const MODEL_NAMES: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
};
const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};
/** Factors of the rotary frequencies, which are read into the configuration. */
const ROPE_FACTORS = 'rope_freqs.weight';

/**
 * Opens a .gguf file of architecture llama (Llama, SmolLM, Mistral) or qwen2.
 *
 * @throws when the file is damaged, or its architecture, number format, tokenizer or rotary scaling is not supported.
 */
export async function openGgufModel(path: string, origin: string = path): Promise<ModelFiles> {
  const file = await openGguf(path);
  try {
    const metadata = new Metadata(file.metadata, path);
    const architecture = metadata.text('general.architecture');
    if (architecture !== 'llama' && architecture !== 'qwen2') {
      throw new Error(
        `${path} is of the architecture ${architecture}. Supported in GGUF are llama (with Mistral) and qwen2.`,
      );
    }
    checkWhole(metadata);
    const names = hubNames(file);
    const tokenizer = tokenizerOf(metadata);
    const factors = file.tensors.has(ROPE_FACTORS) ? (await file.read(ROPE_FACTORS)).data : null;
    const configJson = configOf(metadata, architecture, file, factors);
    const config = parseConfig(configJson, origin);
    checkPlaces(names, weightShapes(config), path);
    const rotated = architecture === 'llama' ? /\.(q|k)_proj\.(weight|bias)$/ : null;
    return {
      ...{origin, config, configJson, ...tokenizer, names: new Set(names.keys())},
      async read(name) {
        const own = names.get(name);
        if (own === undefined) {
          throw new Error(`${origin} has no tensor ${name}.`);
        }
        const tensor: HostTensor = await file.read(own);
        return rotated?.test(name) ? pairsToHalves(tensor, config.headSize, `${origin}: ${own}`) : tensor;
      },
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function checkWhole(metadata: Metadata): void {
  const parts = metadata.number('split.count', 1);
  if (parts > 1) {
    throw new Error(
      `${metadata.path} is one of ${parts} parts of a model. Join them into one file: llama-gguf-split --merge.`,
    );
  }
}

/** GGUF's names by Hugging Face's names. Throws on tensors that no network of these families has. */
function hubNames(file: GgufFile): Map<string, string> {
  const names = new Map<string, string>();
  const unknown: string[] = [];
  for (const own of file.tensors.keys()) {
    const [, layer, part, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(own) ?? [];
    const table = layer === undefined ? MODEL_NAMES : LAYER_NAMES;
    if (part !== undefined && Object.hasOwn(table, part)) {
      names.set(`${layer === undefined ? '' : `model.layers.${layer}.`}${table[part]}.${kind}`, own);
    } else if (own !== ROPE_FACTORS) {
      unknown.push(own);
    }
  }
  refuse(unknown, file.path);
  return names;
}

/** Throws on tensors that this network does not use, like biases its family lacks: results would be wrong. */
function checkPlaces(names: ReadonlyMap<string, string>, shapes: ReadonlyMap<string, number[]>, path: string): void {
  const others = [...names].filter(([name]) => !shapes.has(name));
  refuse(
    others.map(([, own]) => own),
    path,
  );
}

function refuse(tensors: readonly string[], path: string): void {
  if (tensors.length > 0) {
    const more = tensors.length > 5 ? `, and ${tensors.length - 5} more` : '';
    throw new Error(
      `${path} has tensors that a Llama, Mistral or Qwen2 has not: ${tensors.slice(0, 5).join(', ')}${more}. ` +
        'It is a model of another kind.',
    );
  }
}

/** Hugging Face's config.json. */
function configOf(
  metadata: Metadata,
  architecture: 'llama' | 'qwen2',
  file: GgufFile,
  factors: Float32Array | null,
): Record<string, unknown> {
  const number = (key: string, otherwise?: number): number => metadata.number(`${architecture}.${key}`, otherwise);
  const heads = number('attention.head_count');
  const hidden = number('embedding_length');
  const window = architecture === 'llama' ? metadata.optionalNumber('llama.attention.sliding_window') : null;
  const modelType = window === null ? architecture : 'mistral';
  const headSize = number('attention.key_length', hidden / heads);
  const rotated = number('rope.dimension_count', headSize);
  if (rotated !== headSize) {
    throw new Error(
      `${file.path} rotates ${rotated} of ${headSize} channels of a head. Only all of them are supported.`,
    );
  }
  const theta = number('rope.freq_base', 10000);
  return {
    architectures: [{llama: 'LlamaForCausalLM', mistral: 'MistralForCausalLM', qwen2: 'Qwen2ForCausalLM'}[modelType]],
    model_type: modelType,
    vocab_size: file.tensors.get('token_embd.weight')?.shape[0] ?? number('vocab_size'),
    hidden_size: hidden,
    intermediate_size: number('feed_forward_length'),
    num_hidden_layers: layersOf(file, number('block_count')),
    num_attention_heads: heads,
    num_key_value_heads: number('attention.head_count_kv', heads),
    head_dim: headSize,
    hidden_act: 'silu',
    max_position_embeddings: number('context_length'),
    rms_norm_eps: number('attention.layer_norm_rms_epsilon'),
    rope_theta: theta,
    rope_scaling: ropeScalingOf(metadata, architecture, factors, {theta, headSize}),
    tie_word_embeddings: !file.tensors.has('output.weight'),
    attention_bias: file.tensors.has('blk.0.attn_q.bias'),
    mlp_bias: file.tensors.has('blk.0.ffn_gate.bias'),
    ...(window === null ? {} : {sliding_window: window}),
    bos_token_id: metadata.optionalNumber('tokenizer.ggml.bos_token_id'),
    eos_token_id: metadata.optionalNumber('tokenizer.ggml.eos_token_id'),
    pad_token_id: metadata.optionalNumber('tokenizer.ggml.padding_token_id'),
    torch_dtype: 'float32',
  };
}

function layersOf(file: GgufFile, layers: number): number {
  const there = [...file.tensors.keys()].filter((name) => /^blk\.\d+\.attn_norm\.weight$/.test(name)).length;
  if (there !== layers) {
    throw new Error(`${file.path} should have ${layers} layers by its metadata, but has the tensors of ${there}.`);
  }
  return layers;
}

interface Rotary {
  theta: number;
  headSize: number;
}

function ropeScalingOf(
  metadata: Metadata,
  architecture: string,
  factors: Float32Array | null,
  rotary: Rotary,
): Record<string, unknown> | null {
  // Few converters write these, but ignoring them would give wrong positions.
  for (const other of [`${architecture}.rope.scale_linear`, `${architecture}.rope.scaling.attn_factor`]) {
    if (metadata.number(other, 1) !== 1) {
      throw new Error(`${metadata.path}: its metadata ${other} is ${metadata.number(other)}. Only 1 is supported.`);
    }
  }
  const key = `${architecture}.rope.scaling`;
  const type = metadata.text(`${key}.type`, 'none');
  if (factors !== null) {
    return llama3Scaling(factors, rotary, metadata);
  }
  switch (type) {
    case 'none':
      return null;
    case 'linear':
      return {rope_type: type, factor: metadata.number(`${key}.factor`)};
    case 'yarn': {
      const original = metadata.number(`${key}.original_context_length`);
      return {rope_type: type, factor: metadata.number(`${key}.factor`), original_max_position_embeddings: original};
    }
    default:
      throw new Error(`${metadata.path}: the rotary scaling ${type} is not supported in GGUF, only linear and yarn.`);
  }
}

/**
 * The parameters of Llama 3's scaling. A .gguf file has only the resulting factors. So this tries what all of Meta's
 * models use, frequency factors 1 and 4 and 8192 positions, with the largest factor.
 */
function llama3Scaling(factors: Float32Array, {theta, headSize}: Rotary, {path}: Metadata): Record<string, unknown> {
  const scaling = {low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192};
  const factor = factors.reduce((largest, value) => Math.max(largest, value), 1);
  const same = Array.from({length: headSize / 2}, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headSize);
    const turns = scaling.original_max_position_embeddings / wavelength;
    const smooth = Math.min(1, Math.max(0, (turns - 1) / (4 - 1)));
    return Math.abs(factors[i] * ((1 - smooth) / factor + smooth) - 1) < 1e-3;
  });
  if (factors.length !== headSize / 2 || same.includes(false)) {
    throw new Error(
      `${path}: the factors of its ${ROPE_FACTORS} are not those of Llama 3's scaling with ${JSON.stringify(scaling)}. ` +
        'Convert the original model to a Hugging Face folder instead.',
    );
  }
  return {rope_type: 'llama3', factor, ...scaling};
}
