/**
 * @file A tiny Llama with fresh weights as a Hugging Face folder, and data that it learns in a few steps, without a
 * download.
 */
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import {normal} from '../../examples/finetune/random.js';
import {writeModelFolder} from '../../examples/finetune/train/model_folder.js';
import {TINY_VOCABULARY, tinyTokenizerConfig, tinyTokenizerJson} from './tiny_tokenizer.js';

/** Hugging Face's config.json of the model. */
export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: TINY_VOCABULARY,
  hidden_size: 48,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 12,
  hidden_act: 'silu',
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
};

/** Writes the model into a folder. Other fields of config.json, or another seed, give another model. */
export async function writeTinyModel(folder: string, seed = 1, fields: Record<string, unknown> = {}): Promise<void> {
  const configJson = {...TINY_CONFIG, ...fields};
  const shapes = weightShapes(parseConfig(configJson, folder));
  const next = normal(seed);
  const fresh = ([name, shape]: [string, number[]]): [string, HostTensor] => {
    const length = shape.reduce((product, size) => product * size, 1);
    return [name, {shape, data: Float32Array.from({length}, () => (shape.length === 1 ? 1 : 0.1 * next()))}];
  };
  await writeModelFolder(folder, {
    configJson,
    tokenizerJson: tinyTokenizerJson(),
    tokenizerConfig: tinyTokenizerConfig(),
    shapes,
    tensors: [...shapes].map(fresh),
  });
}

const NAMES = ['Ada', 'Bo', 'Cleo', 'Dan', 'Eve', 'Finn', 'Gil', 'Hope', 'Ian', 'Joy', 'Kit', 'Lou'];

/** Instructions whose answers follow one rule, as JSON lines. */
export function writeInstructions(folder: string): string {
  const file = join(folder, 'instructions.jsonl');
  const records = NAMES.flatMap((name) =>
    ['Greet', 'Call'].map((instruction) => ({
      instruction: `${instruction} ${name}.`,
      input: '',
      output: `Hello, ${name}!`,
    })),
  );
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return file;
}

/** Questions with ranked answers, polite ones first, as JSON lines. */
export function writeComparisons(folder: string, answers = 2): string {
  const file = join(folder, `comparisons_${answers}.jsonl`);
  const ranked = (name: string): string[] => [`Hello, dear ${name}!`, `Hi ${name}.`, `What, ${name}?`].slice(-answers);
  const records = NAMES.map((name) => ({prompt: `Greet ${name}.`, answers: ranked(name)}));
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return file;
}
