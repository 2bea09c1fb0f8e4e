/** @file The WebGPU benchmark: its masks, that it times the kernels of the op, its records, lines and tables, and a run of it. */
import {execFileSync} from 'node:child_process';
import {appendFileSync, mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {withBlocks} from '../../bench/performance_page.js';
import {Inputs, MaskedAttention} from '../../bench/webgpu/attention.js';
import {fitLine} from '../../bench/webgpu/fit.js';
import {memoryLines, timeLines} from '../../bench/webgpu/lines.js';
import {paperMaskNames, paperMasks} from '../../bench/webgpu/paper_masks.js';
import {PARTS, appendRecord, readRecords, type SpeedRecord, type WebGPURecord} from '../../bench/webgpu/records.js';
import {tasksOf} from '../../bench/webgpu/parts.js';
import {sectionsOf} from '../../bench/webgpu/tables.js';
import {flashMaskAttention} from '../../src/entries/index.js';
import {devices} from '../support/devices.js';
import {root} from '../support/packed_project.js';

const call = {machine: 'GPU', device: 'full', precision: 'float16', N: 8192, H: 32, D: 64} as const;

function speed(mask: string, fields: Partial<SpeedRecord> = {}): SpeedRecord {
  const times = {tiles: 1000, forwardMs: 2, backwardMs: 6, forwardTflops: 50, backwardTflops: 40};
  return {...call, part: 'masks', mask, masked: 0.5, ...times, ...fields};
}

describe('bench:webgpu', () => {
  describe('masks', () => {
    for (const N of [64, 1000, 8192, 32768]) {
      it(`are of ${N} tokens, each with visible pairs`, () => {
        for (const name of paperMaskNames) {
          const mask = paperMasks[name](N);
          expect([mask.queryLength, mask.keyLength], name).to.deep.equal([N, N]);
          expect(1 - mask.sparsity().maskedPairs, name).to.be.greaterThan(0);
        }
      });
    }

    it('have the sparsity of the published samples at 8192: documents of 1041, 2718, 1420, 1191 and 1822 tokens', () => {
      const visible = (lengths: number[]): number => lengths.reduce((sum, n) => sum + n * n, 0) / 8192 ** 2;
      const documents = [1041, 2718, 1420, 1191, 1822];
      expect(paperMasks.document(8192).sparsity().maskedPairs).to.be.closeTo(1 - visible(documents), 1e-12);
      const half = visible(documents) / 2;
      // Half of each square, and half of its diagonal; dropped documents see less of the causal half.
      expect(paperMasks.causalDocument(8192).sparsity().maskedPairs).to.be.closeTo(1 - half, 1e-4);
      const dropped = visible([2718, 1420]) / 2;
      expect(paperMasks.qkSparse(8192).sparsity().maskedPairs).to.be.closeTo(0.5 + dropped, 1e-4);
    });
  });

  it('times what the op and its gradient compute', async () => {
    await tf.setBackend('cpu');
    const inputs = new Inputs(40, 2, 8);
    const mask = paperMasks.prefixLmDocument(40);
    const attention = new MaskedAttention(inputs, mask, 'auto');
    const [q, k, v, dOut] = inputs.tensors;
    const op = (...x: tf.Tensor[]) => flashMaskAttention(x[0], x[1], x[2], mask, {layout: 'bhsd'});
    const actual = [...attention.forward(), ...attention.backward()];
    const expected = [op(q, k, v), ...tf.grads(op)([q, k, v], dOut)];
    for (const [i, tensor] of expected.entries()) expect(await actual[i].data()).to.deep.equal(await tensor.data());
    const before = tf.memory().numTensors;
    tf.dispose([actual, expected, attention.forward(), attention.backward()]);
    attention.dispose();
    inputs.dispose();
    expect(before - tf.memory().numTensors, 'out, lse and dLse; four inputs; twice four results').to.equal(3 + 4 + 8);
  });

  it('has tasks for every part, with the sizes that it is told', () => {
    const plan = {masks: paperMaskNames, dims: [64], denseLength: 4096, longLength: 131072, seconds: 1};
    const sizes = PARTS.map((part) => new Set(tasksOf(part, plan).map(({N, H}) => `${N} x ${H}`)));
    expect(sizes.map((set) => [...set].join(', '))).to.deep.equal([
      '1024 x 2',
      '8192 x 32',
      '4096 x 8',
      '8192 x 32, 32768 x 8',
      '131072 x 4',
      '8192 x 32',
      '2048 x 8, 4096 x 8, 8192 x 8, 16384 x 8, 32768 x 8',
    ]);
    const told = tasksOf('masks', {...plan, lengths: [512], heads: 3});
    expect(told.map(({mask, N, H}) => [mask, N, H])).to.deep.equal(paperMaskNames.map((name) => [name, 512, 3]));
  });

  describe('records', () => {
    let folder: string;
    beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'bench-webgpu-'))));
    afterEach(() => rmSync(folder, {recursive: true}));

    it('are read with the latest of each measurement, without a line that was cut off', () => {
      const path = join(folder, 'new', 'records.jsonl');
      appendRecord(path, speed('causal', {forwardMs: 3}));
      appendRecord(path, {...call, part: 'masks', mask: 'full', error: 'device lost'});
      appendRecord(path, speed('causal', {forwardMs: 2}));
      appendFileSync(path, '{"part":"masks","ma');
      expect(readRecords(path).map((r) => ('error' in r ? r.error : (r as SpeedRecord).forwardMs))).to.deep.equal([
        2,
        'device lost',
      ]);
      expect(readRecords(join(folder, 'none.jsonl'))).to.deep.equal([]);
    });
  });

  describe('lines', () => {
    it('go through points on one, and say how far others are off', () => {
      const exact = fitLine([[1, 5], [2, 7], [4, 11]]); // prettier-ignore
      expect(exact.slope).to.be.closeTo(2, 1e-12);
      expect(exact.intercept).to.be.closeTo(3, 1e-12);
      expect(exact.r2).to.be.closeTo(1, 1e-12);
      // By hand: means 1 and 1, sums of squares 2 and 6, of products 3.
      const bent = fitLine([[0, 0], [1, 0], [2, 3]]); // prettier-ignore
      expect([bent.slope, bent.intercept]).to.deep.equal([1.5, -0.5]);
      expect(bent.r2).to.be.closeTo(0.75, 1e-12);
    });

    it('are of one device, precision, length and head size each', () => {
      const at = (tiles: number, fields: Partial<SpeedRecord> = {}): SpeedRecord =>
        speed(`m${tiles}`, {tiles, forwardMs: tiles / 100, backwardMs: tiles / 40, ...fields});
      const records: WebGPURecord[] = [100, 200, 400, 800].flatMap((tiles) => [
        at(tiles),
        at(tiles, {N: 32768, forwardMs: 5}),
        {...call, part: 'memory', mask: 'causalDocument', N: tiles, peakBytes: 1000 * tiles},
      ]);
      const times = timeLines(records);
      expect(times.map(({N, pass}) => `${N} ${pass}`)).to.deep.equal([
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
    const textOf = (records: WebGPURecord[], name: string): string =>
      sectionsOf(records).find((section) => section.name === name)!.text;

    it('mark a mask with less than 70% of the TFLOP/s of causal at 32768', () => {
      const long = {N: 32768, H: 8};
      const text = textOf(
        [
          speed('causal', {...long, forwardTflops: 100, backwardTflops: 80}),
          speed('document', {...long, forwardTflops: 69, backwardTflops: 60}),
          speed('document', {forwardTflops: 30, backwardTflops: 20}),
        ],
        'masks',
      );
      expect(text).to.include('| `document` | 50.0% | 30.0 / 20.0 | 69.0 / 60.0 | **69%** / 75% |');
    });

    it('show the causal mask of each device', () => {
      const text = textOf([speed('causal', {part: 'targets', forwardTflops: 50, backwardTflops: 65})], 'targets');
      expect(text).to.match(/\| 50\.0 \| 65\.0 \|$/m);
    });

    it('are put between the marks of a document, which must be there', () => {
      const text = 'a\n<!-- x -->\nold\n<!-- /x -->\nb\n';
      const blocks = new Map([['x', 'new $&']]);
      expect(withBlocks('page.md', text, blocks)).to.equal('a\n<!-- x -->\n\nnew $&\n\n<!-- /x -->\nb\n');
      expect(() => withBlocks('page.md', 'a', blocks)).to.throw('page.md must have <!-- x --> and <!-- /x -->');
    });
  });

  const {skip} = devices.find(({name}) => name === 'webgpu')!;
  (skip ? describe.skip : describe)(`on webgpu${skip ? ` (${skip})` : ''}`, () => {
    it('prints and records what it measured', () => {
      const folder = mkdtempSync(join(tmpdir(), 'bench-webgpu-'));
      const out = join(folder, 'records.jsonl');
      const sizes = '--lengths 64 --heads 1 --dims 8 --seconds 0.01 --masks causal,slidingWindow';
      const options = `--parts compile,masks --devices stock ${sizes} --machine tested --out`.split(' ');
      const text = execFileSync(process.execPath, ['--import=tsx', 'bench/webgpu.ts', ...options, out], {
        cwd: root,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      const records = readRecords(out);
      rmSync(folder, {recursive: true});
      expect(records.map(({part, mask, machine}) => [part, mask, machine])).to.deep.equal([
        ['compile', 'causalDocument', 'tested'],
        ['masks', 'causal', 'tested'],
        ['masks', 'slidingWindow', 'tested'],
      ]);
      const [first, causal] = records as [{pipelines: number; otherPipelines: number}, SpeedRecord];
      // Tile map and forward; delta, dq and dkdv. More passes may come, but none of tfjs's own count.
      expect(first.pipelines).to.be.within(5, 9);
      expect(first.otherPipelines, 'compiled for other lengths').to.equal(0);
      expect(causal.forwardTflops).to.be.closeTo((4 * 8 * 65 * 32) / causal.forwardMs / 1e9, 1e-9);
      expect(text).to.include('First calls').and.to.include('Every mask');
    });
  });
});
