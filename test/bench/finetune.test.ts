/**
 * @file The pure parts of the fine-tuning benchmark: rows, the search for the longest row, how the end of a run is
 * read, tables.
 */
import {existsSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import fc from 'fast-check';
import {outcomeOf} from '../../bench/failure.js';
import {longest} from '../../bench/finetune/longest.js';
import {TASKS, type Task, drawTexts, fillRow, typicalTexts, visiblePairs} from '../../bench/finetune/rows.js';
import {stepsOfTorch, whyNoTorch} from '../../bench/finetune/torch.js';
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

  it('sets PyTorch, XLA and bfloat16 beside them, each dtype by itself', () => {
    const own = {backend: 'tensorflow', device: 'b', tokensPerSecond: 1};
    const torch = {backend: 'torch', device: 'b', attention: 'sdpa'} as const;
    const text = finetuneSections([
      record('flash', 2048, {...own, medianMs: 100}),
      record('flash', 2048, {...own, medianMs: 80, xla: true}),
      record('flash', 2048, {...own, medianMs: 90, dtype: 'bfloat16'}),
      record('flash', 8192, {...own, medianMs: 200, keepActivations: true}),
      record('flash', 2048, {...torch, medianMs: 150, keepActivations: true}),
      record('flash', 2048, {...torch, medianMs: 180, keepActivations: true, dtype: 'bfloat16'}),
      record('flash', 8192, {...torch, outcome: 'out of memory'}),
      record('flash', 2048, {...torch, device: 'elsewhere', medianMs: 1}),
    ]);
    const rows = text.find(({name}) => name === 'functions')!.text.split('\n');
    const cells = rows.slice(4).map((line) => line.split('|').map((cell) => cell.trim()));
    expect(rows[2]).to.match(/PyTorch, ms \| faster than PyTorch \|$/);
    expect(cells.map((row) => [row[1], row[4], ...row.slice(-3, -1)])).to.deep.equal([
      ['SFT, LoRA', '100.0', '150.0', '1.50×'],
      ['SFT, LoRA, XLA', '80.0', '150.0', '1.88×'],
      ['SFT, LoRA, bfloat16', '90.0', '180.0', '2.00×'],
      ['SFT, LoRA, activations kept', '200.0', 'out of memory', ''],
    ]);
    expect(text.find(({name}) => name === 'lengths')!.text).to.equal('');
  });

  describe('runs PyTorch by a Python', () => {
    let folder: string;
    let python: string;
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'flashmask-python-'));
      python = join(folder, 'python3');
    });
    afterEach(() => rmSync(folder, {recursive: true}));

    const step = {model: 'tiny', task: 'lora', N: 8192, dtype: 'bfloat16', steps: 3, seconds: 10} as const;
    /** Measures by an executable of that code. */
    const measured = (code: string, milliseconds = 60_000) => {
      writeFileSync(python, `#!${process.execPath}\n${code}`, {mode: 0o755});
      return stepsOfTorch(python, step, milliseconds);
    };

    it('passes the model and the call, and takes the last line as the figures', async () => {
      const figures: Record<string, unknown> = {
        ...(await measured(
          'console.log("a warning"); console.log(JSON.stringify({medianMs: 5, got: process.argv.slice(2)}))',
        )),
      };
      const [script, options] = figures.got as string[];
      expect(existsSync(script)).to.equal(true);
      expect(figures.medianMs).to.equal(5);
      const {config, lora, ...others} = JSON.parse(options) as Record<'config' | 'lora', object>;
      expect(others).to.deep.equal({
        ...{task: 'lora', N: 8192, dtype: 'bfloat16', steps: 3, seconds: 10, keepActivations: false},
      });
      expect(lora).to.include({rank: 8, alpha: 16}).and.to.have.property('targetModules').that.includes('q_proj');
      expect(config).to.include({model_type: 'llama', hidden_size: 64, num_key_value_heads: 2});
    });

    it('tells how it failed', async () => {
      const oom = 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 36.00 GiB.';
      expect(await measured(`console.error("Traceback\\n${oom}"); process.exit(1)`)).to.deep.equal({
        outcome: 'out of memory',
        reason: oom,
      });
      const other = await measured('console.error("KeyError: 3"); process.exit(1)');
      expect(other).to.deep.equal({outcome: 'failed', reason: 'KeyError: 3'});
      expect(await measured('process.kill(process.pid, "SIGKILL")')).to.include({outcome: 'out of memory'});
      expect(await measured('setTimeout(() => {}, 1e6)', 200)).to.deep.equal({outcome: 'time limit', reason: '0 s'});
      const silent = (await measured('console.log("no figures")')) as {outcome: string; reason: string};
      expect(silent.outcome).to.equal('failed');
      expect(silent.reason).to.match(/torch_step\.py must print a line of JSON, got 'no figures/);
    });

    it('says why there is none', async () => {
      expect(whyNoTorch(python)).to.match(/ENOENT/);
      await measured('console.error("Traceback"); console.error("ModuleNotFoundError: No module"); process.exit(1)');
      expect(whyNoTorch(python)).to.equal('ModuleNotFoundError: No module');
      await measured('');
      expect(whyNoTorch(python)).to.equal(null);
    });
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
