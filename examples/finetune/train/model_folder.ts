/**
 * @file Writes a whole model as a Hugging Face folder: `config.json`, `model.safetensors`, the tokenizer. Python's
 * `AutoModelFor….from_pretrained(folder)` and our `openModel(folder)` read it.
 */
import {join} from 'node:path';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';
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
  /** The weights one by one, in any order, so that the host need not hold a large model twice. */
  tensors: Tensors;
}

/** Transformers' class names by `model_type`. */
const FAMILIES: Record<LlamaConfig['modelType'], string> = {llama: 'Llama', mistral: 'Mistral', qwen2: 'Qwen2'};

/** Writes a model in float32 into a folder. Makes the folder if needed. */
export async function writeModelFolder(folder: string, model: ModelFolder): Promise<void> {
  const {configJson, tokenizerJson, tokenizerConfig, shapes, tensors} = model;
  makeFolder(folder);
  await writeSafetensors(join(folder, 'model.safetensors'), shapes, tensors);
  // The weights are float32 now. Transformers rounds them to torch_dtype (version 4) or dtype (version 5).
  await writeJson(join(folder, 'config.json'), {...configJson, torch_dtype: 'float32', dtype: 'float32'});
  await writeJson(join(folder, 'tokenizer.json'), tokenizerJson);
  await writeJson(join(folder, 'tokenizer_config.json'), tokenizerConfig);
}

/**
 * The `config.json` of the reward model on a language model's body: one label, whose score a head reads at the last
 * token.
 *
 * Transformers takes the last token that is not padding. Many chat models pad with the token that ends an answer, so
 * that Transformers would miss its score. Such a padding token is left out; Transformers then asks for rows one by one.
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
