/** @file The benchmarks: their masks, which kernels they time, records, lines, tables and plots, and runs of suites. */
import {execFileSync} from 'node:child_process';
import {appendFileSync, mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {AttentionKernels, inputsOf} from '../../bench/attention.js';
import {maskOf, paperMasks} from '../../bench/masks.js';
import type {BenchRecord} from '../../bench/record.js';
import {appendRecord, readRecords} from '../../bench/record_files.js';
import {PARTS, tasksOf} from '../../bench/suites/paper.js';
import {withBlocks} from '../../bench/tables/documents.js';
import {fitLine, memoryLines, timeLines} from '../../bench/tables/fit.js';
import {plotsOf} from '../../bench/tables/plots.js';
import {describeRecord, sectionsOf} from '../../bench/tables/report.js';
import {flashMaskAttention} from '../../src/entries/index.js';
import {devices} from '../support/devices.js';
import {root} from '../support/packed_project.js';

const call = {
  suite: 'paper', backend: 'webgpu', device: 'GPU', kind: 'full', precision: 'float16', attention: 'flash', N: 8192, H: 32, D: 64,
} as const; // prettier-ignore

function speed(mask: string, fields: Partial<BenchRecord> = {}): BenchRecord {
  const times = {tiles: 1000, forwardMs: 2, backwardMs: 6, forwardTflops: 50, backwardTflops: 40};
  return {...call, part: 'masks', mask, masked: 0.5, ...times, ...fields};
}

describe('benchmarks', () => {
  describe('masks', () => {
    for (const N of [64, 1000, 8192, 32768]) {
      it(`are of ${N} tokens, each with visible pairs`, () => {
        for (const name of paperMasks) {
          const mask = maskOf(name, N, 'paper');
          expect([mask.queryLength, mask.keyLength], name).to.deep.equal([N, N]);
          expect(1 - mask.sparsity().maskedPairs, name).to.be.greaterThan(0);
        }
      });
    }

    it('have the sparsity of the published samples at 8192: documents of 1041, 2718, 1420, 1191 and 1822 tokens', () => {
      const visible = (lengths: number[]): number => lengths.reduce((sum, n) => sum + n * n, 0) / 8192 ** 2;
      const documents = [1041, 2718, 1420, 1191, 1822];
      expect(maskOf('document', 8192, 'paper').sparsity().maskedPairs).to.be.closeTo(1 - visible(documents), 1e-12);
      const half = visible(documents) / 2;
      // Half of each square, and half of its diagonal; dropped documents see less of the causal half.
      expect(maskOf('causalDocument', 8192, 'paper').sparsity().maskedPairs).to.be.closeTo(1 - half, 1e-4);
      const dropped = visible([2718, 1420]) / 2;
      expect(maskOf('qkSparse', 8192, 'paper').sparsity().maskedPairs).to.be.closeTo(0.5 + dropped, 1e-4);
    });
  });

  it('times what the op and its gradient compute', async () => {
    await tf.setBackend('cpu');
    const inputs = inputsOf({N: 40, H: 2, D: 8});
    const mask = maskOf('prefixLmDocument', 40, 'paper');
    const attention = new AttentionKernels(inputs, mask, 'auto');
    const [q, k, v, dOut] = inputs;
    const op = (...x: tf.Tensor[]) => flashMaskAttention(x[0], x[1], x[2], mask, {layout: 'bhsd'});
    const actual = [...attention.forward(), ...attention.backward()];
    const expected = [op(q, k, v), ...tf.grads(op)([q, k, v], dOut)];
    for (const [i, tensor] of expected.entries()) expect(await actual[i].data()).to.deep.equal(await tensor.data());
    const before = tf.memory().numTensors;
    tf.dispose([actual, expected, attention.forward(), attention.backward()]);
    attention.dispose();
    tf.dispose(inputs);
    expect(before - tf.memory().numTensors, 'out, lse and dLse; four inputs; twice four results').to.equal(3 + 4 + 8);
  });

  it('has tasks for every part, with the sizes that it is told', () => {
    const plan = {masks: paperMasks, denseLength: 4096, longLength: 131072};
    const sizes = PARTS.map((part) => new Set(tasksOf(part, plan, [64]).map(({N, H}) => `${N} x ${H}`)));
    expect(sizes.map((set) => [...set].join(', '))).to.deep.equal([
      '1024 x 2',
      '8192 x 32',
      '4096 x 8',
      '8192 x 32, 32768 x 8',
      '131072 x 4',
      '8192 x 32',
      '2048 x 8, 4096 x 8, 8192 x 8, 16384 x 8, 32768 x 8',
    ]);
    const told = tasksOf('masks', {...plan, lengths: [512], heads: 3}, [64]);
    expect(told.map(({mask, N, H}) => [mask, N, H])).to.deep.equal(paperMasks.map((name) => [name, 512, 3]));
  });

  describe('records', () => {
    let folder: string;
    beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'bench-'))));
    afterEach(() => rmSync(folder, {recursive: true}));

    it('are read with the latest of each measurement, without a line that was cut off', () => {
      const path = join(folder, 'new', 'records.jsonl');
      appendRecord(path, speed('causal', {forwardMs: 3}));
      appendRecord(path, {...call, part: 'masks', mask: 'full', outcome: 'failed', reason: 'device lost'});
      appendRecord(path, speed('causal', {forwardMs: 2}));
      appendFileSync(path, '{"part":"masks","ma');
      expect(readRecords(path).map((r) => r.reason ?? r.forwardMs)).to.deep.equal([2, 'device lost']);
      expect(readRecords(join(folder, 'none.jsonl'))).to.deep.equal([]);
    });

    it('must have the fields of a record', () => {
      const path = join(folder, 'records.jsonl');
      appendRecord(path, speed('causal', {forwardMs: '3'} as object));
      expect(() => readRecords(path)).to.throw('fields must be those of bench/record.ts, got forwardMs: "3"');
    });

    for (const name of readdirSync(join(root, 'docs/benchmarks'), {recursive: true, encoding: 'utf8'})) {
      if (name.endsWith('.jsonl')) {
        it(`are all of one type: ${name}`, () => {
          const records = readRecords(join(root, 'docs/benchmarks', name));
          expect(records).to.not.be.empty;
          for (const record of records) expect(describeRecord(record)).to.match(/ms|tokens|MiB|\(/);
        });
      }
    }
  });

  describe('lines', () => {
    it('go through points on one, and say how far others are off', () => {
      const exact = fitLine([[1, 5], [2, 7], [4, 11]]); // prettier-ignore
      expect(exact.slope).to.be.closeTo(2, 1e-12);
      expect(exact.intercept).to.be.closeTo(3, 1e-12);
      expect(exact.r2).to.be.closeTo(1, 1e-12);
      // Computed by hand: both means are 1, the sums of squares 2 and 6, the sum of products 3.
      const bent = fitLine([[0, 0], [1, 0], [2, 3]]); // prettier-ignore
      expect([bent.slope, bent.intercept]).to.deep.equal([1.5, -0.5]);
      expect(bent.r2).to.be.closeTo(0.75, 1e-12);
    });

    it('are of one device, precision, length and head size each', () => {
      const at = (tiles: number, fields: Partial<BenchRecord> = {}): BenchRecord =>
        speed(`m${tiles}`, {tiles, forwardMs: tiles / 100, backwardMs: tiles / 40, ...fields});
      const records: BenchRecord[] = [100, 200, 400, 800].flatMap((tiles) => [
        at(tiles),
        at(tiles, {N: 32768, forwardMs: 5}),
        {...call, part: 'memory', mask: 'causalDocument', N: tiles, peakBytes: 1000 * tiles},
      ]);
      const times = timeLines(records);
      expect(times.map(({call: {N}, pass}) => `${N} ${pass}`)).to.deep.equal([
        '8192 forward',
        '8192 backward',
        '32768 forward',
        '32768 backward',
      ]);
      expect(times[1].line.slope).to.be.closeTo(1 / 40, 1e-12);
      expect(memoryLines(records)[0].line.slope).to.be.closeTo(1000, 1e-9);
    });
  });

  describe('tables', () => {
    const textOf = (records: BenchRecord[], name: string): string =>
      sectionsOf(records).find((section) => section.name === name)!.text;

    it('mark a mask with less than 70% of the TFLOP/s of causal at 32768', () => {
      const long = {N: 32768, H: 8};
      const text = textOf(
        [
          speed('causal', {...long, forwardTflops: 100, backwardTflops: 80}),
          speed('document', {...long, forwardTflops: 69, backwardTflops: 60}),
          speed('document', {forwardTflops: 30, backwardTflops: 20}),
        ],
        'webgpu-masks',
      );
      expect(text).to.include('| `document` | 50.0% | 30.0 / 20.0 | 69.0 / 60.0 | **69%** / 75% |');
    });

    it('show the best peer of each call of the CUDA kernels, and all that ran', () => {
      const cuda = {...call, suite: 'cuda', backend: 'cuda', kind: undefined, input: 'bfloat16', B: 1} as const;
      const of = (attention: BenchRecord['attention'], forwardTflops: number, fields = {}): BenchRecord =>
        speed('causal', {...cuda, part: undefined, attention, precision: undefined, forwardTflops, forwardMs: 60 / forwardTflops, backwardMs: 1, ...fields}); // prettier-ignore
      const text = textOf(
        [of('flash', 60, {precision: 'bfloat16'}), of('flex', 15), of('flex-flash', 30)],
        'benchmark',
      );
      expect(text).to.include('| best peer | its TFLOP/s | faster | FlexAttention | FlexAttention, FLASH |');
      const peers = 'FlexAttention, FLASH | 30.0 / 40.0 | 1.50× | 15.0 / 40.0 | 30.0 / 40.0 | – | – | –';
      expect(text).to.include(`| \`causal\` | 8192 | 64 | 50.0% | 1.00 / 1.00 | 60.0 / 40.0 | ${peers} |`);
      const values = textOf([of('flash', 60, {precision: 'bfloat16', D: 192, Dv: 128})], 'benchmark');
      expect(values).to.include('| 8192 | 192, 128 | 50.0% | 1.00 / 1.00 | 60.0 / 40.0 | – | – | – |');
    });

    it("show the CUDA kernels' share of their causal speed, and how they compare with FlexAttention over all masks", () => {
      const cuda = {
        ...call,
        suite: 'cuda',
        backend: 'cuda',
        kind: undefined,
        input: 'bfloat16',
        part: undefined,
      } as const;
      const of = (mask: string, attention: BenchRecord['attention'], ms: number): BenchRecord =>
        speed(mask, {...cuda, attention, precision: attention === 'flash' ? 'bfloat16' : undefined, forwardMs: ms, backwardMs: ms, forwardTflops: 100 / ms, backwardTflops: 80 / ms}); // prettier-ignore
      const records = [
        of('causal', 'flash', 1), of('causal', 'flex', 3), of('causal', 'flex-flash', 2), of('causal', 'fa4', 0.5),
        of('document', 'flash', 4), of('document', 'flex', 32),
      ]; // prettier-ignore
      const text = textOf(records, 'cuda-speed');
      const title = '**GPU**, bfloat16, N 8192, H 32, D 64, forward / backward:';
      expect(text).to.include(title);
      const causal = '100 / 80.0 | 100% / 100% | 50.0 / 40.0 | 2.00× | FlashAttention-4 | 200 / 160 | 0.50×';
      expect(text).to.include(`| \`causal\` | 50.0% | ${causal} |`);
      const document = '25.0 / 20.0 | 25% / 25% | 3.13 / 2.50 | 8.00× | FlexAttention | 3.13 / 2.50 | 8.00×';
      expect(text).to.include(`| \`document\` | 50.0% | ${document} |`);
      expect(text).to.include('next to FlexAttention, over 2 rows: geometric mean 4.00×, least 2.00×.');
      const names = [...plotsOf('x', [...records, of('full', 'flash', 1)]).keys()];
      expect(names).to.deep.equal(['x-speed-8192']);
    });

    it('show calls of tfjs-node next to those of FlexAttention on the same mask', () => {
      const flash = speed('causal', {suite: 'masks', backend: 'tensorflow', kind: undefined, part: undefined, precision: undefined}); // prettier-ignore
      const flex = speed('causal', {suite: 'cuda', backend: 'cuda', kind: undefined, part: undefined, precision: undefined, attention: 'flex', input: 'float32', forwardMs: 20, backwardMs: 60}); // prettier-ignore
      const text = textOf([flash, flex], 'cuda-float32');
      expect(text).to.include('| `causal` | 8192 | 64 | 50.0% | 2.00 / 6.00 | 20.0 / 60.0 | 10.0× |');
      expect(textOf([flash, {...flex, masked: 0.6}], 'cuda-float32')).to.equal('');
    });

    it('show the causal mask of each device', () => {
      const text = textOf([speed('causal', {part: 'causal', forwardTflops: 50, backwardTflops: 65})], 'webgpu-causal');
      expect(text).to.match(/\| 50\.0 \| 65\.0 \|$/m);
    });

    it('are put between the marks of a document, which must be there', () => {
      const text = 'a\n<!-- x -->\nold\n<!-- /x -->\nb\n';
      const blocks = new Map([['x', 'new $&']]);
      expect(withBlocks(text, blocks)).to.deep.equal({
        text: 'a\n<!-- x -->\n\nnew $&\n\n<!-- /x -->\nb\n',
        names: ['x'],
      });
      expect(withBlocks('a', blocks).names).to.deep.equal([]);
      expect(() => withBlocks('<!-- x -->', blocks)).to.throw('<!-- x --> must be closed by <!-- /x -->');
    });
  });

  const {skip} = devices.find(({name}) => name === 'webgpu')!;
  (skip ? describe.skip : describe)(`on webgpu${skip ? ` (${skip})` : ''}`, () => {
    /** Runs a suite with its smallest sizes; returns its output and its records. */
    function run(...args: string[]): {text: string; records: BenchRecord[]} {
      const folder = mkdtempSync(join(tmpdir(), 'bench-'));
      const out = join(folder, 'records.jsonl');
      try {
        const command = ['--import=tsx', 'bench/main.ts', ...args, '--machine', 'tested', '--out', out];
        const text = execFileSync(process.execPath, command, {
          cwd: root,
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        return {text, records: readRecords(out)};
      } finally {
        rmSync(folder, {recursive: true});
      }
    }

    it('prints and records what it measured', () => {
      const sizes = '--lengths 64 --heads 1 --dims 8 --seconds 0.01 --masks causal,slidingWindow';
      const {text, records} = run('paper', ...`--parts compile,masks --device stock ${sizes}`.split(' '));
      expect(records.map(({part, mask, device}) => [part, mask, device])).to.deep.equal([
        ['compile', 'causalDocument', 'tested'],
        ['masks', 'causal', 'tested'],
        ['masks', 'slidingWindow', 'tested'],
      ]);
      const [first, causal] = records;
      // Bounds map and forward; delta, dq and dkdv. More passes may be added, but tfjs's own must not be counted.
      expect(first.pipelines).to.be.within(5, 9);
      expect(first.otherPipelines, 'compiled for other lengths').to.equal(0);
      expect(causal.forwardTflops).to.be.closeTo((4 * 8 * 65 * 32) / causal.forwardMs! / 1e9, 1e-9);
      expect(text).to.include('First calls').and.to.include('Every mask');
    });
  });
});
