/** @file The suite `distributed`: the group that sends nothing, lengths near the end of memory, and its tables. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {lengthsNear} from '../../bench/finetune/longest.js';
import {quietGroup} from '../../bench/finetune/quiet_group.js';
import {equalTexts, visiblePairs} from '../../bench/finetune/rows.js';
import type {BenchRecord} from '../../bench/record.js';
import {distributedSections} from '../../bench/tables/distributed.js';
import {describeRecord} from '../../bench/tables/report.js';

const COMMON = {
  suite: 'distributed', backend: 'tensorflow', device: 'a GPU', model: 'llama-1b', task: 'lora', keepActivations: false,
} as const; // prettier-ignore

const record = (fields: Partial<BenchRecord>): BenchRecord => ({...COMMON, N: 8192, mask: 'causalDocument', ...fields});

/** Cells of the rows of a part's table. */
function cellsOf(part: string, records: BenchRecord[]): string[][] {
  const {text} = distributedSections(records).find(({name}) => name === `distributed-${part}`)!;
  const rows = text.split('\n').slice(4);
  return rows.map((row) => row.split('|').map((cell) => cell.trim()).slice(1, -1)); // prettier-ignore
}

describe('the suite distributed', () => {
  before(() => tf.setBackend('cpu'));

  it('has a group that sends nothing, with the shapes and gradients of one that does', () => {
    const group = quietGroup({...quietGroup({rank: 1, size: 2} as never)});
    const x = tf.ones<tf.Rank.R2>([4, 3]);
    expect([group.rank, group.size]).to.deep.equal([1, 2]);
    expect(group.allReduce(x).shape).to.deep.equal([4, 3]);
    expect(group.allGather(x).shape).to.deep.equal([8, 3]);
    expect(group.reduceScatter(x).shape).to.deep.equal([2, 3]);
    for (const [more, rows] of [[1, 3], [5, 7]]) {
      const run = (y: tf.Tensor): tf.Tensor => group.allToAll(y, [2, 2], [2, more]);
      expect(run(x).shape).to.deep.equal([rows, 3]);
      expect(tf.grad(run)(x).shape).to.deep.equal([4, 3]);
    } // prettier-ignore
  });

  it('fills a row with equal documents', () => {
    const texts = equalTexts('sft', 1000, 3, 1);
    expect(texts.map((parts) => parts.reduce((a, b) => a + b))).to.deep.equal([333, 333, 334]);
    expect(visiblePairs(equalTexts('sft', 8, 1, 1))).to.equal(36);
  });

  it('tries lengths near the end of memory, then longer ones', () => {
    expect(lengthsNear(409_600, 131_072, 409_600)).to.deep.equal([385_024, 397_312, 409_600]);
    expect(lengthsNear(409_600, 131_072, 1e6).at(-1)).to.equal(1e6);
    expect(lengthsNear(Infinity, 512, 600)).to.deep.equal([600]);
    // A guess that is too low costs no more than steps.
    expect(lengthsNear(8192, 16_384, 1e6)[0]).to.equal(20_480);
  });

  it('sets a row on each GPU beside one GPU', () => {
    const records = [
      record({part: 'data', ranks: 1, xla: true, dtype: 'bfloat16', medianMs: 200, tokensPerSecond: 40_960, peakBytes: 2 ** 31}),
      record({part: 'data', ranks: 2, xla: true, dtype: 'bfloat16', medianMs: 210, tokensPerSecond: 78_019, peakBytes: 2 ** 32,
        hostMs: 30, quietMs: 205, ownMs: [201, 204]}),
      record({part: 'data', ranks: 2, outcome: 'out of memory', reason: 'OOM'}),
    ]; // prettier-ignore
    expect(cellsOf('data', records)).to.deep.equal([
      ['llama-1b, LoRA', 'functions, XLA, bfloat16', '8192', '2', '200.0', '210.0', '40960', '78019', '1.90×', '30.0',
        '201 / 204', '5.00', '2.0', '4.0'],
      ['llama-1b, LoRA', 'functions, float32', '8192', '2', '–', 'out of memory', '–', '–', '–', '–', '–', '–', '–', '–'],
    ]); // prettier-ignore
    expect(describeRecord(records[1])).to.contain('a step 210 ms, 205 ms without collectives, queued in 30.0 ms');
  });

  it('sets one row on all GPUs beside one GPU, with its imbalance', () => {
    const [row] = cellsOf('context', [
      record({part: 'context', ranks: 1, medianMs: 4000, mask: 'causal', masked: 0.5}),
      record({part: 'context', ranks: 2, medianMs: 2000, mask: 'causal', masked: 0.5, imbalance: 0.01}),
    ]);
    expect(row.slice(2, 10)).to.deep.equal(['`causal`', '50.0%', '8192', '2', '4000', '2000', '2.00×', '1.0%']);
  });

  it('tells the longest rows, and whether memory ends them', () => {
    const longest = (fields: Partial<BenchRecord>) => record({part: 'longest', N: 65536, ...fields});
    const one = longest({ranks: 1, longestN: 200_000, nextN: 204_096});
    const several = longest({ranks: 2, longestN: 400_000, nextN: 404_096});
    expect(cellsOf('longest', [one, several])[0].slice(2)).to.deep.equal(
      ['200000', '204096', '2', '400000', '404096', '2.00×'],
    ); // prettier-ignore
    const [late] = cellsOf('longest', [one, {...several, reason: '90 s'}]);
    expect(late[5]).to.equal('at least 400000');
  });
});
