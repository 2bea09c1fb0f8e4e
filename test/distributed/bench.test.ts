/** @file The suite `distributed` of the benchmarks, in real processes on MPI: models and rows are tiny. */
import {execFile} from 'node:child_process';
import {join} from 'node:path';
import {promisify} from 'node:util';
import {expect} from 'chai';
import {readRecords} from '../../bench/record_files.js';
import type {BenchRecord} from '../../bench/record.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {mpich} from '../support/mpich.js';
import {root, temporaryFolder} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

const {skip: reason} = devices.find(({name}) => name === 'tensorflow')!;

const OPTIONS = [
  '--models', 'tiny', '--masks', 'causalDocument', '--data-length', '256', '--context-length', '512',
  '--longest-from', '128', '--longest-up-to', '300', '--document-tokens', '128', '--steps', '1', '--ranks', '2',
]; // prettier-ignore

/** Runs the suite; returns its records. */
async function bench(mpi: string, ...args: string[]): Promise<BenchRecord[]> {
  const out = join(temporaryFolder(), 'distributed.jsonl');
  const command = ['--import=tsx', 'bench/main.ts', 'distributed', ...OPTIONS, ...args, '--out', out];
  const env = {...process.env, CUDA_VISIBLE_DEVICES: '-1', OMP_NUM_THREADS: '1', FLASHMASK_NUM_THREADS: '1'};
  const mpiexec = ['--mpiexec', join(mpi, 'bin', 'mpiexec')];
  // The suite exits with 1 after a failure.
  await promisify(execFile)(process.execPath, [...command, ...mpiexec], {cwd: root, env}).catch(() => undefined);
  return readRecords(out);
}

(reason ? describe.skip : describe)(`npm run bench -- distributed${reason ? ` (${reason})` : ''}`, () => {
  it('trains on two ranks: a row for each, one row on both, longer rows', async function () {
    if (!full) return skip(this, 'FLASHMASK_FULL=1 runs it');
    const found = await mpich();
    if ('reason' in found) return skip(this, found.reason);
    const [data, context, longest] = await bench(found.folder, '--timeline');
    for (const record of [data, context, longest]) {
      expect(record.outcome, record.reason).to.equal(undefined);
      expect(record.ranks).to.equal(2);
      expect(record.loss).to.be.closeTo(6.2, 0.2);
    }
    expect(data.tokensPerSecond! * data.medianMs!).to.be.closeTo(2 * 256 * 1000, 1e-3);
    expect(context.tokensPerSecond! * context.medianMs!).to.be.closeTo(512 * 1000, 1e-3);
    expect(context.imbalance).to.be.at.least(0);
    expect(data.ownMs).to.have.length(2);
    expect(longest.longestN).to.equal(600);
  });

  it('tells why there are no figures', async function () {
    const found = await mpich();
    if ('reason' in found) return skip(this, found.reason);
    // A row that two ranks cannot share.
    const [{outcome, reason: why}] = await bench(found.folder, '--parts', 'context', '--context-length', '511');
    expect([outcome, why]).to.deep.equal([
      'failed',
      'planContextParallel: the length must be a multiple of ranks, got 511 tokens on 2 ranks. Pad the sequence, for ' +
        'example with {padTo} of the builder. Padding costs no work.',
    ]);
  });
});
