/**
 * @file Packed rows for the fine-tuning benchmark, built as for the paper's end-to-end figures (arXiv 2410.01359,
 * appendix "End-to-End Training Throughput", data construction):
 *
 * - A row of N tokens holds n texts, n uniform in 1..10 (RM: 1..3 up to 4096 tokens, 1..4 up to 8192). Each has at
 *   least 128 tokens (RM: 512). Their random lengths add up to N.
 * - A text of L tokens is a question with k answers: k = 1 (SFT, LoRA), 2 (DPO) or 6 (RM). The length of each answer is
 *   uniform in [0.1 L / (1 + 0.1 k), 0.2 L / (1 + 0.2 k)], about 10 to 20% of the question. The question has the rest.
 *
 * Unlike there, the last text is not padding, so every row is full. Rows too short for the least lengths hold one text.
 */
import {type Row, type Sample, IGNORED} from '../../examples/finetune/data/sample.js';
import {uniform} from '../../examples/finetune/random.js';

export const TASKS = ['sft', 'lora', 'dpo', 'rm'] as const;

/** What is trained: all weights or adapters on documents, adapters on preferences, a reward model with adapters. */
export type Task = (typeof TASKS)[number];

const ANSWERS: Record<Task, number> = {sft: 1, lora: 1, dpo: 2, rm: 6};

/** How many rows to choose the typical one from. The number is odd, so that there is a middle one. */
const DRAWS = 31;

/** Lengths of the parts of each text of a row: `[question, answer, ...]`. */
export type Texts = number[][];

/** Draws lengths of texts that fill a row. `next` gives uniform numbers in [0, 1). */
export function drawTexts(task: Task, rowTokens: number, next: () => number): Texts {
  const {most, least} = limits(task, rowTokens);
  const count = 1 + Math.floor(next() * most);
  const spare = rowTokens - count * least;
  const cuts = Array.from({length: count - 1}, () => Math.floor(next() * (spare + 1))).sort((a, b) => a - b);
  const lengths = [...cuts, spare].map((cut, i) => least + cut - (i === 0 ? 0 : cuts[i - 1]));
  return lengths.map((length) => splitText(length, ANSWERS[task], next));
}

/** The most texts of a row and the fewest tokens of a text. */
function limits(task: Task, rowTokens: number): {most: number; least: number} {
  const shortest = task === 'rm' ? 512 : 128;
  const allowed = task !== 'rm' || rowTokens > 8192 ? 10 : rowTokens > 4096 ? 4 : 3;
  const most = Math.max(1, Math.min(allowed, Math.floor(rowTokens / shortest)));
  return {most, least: Math.min(shortest, rowTokens)};
}

function splitText(length: number, answers: number, next: () => number): number[] {
  const [low, high] = [0.1, 0.2].map((share) => (share * length) / (1 + share * answers));
  const lengths = Array.from({length: answers}, () => Math.max(1, Math.floor(low + next() * (high - low))));
  return [length - lengths.reduce((sum, each) => sum + each, 0), ...lengths];
}

/** The row of median sparsity among those drawn from a seed. A single row may hold anything from one text to ten. */
export function typicalTexts(task: Task, rowTokens: number, seed: number): Texts {
  const next = uniform(seed);
  const draws = Array.from({length: DRAWS}, () => drawTexts(task, rowTokens, next));
  return draws.sort((a, b) => visiblePairs(a) - visiblePairs(b))[(DRAWS - 1) / 2];
}

/** Equal texts that fill a row. */
export function equalTexts(task: Task, rowTokens: number, count: number, seed: number): Texts {
  const next = uniform(seed);
  const end = (i: number): number => Math.floor((rowTokens * i) / count);
  return Array.from({length: count}, (_, i) => splitText(end(i + 1) - end(i), ANSWERS[task], next));
}

/** Number of pairs of a query and a key that it sees. */
export function visiblePairs(texts: Texts): number {
  const triangle = (length: number): number => (length * (length + 1)) / 2;
  const ofText = ([question, ...answers]: number[]): number =>
    answers.reduce((sum, answer) => sum + answer * question + triangle(answer), triangle(question));
  return texts.reduce((sum, text) => sum + ofText(text), 0);
}

/**
 * Fills a row with random tokens. For SFT each text is a document with labels on its answer. For the other tasks it is
 * a question that its answers share.
 */
export function fillRow(task: Task, texts: Texts, vocabSize: number, seed: number): Row {
  const next = uniform(seed);
  const token = (): number => Math.floor(next() * vocabSize);
  const samples = texts.map((lengths, id): Sample => {
    const total = lengths.reduce((sum, length) => sum + length, 0);
    const tokens = Int32Array.from({length: total}, token);
    const [question] = lengths;
    const answers = answerRanges(lengths);
    const labels = new Int32Array(total).fill(IGNORED);
    const positions = Int32Array.from({length: total}, (_, i) => i);
    for (const {start, end} of answers) {
      for (let i = start; i < end; i++) {
        if (task !== 'rm') labels[i] = i + 1 < end ? tokens[i + 1] : token();
        positions[i] = question + i - start;
      }
    }
    const document = ANSWERS[task] === 1;
    return {id, tokens, positions, labels, parts: document ? [total] : lengths, answers: document ? [] : answers};
  });
  return {samples};
}

function answerRanges([question, ...answers]: readonly number[]): {start: number; end: number}[] {
  let end = question;
  return answers.map((length) => {
    end += length;
    return {start: end - length, end};
  });
}
