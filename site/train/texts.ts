/** @file The documentation of this repository as packed rows of tokens, as the demo of `npm start` has it. */
import {encodeConversation} from '../../examples/finetune/data/encode.js';
import {packSamples} from '../../examples/finetune/data/packing.js';
import {paragraphs} from '../../examples/finetune/data/paragraphs.js';
import type {Row, Sample} from '../../examples/finetune/data/sample.js';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {shuffled, uniform} from '../../examples/finetune/random.js';
import {freshGlassllm} from '../../examples/finetune/weights/glassllm.js';
import type {ModelFiles} from '../../examples/finetune/weights/model_files.js';

/** The guides with most prose. */
const TEXTS = Object.values(
  import.meta.glob<string>('../../docs/{masks,design,native,performance,packages,testing,traced,tfjs-node}.md', {
    query: '?raw',
    import: 'default',
    eager: true,
  }),
);

export interface Corpus {
  files: ModelFiles;
  tokenizer: ChatTokenizer;
  samples: Sample[];
}

/** A fresh model, a tokenizer learnt from the texts, and the texts as samples of `maxTokens`, or of its context. */
export function readTexts(maxTokens: number, seed: number): Corpus {
  const files = freshGlassllm(TEXTS, seed);
  const {config, origin} = files;
  const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, config.vocabSize, origin);
  const longest = Math.min(maxTokens, config.maxPositions);
  const fits = (part: string): boolean => lengthOf(part, tokenizer) < longest - 1;
  const parts = TEXTS.flatMap((text) => paragraphs(text, fits));
  const samples = parts.flatMap((content, id) => {
    const turns = [
      {role: 'user', content: ''},
      {role: 'assistant', content},
    ];
    const encoded = encodeConversation(id, turns, tokenizer, {maxTokens: longest, tooLong: 'cut'});
    return 'sample' in encoded ? [encoded.sample] : [];
  });
  return {files, tokenizer, samples};
}

const lengths = new Map<string, number>();

/** Tokens of a text. Tokens do not cross the ends of lines, so a line is encoded once. */
function lengthOf(text: string, tokenizer: ChatTokenizer): number {
  return text.split(/(?<=\n)/).reduce((total, line) => {
    if (!lengths.has(line)) lengths.set(line, tokenizer.encode(line).length);
    return total + lengths.get(line)!;
  }, 0);
}

/** Packed rows without end: every epoch in another order. */
export function* packedRows(samples: readonly Sample[], rowTokens: number, seed: number): Generator<Row> {
  const random = uniform(seed);
  for (;;) yield* shuffled(packSamples(shuffled(samples, random), rowTokens), random);
}
