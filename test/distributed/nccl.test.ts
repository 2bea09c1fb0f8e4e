/**
 * @file Process groups on NCCL: two processes with a GPU each, started as torchrun starts them. Where there is one GPU,
 * both use it.
 */
import {join} from 'node:path';
import {expect} from 'chai';
import {nativeInfo} from '../../src/entries/node.js';
import {devices} from '../support/devices.js';
import {temporaryFolder} from '../support/packed_project.js';
import {type Rank, runAlone} from '../support/ranks.js';
import {PROGRAM, defineChecks, errorOf, resultsOf} from './report.js';

const RANKS = 2;

const {skip: reason} = devices.find(({name}) => name === 'tensorflow-gpu')!;

/** NCCL refuses two processes of a host that have the same GPU, so each claims a host of its own. */
function environmentOf(rank: number): NodeJS.ProcessEnv {
  const info = nativeInfo();
  if (info.path !== null && info.devices.length >= RANKS) return {CUDA_VISIBLE_DEVICES: undefined};
  const network = {NCCL_HOSTID: `host${rank}`, NCCL_NET: 'Socket', NCCL_SOCKET_IFNAME: 'lo'};
  return {...network, CUDA_VISIBLE_DEVICES: '0', TF_FORCE_GPU_ALLOW_GROWTH: 'true'};
}

/** Starts the checks before the tests of a suite. */
function start(end: string, more: NodeJS.ProcessEnv = {}): () => Rank[] {
  let ended: Rank[] = [];
  before(async () => {
    const rendezvous = join(temporaryFolder(), 'rank0');
    const env = (rank: number) => ({...environmentOf(rank), FLASHMASK_RENDEZVOUS: rendezvous, ...more});
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
