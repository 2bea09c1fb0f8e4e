/** @file This repository's documentation as data, and a fresh model for it: training without a download. */
import {existsSync, readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {paragraphs} from '../data/paragraphs.js';
import {ChatTokenizer} from '../data/tokenizer.js';
import {keepAside} from '../train/output_folder.js';
import {freshGlassllm} from '../weights/glassllm.js';
import type {ModelFiles} from '../weights/model_files.js';

const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url));

/**
 * A fresh model whose tokenizer knows the documentation.
 *
 * @param file Where to write the documentation, as JSON lines: paragraphs, each an answer to an empty prompt.
 *   Another text of that name is kept beside it.
 * @param rowTokens No paragraph is longer than this or than the model's context.
 */
export function documentationModel(
  file: string,
  {rowTokens, seed}: {rowTokens: number; seed: number},
  say: (text: string) => void,
): ModelFiles {
  const texts = documentation();
  const model = freshGlassllm(texts, seed);
  const {config, origin} = model;
  const tokenizer = new ChatTokenizer(model.tokenizerJson, model.tokenizerConfig, config.vocabSize, origin);
  const maxTokens = Math.min(rowTokens, config.maxPositions);
  const records = texts
    .flatMap((text) => paragraphs(text, (part) => tokenizer.encode(part).length < maxTokens))
    .map((completion) => `${JSON.stringify({prompt: '', completion})}\n`);
  const text = records.join('');
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) {
    keepAside(file, say);
    writeFileSync(file, text);
  }
  return model;
}

function documentation(): string[] {
  const docs = join(REPOSITORY, 'docs');
  const pages = existsSync(docs) ? readdirSync(docs).sort() : [];
  const candidates = [join(REPOSITORY, 'README.md'), ...pages.map((page) => join(docs, page))];
  const files = candidates.filter((file) => file.endsWith('.md') && existsSync(file));
  if (files.length === 0) {
    throw new Error(`There is no README.md and no docs/*.md in ${REPOSITORY} to train on. Give --model and --data.`);
  }
  return files.map((file) => readFileSync(file, 'utf8'));
}
