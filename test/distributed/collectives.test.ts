/** @file Process groups in real processes, on MPI. */
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {init} from '../../src/entries/distributed.js';
import {nativeInfo} from '../../src/entries/node.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {mpich, openMpi} from '../support/mpich.js';
import {within} from '../support/in_process.js';
import {Project, root} from '../support/packed_project.js';
import {type Rank, runOnMpi} from '../support/ranks.js';
import {skip} from '../support/skip.js';
import {checks} from './checks.js';
import {PROGRAM, defineChecks, errorOf, resultsOf} from './report.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;

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

  it('run the guide from the built package, and end all if calls do not fit, with both calls', async function () {
    const found = await mpich();
    if ('reason' in found) return skip(this, found.reason);
    const [, example] = /```js\n([^]*?)```/.exec(readFileSync(join(root, 'docs', 'distributed.md'), 'utf8'))!;
    const misfit = 'world.allReduce(tf.zeros(world.rank === 1 ? [2, 3] : [3, 2]));';
    const program = new Project().write('sum.mjs', example.replace('await world.finalize();', misfit));
    const info = nativeInfo();
    const env = {FLASHMASK_ADDON: info.path!};
    const ended = await runOnMpi(found.folder, {ranks: 2, program, env});
    ended.forEach((rank, i) => {
      expect(rank.stdout, rank.stderr).to.equal(`rank ${i} of 2: 3,6,9\n`);
      expect(rank.code).to.equal(1);
      expect(errorOf(rank)).to.match(
        /^allReduce: all members must make the same call, with tensors that fit each other, got /,
      );
      for (const call of ['allReduce (sum) of [3, 2] of rank 0', 'allReduce (sum) of [2, 3] of rank 1']) {
        expect(errorOf(rank)).to.contain(call);
      }
    });
  });

  describe('that cannot be made', () => {
    before(() => tensorflow.setup());

    const errorUnder = (env: NodeJS.ProcessEnv): Promise<string> =>
      within({env}, () =>
        init().then(
          () => 'no error',
          (error: unknown) => (error as Error).message,
        ),
      );
    const rule = "init: on CPUs the processes must be connected by the launcher's MPI, got ";

    it('say that torchrun has no MPI', async () => {
      expect(await errorUnder({RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0'})).to.equal(
        `${rule}processes of torchrun. Start them by mpiexec; FLASHMASK_MPI in the environment names its library, if it ` +
          'is not found.',
      );
    });

    it('say which library is missing', async () => {
      const message = await errorUnder({PMI_RANK: '0', PMI_SIZE: '2', FLASHMASK_MPI: '/nowhere/libmpi_abi.so.1'});
      expect(message).to.match(/got \/nowhere\/libmpi_abi.so.1: cannot open shared object file/);
      expect(message.startsWith(rule)).to.equal(true);
    });

    it('say which backend they need', async () => {
      await tf.setBackend('cpu');
      expect(await errorUnder({PMI_RANK: '0', PMI_SIZE: '2'})).to.equal(
        "init: several processes must run on tfjs-node's backend 'tensorflow', got 'cpu'. Import @tensorflow/tfjs-node, or " +
          'tfjs-node-gpu, before the call.',
      );
      await tf.setBackend('tensorflow');
    });
  });
});
