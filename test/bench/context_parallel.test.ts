/** @file The suite `context-parallel`: its figures against tiles counted one by one, its table and its plots. */
import {expect} from 'chai';
import {maskOf} from '../../bench/masks.js';
import type {BenchRecord} from '../../bench/record.js';
import {runContextParallel} from '../../bench/suites/context_parallel.js';
import {contextParallelSections} from '../../bench/tables/context_parallel.js';
import {plotsOf} from '../../bench/tables/plots.js';
import {describeRecord} from '../../bench/tables/report.js';
import {planContextParallel} from '../../src/distributed/context_parallel.js';
import {tileKinds} from '../../src/mask/bounds/classify.js';

const N = 4096;
const RANKS = [2, 8];

async function measure(mask: string): Promise<BenchRecord[]> {
  const records: BenchRecord[] = [];
  await runContextParallel({masks: [mask], lengths: [N], ranks: RANKS}, (record) => records.push(record));
  return records;
}

/** Live tiles of 128 × 128 of the busiest rank over the mean, less 1, if `ownerOf` has the chunks of so many rows. */
function imbalance(name: string, ranks: number, chunk: number, ownerOf: (chunk: number) => number): number {
  const {kinds, columns} = tileKinds(maskOf(name, N, 'paper'), 128, 128);
  const loads = Array<number>(ranks).fill(0);
  kinds.forEach((kind, i) => {
    const row = Math.floor(i / columns) * 128;
    if (kind !== 'empty') loads[ownerOf(Math.floor(row / chunk))]++;
  });
  return (Math.max(...loads) * ranks) / loads.reduce((a, b) => a + b) - 1;
}

describe('the suite context-parallel', () => {
  for (const name of ['causal', 'causalDocument', 'sharedQuestion']) {
    it(`counts the tiles and keys of ranks: ${name}`, async () => {
      const mask = maskOf(name, N, 'paper');
      for (const record of await measure(name)) {
        const ranks = record.ranks!;
        const rows = N / ranks;
        const plan = planContextParallel(mask, {ranks});
        const {zigzagImbalance, contiguousImbalance, receivedRows, mostReceivedRows} = record;
        const zigzag = (chunk: number): number => Math.min(chunk, 2 * ranks - 1 - chunk);
        expect(zigzagImbalance).to.be.closeTo(imbalance(name, ranks, rows / 2, zigzag), 1e-12);
        expect(contiguousImbalance).to.be.closeTo(
          imbalance(name, ranks, rows, (chunk) => chunk),
          1e-12,
        );
        expect([record.imbalance, record.chunk]).to.deep.equal([plan.imbalance, plan.chunk]);
        const received = Array.from({length: ranks}, (_, rank) => {
          const own = new Set(plan.rows(rank));
          return plan.keys(rank).filter((key) => !own.has(key)).length;
        });
        expect(receivedRows).to.be.closeTo(received.reduce((a, b) => a + b) / ranks, 1e-9);
        expect(mostReceivedRows).to.equal(Math.max(...received));
      }
    });
  }

  it('has a line, a table of a row a mask, and two plots', async () => {
    const records = await measure('causal');
    expect(describeRecord(records[0])).to.match(/^context-parallel causal N 4096 ranks 2 .*zigzag 0.0%, contiguous 48/);
    const [{name, text}] = contextParallelSections(records);
    expect(name).to.equal('context-parallel');
    expect(text).to.contain('**A row of 4,096 tokens on 2 / 8 ranks**:');
    expect(text).to.match(/\| `causal` \| 50.0% \| 1024 \/ 256 \| 0.0% \/ 0.0% \| 0.0% \/ 0.0% \| 48.5% \/ 84.8% \|/);
    const plots = plotsOf('plans', [{...records[0], ranks: 64}, records[1]]);
    expect([...plots.keys()]).to.deep.equal(['plans-balance', 'plans-bytes']);
    for (const svg of plots.values()) expect(svg.match(/<circle/g)!.length).to.be.greaterThan(1);
  });
});
