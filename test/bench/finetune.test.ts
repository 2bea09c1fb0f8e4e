/**
 * @file The pure parts of the fine-tuning benchmark: rows, the search for the longest row, how the end of a run is
 * read, tables.
 */
import {expect} from 'chai';
import fc from 'fast-check';
import {outcomeOf} from '../../bench/child.js';
import {longest} from '../../bench/finetune/longest.js';
import {TASKS, type Task, drawTexts, fillRow, typicalTexts, visiblePairs} from '../../bench/finetune/rows.js';
import type {BenchRecord} from '../../bench/record.js';
import {finetuneSections} from '../../bench/tables/finetune.js';
import {toBatch} from '../../examples/finetune/data/batch.js';
import {IGNORED} from '../../examples/finetune/data/sample.js';
import {uniform} from '../../examples/finetune/random.js';

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

describe('the finetune benchmark', () => {
  const rows = fc.record({
    task: fc.constantFrom(...TASKS),
    N: fc.integer({min: 128, max: 20000}),
    seed: fc.integer({min: 0, max: 2 ** 31}),
  });

  it('fills rows exactly, within the limits of the paper', () => {
    fc.assert(
      fc.property(rows, ({task, N, seed}) => {
        const texts = drawTexts(task, N, uniform(seed));
        const lengths = texts.map(sum);
        const rm = task === 'rm';
        expect(sum(lengths)).to.equal(N);
        expect(texts.length).to.be.within(1, rm ? (N <= 4096 ? 3 : N <= 8192 ? 4 : 10) : 10);
        expect(Math.min(...lengths)).to.be.at.least(Math.min(N, rm ? 512 : 128));
        for (const [question, ...answers] of texts) {
          expect(answers.length).to.equal({sft: 1, lora: 1, dpo: 2, rm: 6}[task]);
          for (const answer of answers) expect(answer / question).to.be.within(0.08, 0.25);
        }
      }),
    );
  });

  it('draws every number of texts', () => {
    const next = uniform(1);
    const counts = new Set(Array.from({length: 300}, () => drawTexts('sft', 4096, next).length));
    expect([...counts].sort((a, b) => a - b)).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  for (const task of TASKS) {
    it(`makes a row of ${task} that the trainer can read, the same for the same seed`, () => {
      const [N, vocabSize] = [2000, 50];
      const texts = typicalTexts(task, N, 3);
      const row = fillRow(task, texts, vocabSize, 3);
      expect(fillRow(task, typicalTexts(task, N, 3), vocabSize, 3)).to.deep.equal(row);
      const batch = toBatch([row], N);
      expect(batch.tokens).to.equal(N);
      const answers = texts.flatMap(([, ...lengths]) => lengths);
      expect(batch.labelled).to.equal(task === 'rm' ? 0 : sum(answers));
      expect(batch.answers.map(({start, end}) => end - start)).to.deep.equal(isDocuments(task) ? [] : answers);
      expect(batch.labels.every((label) => label === IGNORED || (label >= 0 && label < vocabSize))).to.equal(true);
      const seen = batch
        .mask(null)
        .toDense()
        .reduce((count, visible) => count + visible, 0);
      expect(visiblePairs(texts)).to.equal(seen);
      batch.dispose();
    });
  }

  it('starts the positions of each answer behind its question', () => {
    const [sample] = fillRow('dpo', [[5, 2, 3]], 50, 1).samples;
    expect([...sample.positions]).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 5, 6, 7]);
    expect(sample.parts).to.deep.equal([5, 2, 3]);
  });

  it('finds the longest row by doubling, then by halving the gap', async () => {
    const tried: number[] = [];
    const upToLimit = (limit: number) => (N: number) => {
      tried.push(N);
      return Promise.resolve(N <= limit);
    };
    expect(await longest(upToLimit(11000), {from: 2048, upTo: 65536, bisections: 2})).to.equal(10240);
    expect(tried).to.deep.equal([2048, 4096, 8192, 16384, 12288, 10240]);
    expect(await longest(upToLimit(1e9), {from: 2048, upTo: 8192, bisections: 2})).to.equal(8192);
    expect(await longest(upToLimit(600), {from: 2048, upTo: 8192, bisections: 2})).to.equal(512);
    expect(await longest(() => Promise.resolve(null), {from: 2048, upTo: 8192, bisections: 2})).to.equal(0);
  });

  it('tells memory that ran out from other failures', () => {
    const oom = 'Invalid TF_Status: 8\nMessage: OOM when allocating tensor with shape[1,4,8192,8192]';
    expect(outcomeOf(oom, null)).to.equal('out of memory');
    expect(outcomeOf('CUDA error: out of memory (CUDA_ERROR_OUT_OF_MEMORY)', 'SIGABRT')).to.equal('out of memory');
    expect(outcomeOf('', 'SIGKILL')).to.equal('out of memory');
    expect(outcomeOf('WebGPU refused a command: buffer too large', null)).to.equal('out of memory');
    expect(outcomeOf('CUDA_ERROR_ILLEGAL_ADDRESS', 'SIGABRT')).to.equal('failed');
    expect(outcomeOf('The loss of step 1 is NaN', null)).to.equal('failed');
  });

  it('sets both attentions side by side', () => {
    const [longestRows, lengths] = finetuneSections([
      record('dense', 2048, {tokensPerSecond: 1000, peakBytes: 8 * 2 ** 30, loss: 2, gradNorm: 1}),
      record('dense', 4096, null),
      record('flash', 2048, {tokensPerSecond: 4500, peakBytes: 2 * 2 ** 30, loss: 2.002, gradNorm: 1}),
      record('flash', 4096, {tokensPerSecond: 4000, peakBytes: 3 * 2 ** 30, loss: 2, gradNorm: 1}),
    ]).map(({text}) => text.split('\n'));
    expect(lengths[0]).to.equal('**tiny, `cpu`**');
    expect(lengths[4]).to.equal('| SFT, LoRA | 2048 | 75.0% | 4500 | 1000 | 4.50× | 2.0 | 8.0 | 4.00× | 1.0e-3 |');
    expect(lengths[5]).to.equal('| SFT, LoRA | 4096 | 75.0% | 4000 | out of memory |  | 3.0 |  |  |  |');
    // Columns: longest row with dense attention, first length at which it fails, speed and memory at that longest row;
    // longest row with flash attention, and how many times longer it is.
    expect(longestRows[2]).to.equal('| tiny, `cpu`: SFT, LoRA | 2048 | 4096 | 4.50× | 4.00× | at least 4096 | 2.00× |');
  });

  it('sets functions beside operation by operation, and beside dense attention', () => {
    const own = {backend: 'tensorflow', device: 'b'};
    const text = finetuneSections([
      record('flash', 2048, {...own, medianMs: 100, tokensPerSecond: 20480, peakBytes: 2 ** 31}),
      record('flash', 2048, {...own, medianMs: 450, tokensPerSecond: 4551, eager: true}),
      record('dense', 2048, {...own, medianMs: 155, maskMs: 5, tokensPerSecond: 13653, peakBytes: 2 ** 32}),
      record('flash', 2048, {...own, device: 'c', medianMs: 200, tokensPerSecond: 10240, peakBytes: 2 ** 31}),
      record('flash', 2048, {backend: 'tensorflow', device: 'a', medianMs: 7, tokensPerSecond: 1, eager: true}),
    ]).find(({name}) => name === 'functions')!.text;
    const rows = text.split('\n').filter((line) => /^\*\*|^\| SFT/.test(line));
    expect(rows).to.deep.equal([
      '**tiny, b**',
      '| SFT, LoRA | 2048 | 450.0 | 100.0 | 4.50× | 150.0 | 1.50× | 2.0 | 4.0 |',
      '**tiny, c**',
      '| SFT, LoRA | 2048 | – | 200.0 |  | – |  | 2.0 |  |',
    ]);
  });
});

function isDocuments(task: Task): boolean {
  return task === 'sft' || task === 'lora';
}

/** A record with these figures; null makes one of a run that ran out of memory. */
function record(attention: 'flash' | 'dense', N: number, figures: Partial<BenchRecord> | null): BenchRecord {
  const call = {
    suite: 'finetune',
    backend: 'cpu',
    device: 'test',
    model: 'tiny',
    task: 'lora',
    keepActivations: false,
  } as const;
  const end = figures ?? {outcome: 'out of memory'};
  return {...call, attention, N, seconds: 1, masked: 0.75, ...end};
}
