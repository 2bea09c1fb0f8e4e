/** @file Models for the fine-tuning benchmark: real shapes with random weights, which are quick to make. */
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {type LlamaConfig, parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import {normal} from '../../examples/finetune/random.js';
import type {ModelFiles} from '../../examples/finetune/weights/model_files.js';

export const COMMON = {
  model_type: 'llama', architectures: ['LlamaForCausalLM'], rms_norm_eps: 1e-5, tie_word_embeddings: true,
}; // prettier-ignore

/** By the size names of Hugging Face. `tiny` is for tests. */
export const CONFIGS = {
  tiny: {
    vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4,
    num_key_value_heads: 2, max_position_embeddings: 8192,
  },
  'smollm2-135m': {
    vocab_size: 49152, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, num_attention_heads: 9,
    num_key_value_heads: 3, max_position_embeddings: 8192, rope_theta: 100000,
  },
  /** Llama-3.2-1B. */
  'llama-1b': {
    vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32,
    num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 131072, rope_theta: 500000,
    rope_scaling: {
      rope_type: 'llama3', factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192,
    },
  },
} as const; // prettier-ignore

export type ModelName = keyof typeof CONFIGS;

export const MODELS = Object.keys(CONFIGS) as ModelName[];

/** Standard deviation of fresh weights, as transformers' `initializer_range`. */
const DEVIATION = 0.02;
/**
 * How many random numbers to draw. All weights repeat them. The number is prime, so that the rows of a matrix differ.
 */
const DRAWN = 1048573;

/** A model of a real shape without a file: norms are ones, all other weights are normal noise. */
export function randomModel(name: ModelName): ModelFiles {
  const configJson = {...COMMON, ...CONFIGS[name]};
  const config = parseConfig(configJson, name);
  const shapes = weightShapes(config);
  const numbers = randomNumbers(config);
  let tensors = 0;
  const read = (weight: string): Promise<HostTensor> => {
    const shape = shapes.get(weight)!;
    const size = shape.reduce((product, length) => product * length, 1);
    if (weight.endsWith('norm.weight')) return Promise.resolve({shape, data: new Float32Array(size).fill(1)});
    const start = (7919 * ++tensors) % DRAWN;
    return Promise.resolve({shape, data: numbers.subarray(start, start + size)});
  };
  return {
    origin: name,
    config,
    configJson,
    names: new Set(shapes.keys()),
    read,
    tokenizerJson: {},
    tokenizerConfig: {},
    close: () => Promise.resolve(),
  };
}

/** Normal numbers for the largest weight, wherever it starts among the drawn numbers. They repeat the drawn numbers. */
function randomNumbers(config: LlamaConfig): Float32Array {
  const largest = Math.max(config.vocabSize, config.intermediateSize) * config.hiddenSize;
  const numbers = new Float32Array(DRAWN + largest);
  const next = normal(1);
  for (let i = 0; i < DRAWN; i++) numbers[i] = DEVIATION * next();
  for (let filled = DRAWN; filled < numbers.length; filled *= 2) {
    numbers.copyWithin(filled, 0, Math.min(filled, numbers.length - filled));
  }
  return numbers;
}
