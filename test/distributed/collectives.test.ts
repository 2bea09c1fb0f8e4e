/** @file Process groups in real processes, on MPI. */
import {join} from 'node:path';
import {expect} from 'chai';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {mpich, openMpi} from '../support/mpich.js';
import {type Rank, runOnMpi} from '../support/ranks.js';
import {skip} from '../support/skip.js';
import {checks} from './checks.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;

interface Result {
  name: string;
  error?: string;
}

const resultsOf = ({stdout}: Rank): Result[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Result);

const PROGRAM = 'test/distributed/programs/run_checks.ts';

/** Starts a program before the tests of a suite. */
function start(ranks: number, args: string[], env: (folder: string) => NodeJS.ProcessEnv = () => ({})): () => Rank[] {
  let ended: Rank[] = [];
  before(`starts ${ranks} processes`, async function () {
    const found = await mpich();
    if ('reason' in found) skip(this, found.reason);
    else ended = await runOnMpi(found.folder, {ranks, program: PROGRAM, args, env: env(found.folder)});
  });
  return () => ended;
}

/** Defines a test for each check. */
function defineChecks(ended: () => Rank[]): void {
  for (const name of Object.keys(checks)) {
    it(name, () => {
      ended().forEach((rank, i) => {
        const result = resultsOf(rank).find((each) => each.name === name);
        expect(result?.name, `rank ${i} printed ${rank.stderr}`).to.equal(name);
        expect(result!.error, `rank ${i}`).to.equal(undefined);
      });
    });
  }
}

/** The error by which a process ended. */
const errorOf = ({stderr}: Rank): string | undefined => /^Error: (.*)$/m.exec(stderr)?.[1];

(tensorflow.skip ? describe.skip : describe)(`process groups${tensorflow.skip ? ` (${tensorflow.skip})` : ''}`, () => {
  describe('of 2 processes', () => {
    const ended = start(2, ['finalize']);
    defineChecks(ended);

    it('ends, however often finalize() is called', () => {
      for (const rank of ended()) {
        expect(resultsOf(rank).at(-1)).to.deep.equal({name: 'finalize'});
        expect(rank.code, rank.stderr).to.equal(0);
      }
    });
  });

  describe('of 3 processes, on MPI without the standard ABI', () => {
    const ended = start(3, ['killed'], (folder) => ({FLASHMASK_MPI: join(folder, 'lib', 'libmpi.so.12')}));
    defineChecks(ended);

    it('ends all if one is killed, and says which and where', () => {
      const [first, killed, third] = ended();
      expect(killed.signal).to.equal('SIGKILL');
      for (const rank of [first, third]) {
        expect(rank.code).to.equal(1);
        expect(errorOf(rank)).to.match(
          /^rank 1 must run until all have called finalize\(\), got the end of its connection/,
        );
      }
    });
  });

  it('run on Open MPI too', async function () {
    if (!full) skip(this, 'FLASHMASK_FULL=1 runs it: two other libraries, each with its own constants, run above');
    const found = await openMpi();
    if ('reason' in found) return skip(this, found.reason);
    const options = ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none'];
    const env = {OPAL_PREFIX: found.folder};
    const ended = await runOnMpi(found.folder, {ranks: 3, program: PROGRAM, args: ['finalize'], env, options});
    for (const rank of ended) {
      const names = [...Object.keys(checks), 'finalize'].map((name) => ({name}));
      expect(resultsOf(rank), rank.stderr).to.deep.equal(names);
      expect(rank.code).to.equal(0);
    }
  });

  it('whose calls do not fit end all, with both calls', async function () {
    const found = await mpich();
    if ('reason' in found) return skip(this, found.reason);
    const ended = await runOnMpi(found.folder, {ranks: 2, program: PROGRAM, args: ['another shape', 'without checks']});
    for (const rank of ended) {
      expect(rank.code).to.equal(1);
      expect(errorOf(rank)).to.match(
        /^allReduce: all members must make the same call, with tensors that fit each other, got /,
      );
      for (const call of ['allReduce (sum) of [3, 2] of rank 0', 'allReduce (sum) of [2, 3] of rank 1']) {
        expect(errorOf(rank)).to.contain(call);
      }
    }
  });
});
