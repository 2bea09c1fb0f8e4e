/** @file Process groups on NCCL: two processes with a GPU each, started as torchrun starts them. */
import {join} from 'node:path';
import {expect} from 'chai';
import {nativeInfo} from '../../src/entries/node.js';
import {devices} from '../support/devices.js';
import {temporaryFolder} from '../support/packed_project.js';
import {type Rank, runAlone} from '../support/ranks.js';
import {PROGRAM, defineChecks, errorOf, resultsOf} from './report.js';

const RANKS = 2;

/** Why it cannot run here. */
function whyNot(): string | undefined {
  const {skip} = devices.find(({name}) => name === 'tensorflow-gpu')!;
  if (skip) return skip;
  const info = nativeInfo();
  const count = info.path === null ? 0 : info.devices.length;
  return count < RANKS ? `${RANKS} GPUs are needed, and ${count} are here` : undefined;
}

const reason = whyNot();

/** Starts the checks before the tests of a suite. Each process has a GPU of its own. */
function start(end: string, more: NodeJS.ProcessEnv = {}): () => Rank[] {
  let ended: Rank[] = [];
  before(async () => {
    const rendezvous = join(temporaryFolder(), 'rank0');
    const env = {CUDA_VISIBLE_DEVICES: undefined, FLASHMASK_RENDEZVOUS: rendezvous, ...more};
    ended = await runAlone({ranks: RANKS, program: PROGRAM, args: [end], env});
  });
  return () => ended;
}

(reason ? describe.skip : describe)(`process groups on NCCL${reason ? ` (${reason})` : ''}`, () => {
  describe('in order', () => {
    const ended = start('finalize');
    defineChecks(ended);

    it('end', () => {
      for (const rank of ended()) {
        expect(resultsOf(rank).at(-1)).to.deep.equal({name: 'finalize'});
        expect(rank.code, rank.stderr).to.equal(0);
      }
    });
  });

  describe('of which one is killed', () => {
    const ended = start('killed');

    it('end all others, also those whose GPU waits', () => {
      const [first, killed] = ended();
      expect(killed.signal).to.equal('SIGKILL');
      expect(first.code).to.equal(1);
      expect(errorOf(first)).to.match(
        /^rank 1 must run until all have called finalize\(\), got the end of its connection/,
      );
    });
  });

  describe('whose calls do not fit', () => {
    const ended = start('misfit');

    it('end all, with both calls', () => {
      for (const rank of ended()) {
        expect(rank.code, rank.stderr).to.equal(1);
        expect(errorOf(rank)).to.match(/^allReduce: all members must make the same call, with tensors that fit/);
        for (const call of ['allReduce (sum) of [3, 2] of rank 0', 'allReduce (sum) of [2, 3] of rank 1']) {
          expect(errorOf(rank)).to.contain(call);
        }
      }
    });
  });

  describe('of which one does not come', () => {
    const ended = start('late', {FLASHMASK_TIMEOUT: '5'});

    it('end all others in time, also those whose GPU waits', () => {
      const [first] = ended();
      expect(first.code, first.stderr).to.equal(1);
      expect(errorOf(first)).to.match(/^allReduce: every member must come within 5 s, got nothing of rank 1, while /);
    });
  });
});
