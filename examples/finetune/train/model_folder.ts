/**
 * @file A whole model as a Hugging Face folder: `config.json`, `model.safetensors`, the tokenizer. Python's
 * `AutoModelFor….from_pretrained(folder)` and our `openModel(folder)` read it.
 */
import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import type {LlamaConfig} from '../model/config.js';
import {type Tensors, writeSafetensors} from '../weights/safetensors.js';
import {writeJson} from './durable_files.js';

export interface ModelFolder {
  /** Hugging Face's `config.json`. */
  configJson: Record<string, unknown>;
  tokenizerJson: Record<string, unknown>;
  /** `tokenizer_config.json`, with the chat template. */
  tokenizerConfig: Record<string, unknown>;
  /** Hugging Face's name and the shape of each weight. */
  shapes: ReadonlyMap<string, readonly number[]>;
  /** The weights, one after another in any order, so that a large model need not be on the host twice. */
  tensors: Tensors;
}

/** What Transformers calls the classes of each `model_type`. */
const FAMILIES: Record<LlamaConfig['modelType'], string> = {llama: 'Llama', mistral: 'Mistral', qwen2: 'Qwen2'};

/** Writes a model in float32 into a folder, made if need be. */
export async function writeModelFolder(folder: string, model: ModelFolder): Promise<void> {
  const {configJson, tokenizerJson, tokenizerConfig, shapes, tensors} = model;
  await mkdir(folder, {recursive: true});
  await writeSafetensors(join(folder, 'model.safetensors'), shapes, tensors);
  // The weights are float32 now. Transformers 4 reads torch_dtype, 5 reads dtype, and each would round the weights to what it says.
  await writeJson(join(folder, 'config.json'), {...configJson, torch_dtype: 'float32', dtype: 'float32'});
  await writeJson(join(folder, 'tokenizer.json'), tokenizerJson);
  await writeJson(join(folder, 'tokenizer_config.json'), tokenizerConfig);
}

/**
 * The `config.json` of the reward model that has a language model's body: one label, whose score a head reads off the last token.
 *
 * Transformers takes the last token that is no padding. Many chat models pad with the token that ends an answer, whose score it would
 * then miss: that padding token is left out, and Transformers asks for rows one by one.
 *
 * @example rewardModelConfig({model_type: 'llama'}).architectures // ['LlamaForSequenceClassification']
 */
export function rewardModelConfig(configJson: Record<string, unknown>): Record<string, unknown> {
  const {model_type: type, pad_token_id: padding, eos_token_id: ends} = configJson;
  return {
    ...configJson,
    architectures: [`${FAMILIES[type as LlamaConfig['modelType']]}ForSequenceClassification`],
    id2label: {0: 'LABEL_0'},
    label2id: {LABEL_0: 0},
    pad_token_id: [ends].flat().includes(padding) ? null : padding,
  };
}
