/** @file Opens a model folder of Hugging Face's packages: config.json, *.safetensors, tokenizer.json. */
import {existsSync} from 'node:fs';
import {basename, join} from 'node:path';
import {parseConfig} from '../model/config.js';
import {readJsonObject, readTextFile} from '../read_file.js';
import type {ModelFiles} from './model_files.js';
import {type SafetensorsFile, openSafetensors} from './safetensors.js';

const ONE_FILE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
/** Real templates have less than a tenth of it. */
const MOST_TEMPLATE_BYTES = 2 ** 20;

/** Throws if a file is missing, damaged, or of an unsupported model, and names the file. */
export async function openHfFolder(folder: string, origin: string = folder): Promise<ModelFiles> {
  const configJson = withLanguageHead(await readJson(folder, 'config.json'));
  const config = parseConfig(configJson, join(origin, 'config.json'));
  const tokenizer = await readTokenizer(folder);
  const weights = await openWeights(folder);
  const stored = storedNames(weights.fileOf);
  return {
    ...{origin, config, configJson, ...tokenizer, names: new Set(stored.keys())},
    read(name) {
      const inFile = stored.get(name);
      if (inFile === undefined) {
        return Promise.reject(new Error(`${origin} has no tensor ${name}.`));
      }
      return weights.fileOf.get(inFile)!.read(inFile);
    },
    close: () => closeAll(weights.files),
  };
}

/** A model that Python's `AutoModel` saved is the body of a language model, whose class has another name. */
function withLanguageHead(configJson: Record<string, unknown>): Record<string, unknown> {
  const {architectures} = configJson;
  if (!Array.isArray(architectures) || !/^\w+Model$/.test(String(architectures[0]))) return configJson;
  return {...configJson, architectures: [String(architectures[0]).replace(/Model$/, 'ForCausalLM')]};
}

/** Names in the files by the names of a language model. `AutoModel` leaves out their prefix. */
function storedNames(fileOf: ReadonlyMap<string, unknown>): Map<string, string> {
  const bare = fileOf.has('embed_tokens.weight') && !fileOf.has('model.embed_tokens.weight');
  return new Map(Array.from(fileOf.keys(), (name) => [bare ? `model.${name}` : name, name]));
}

async function readTokenizer(folder: string): Promise<Pick<ModelFiles, 'tokenizerJson' | 'tokenizerConfig'>> {
  if (!existsSync(join(folder, 'tokenizer.json'))) {
    throw new Error(
      `${folder} has no tokenizer.json. Write one with Python's transformers: ` +
        'AutoTokenizer.from_pretrained(folder).save_pretrained(folder).',
    );
  }
  const tokenizerConfig = existsSync(join(folder, 'tokenizer_config.json'))
    ? await readJson(folder, 'tokenizer_config.json')
    : {};
  for (const [key, value] of Object.entries(tokenizerConfig)) {
    if (/^(bos|eos|unk|pad)_token$/.test(key)) {
      tokenizerConfig[key] = tokenText(value);
    }
  }
  // transformers 5 keeps the template in a separate file, which then takes precedence.
  const template = join(folder, 'chat_template.jinja');
  if (existsSync(template)) {
    tokenizerConfig.chat_template = await readTextFile(template, MOST_TEMPLATE_BYTES);
  }
  return {tokenizerJson: await readJson(folder, 'tokenizer.json'), tokenizerConfig};
}

/** A special token is a text, or an object with its text and how to match it. */
function tokenText(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'content' in value ? value.content : value;
}

interface Weights {
  files: SafetensorsFile[];
  fileOf: Map<string, SafetensorsFile>;
}

async function openWeights(folder: string): Promise<Weights> {
  if (!existsSync(join(folder, ONE_FILE))) {
    if (existsSync(join(folder, INDEX))) {
      return openShards(folder);
    }
    throw new Error(
      `${folder} has no ${ONE_FILE} and no ${INDEX}. Write the model as safetensors: model.save_pretrained(folder) in Python.`,
    );
  }
  // This file counts even beside an index, as in transformers.
  const file = await openSafetensors(join(folder, ONE_FILE));
  return {files: [file], fileOf: new Map(Array.from(file.entries.keys(), (name) => [name, file]))};
}

async function openShards(folder: string): Promise<Weights> {
  const shardOf = await readIndex(folder);
  const shards = new Map<string, SafetensorsFile>();
  const fileOf = new Map<string, SafetensorsFile>();
  try {
    for (const [name, shard] of shardOf) {
      if (!shards.has(shard)) {
        if (!existsSync(join(folder, shard))) {
          throw new Error(`${folder} has no ${shard}, which ${INDEX} names as the file of ${name}. Download it.`);
        }
        shards.set(shard, await openSafetensors(join(folder, shard)));
      }
      const file = shards.get(shard)!;
      if (!file.entries.has(name)) {
        throw new Error(`${join(folder, shard)} has no tensor ${name}, which ${INDEX} promises. Download both again.`);
      }
      fileOf.set(name, file);
    }
  } catch (error) {
    await closeAll(shards.values());
    throw error;
  }
  return {files: [...shards.values()], fileOf};
}

/** The file of each tensor. Throws if a name leads out of the folder. */
async function readIndex(folder: string): Promise<Map<string, string>> {
  const {weight_map: map} = await readJson(folder, INDEX);
  if (typeof map !== 'object' || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw new Error(`${join(folder, INDEX)} has no weight_map. Download it again.`);
  }
  const entries = Object.entries(map);
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string' || basename(shard) !== shard || !shard.endsWith('.safetensors')) {
      throw new Error(
        `${join(folder, INDEX)}: the file of ${name} should be a .safetensors file beside it, got ${JSON.stringify(shard)}.`,
      );
    }
  }
  return new Map(entries as [string, string][]);
}

async function readJson(folder: string, name: string): Promise<Record<string, unknown>> {
  try {
    return await readJsonObject(join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(`${folder} has no ${name}. Give a folder with a model as Hugging Face's packages write it.`, {
      cause: error,
    });
  }
}

async function closeAll(files: Iterable<SafetensorsFile>): Promise<void> {
  await Promise.all(Array.from(files, (file) => file.close()));
}
