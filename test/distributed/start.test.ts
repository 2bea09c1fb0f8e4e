/** @file How a process finds its place: launchers, its GPU, rank 0, and the libraries. */
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {init} from '../../src/entries/distributed.js';
import {findPlace} from '../../src/distributed/launcher.js';
import {mpiLibraries, ncclLibraries} from '../../src/distributed/libraries.js';
import {chooseRendezvous, ownEndpoint, publish, sharedToken} from '../../src/distributed/rendezvous.js';
import {visibleDevicesOf} from '../../src/distributed/visible_devices.js';
import {temporaryFolder} from '../support/packed_project.js';

describe('the place of a process', () => {
  const launchers: [string, NodeJS.ProcessEnv, object][] = [
    [
      'torchrun',
      {RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2'},
      {launcher: 'torchrun', rank: 3, size: 4, localRank: 1, localSize: 2},
    ],
    [
      'torchrun in a job of Slurm',
      {RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', SLURM_PROCID: '1', SLURM_STEP_NUM_TASKS: '2'},
      {launcher: 'torchrun', rank: 3, size: 4, localRank: 1, localSize: undefined},
    ],
    [
      "MPICH's mpiexec",
      {PMI_RANK: '1', PMI_SIZE: '2', MPI_LOCALRANKID: '1', MPI_LOCALNRANKS: '2'},
      {launcher: 'MPICH', rank: 1, size: 2, localRank: 1, localSize: 2},
    ],
    [
      "Open MPI's mpirun",
      {
        OMPI_COMM_WORLD_RANK: '5',
        OMPI_COMM_WORLD_SIZE: '8',
        OMPI_COMM_WORLD_LOCAL_RANK: '1',
        OMPI_COMM_WORLD_LOCAL_SIZE: '4',
      },
      {launcher: 'Open MPI', rank: 5, size: 8, localRank: 1, localSize: 4},
    ],
    [
      'srun',
      {SLURM_PROCID: '2', SLURM_STEP_NUM_TASKS: '4', SLURM_LOCALID: '0'},
      {launcher: 'Slurm', rank: 2, size: 4, localRank: 0, localSize: undefined},
    ],
    [
      'srun for programs of MPI',
      {PMI_RANK: '2', PMI_SIZE: '4', SLURM_PROCID: '2', SLURM_STEP_NUM_TASKS: '4', SLURM_LOCALID: '1'},
      {launcher: 'MPICH', rank: 2, size: 4, localRank: 1, localSize: undefined},
    ],
  ];
  for (const [name, environment, place] of launchers) {
    it(`is known under ${name}`, () => expect(findPlace(environment)).to.deep.equal(place));
  }

  it('is none without a launcher, and in a batch script of Slurm', () => {
    expect(findPlace({})).to.equal(null);
    expect(findPlace({SLURM_PROCID: '0', SLURM_NTASKS: '4', SLURM_JOB_ID: '1'})).to.equal(null);
  });

  it('must make sense', () => {
    expect(() => findPlace({RANK: 'x', WORLD_SIZE: '2'})).to.throw(
      "init: RANK, which torchrun sets, must be a whole number, got 'x'. Unset RANK.",
    );
    expect(() => findPlace({PMI_RANK: '2', PMI_SIZE: '2'})).to.throw(
      'init: MPICH must give a rank below the number of processes, got PMI_RANK=2 and PMI_SIZE=2. Correct the environment.',
    );
  });
});

describe('the GPU of a process', () => {
  const place = {launcher: 'torchrun' as const, rank: 1, size: 2, localRank: 1};
  const cases: [string, string | undefined, string | undefined][] = [
    ['is that of its local rank', undefined, '1'],
    ['is its own of a list', '4,5,6', '5'],
    ['is left if the launcher chose one', '3', undefined],
    ['is none if none are visible', '-1', undefined],
    ['is none if the list is empty', '', undefined],
  ];
  for (const [name, now, wanted] of cases) {
    it(name, () => expect(visibleDevicesOf(place, now)).to.equal(wanted));
  }
  it('is left to a process alone', () =>
    expect(visibleDevicesOf({...place, rank: 0, size: 1}, undefined)).to.equal(undefined));
});

describe('where rank 0 is', () => {
  it('is told by the option, before all else', () => {
    const environment = {MASTER_ADDR: 'a', MASTER_PORT: '1234'};
    expect(chooseRendezvous('host:5000', true, environment)).to.deep.equal({kind: 'port', address: 'host', port: 5000});
    expect(chooseRendezvous('[::1]:5000', true, {})).to.deep.equal({kind: 'port', address: '::1', port: 5000});
    expect(chooseRendezvous('/shared/file', false, environment)).to.deep.equal({kind: 'file', path: '/shared/file'});
  });

  it("is told by MPI, else by torchrun's address and the port after its own, else by Slurm's nodes", () => {
    expect(chooseRendezvous(undefined, true, {MASTER_ADDR: 'a'})).to.deep.equal({kind: 'mpi'});
    const torchrun = {MASTER_ADDR: 'a', MASTER_PORT: '1234'};
    expect(chooseRendezvous(undefined, false, torchrun)).to.deep.equal({kind: 'port', address: 'a', port: 1235});
    for (const [nodes, address] of [
      ['node[01-04,7],x', 'node01'],
      ['one,two', 'one'],
      ['n[3]', 'n3'],
      ['n', 'n'],
    ]) {
      const slurm = {SLURM_JOB_ID: '123456', SLURM_STEP_NODELIST: nodes};
      expect(chooseRendezvous(undefined, false, slurm)).to.deep.equal({kind: 'port', address, port: 23456});
    }
  });

  it('must be told', () => {
    expect(() => chooseRendezvous(undefined, false, {})).to.throw(/^init: the processes must be told where rank 0 is/);
    for (const wrong of ['host', 'host:0', 'host:70000', ':80', 'relative/file']) {
      expect(() => chooseRendezvous(wrong, false, {})).to.throw(/^init: rendezvous must be an address and port, or an/);
    }
  });

  it('stands in the file whole, and is gone afterwards', () => {
    const path = join(temporaryFolder(), 'rank0');
    const remove = publish(path, ownEndpoint(4321, 'secret'));
    const endpoint = JSON.parse(readFileSync(path, 'utf8')) as {addresses: string[]; port: number; token: string};
    expect(endpoint).to.include({port: 4321, token: 'secret'});
    expect(endpoint.addresses.every((address) => !address.startsWith('127.') && !address.startsWith('fe80'))).to.equal(
      true,
    );
    remove();
    expect(() => readFileSync(path)).to.throw('ENOENT');
  });

  it('is of one run', () => {
    const tokens = [{}, {SLURM_JOB_ID: '1'}, {SLURM_JOB_ID: '2'}, {TORCHELASTIC_RUN_ID: '1'}].map(sharedToken);
    expect(new Set(tokens)).to.have.length(4);
    expect(sharedToken({SLURM_JOB_ID: '1'})).to.equal(tokens[1]);
  });
});

describe('libraries', () => {
  /** A folder of an installation of MPI. */
  const installed = (...files: string[]): string => {
    const folder = temporaryFolder();
    for (const file of ['bin/mpiexec', ...files]) {
      mkdirSync(join(folder, file, '..'), {recursive: true});
      writeFileSync(join(folder, file), '');
    }
    return folder;
  };

  it('of MPI are those of the mpiexec on the path, the standard ABI first', () => {
    const folder = installed('lib/libmpi.so.12', 'lib/libmpi_abi.so.1', 'lib/libmpi.so.40');
    const own = (name: string): string => join(folder, 'lib', name);
    expect(mpiLibraries('MPICH', {PATH: `/nowhere:${join(folder, 'bin')}`})).to.deep.equal([
      ...['libmpi_abi.so.1', 'libmpi.so.12'].map(own),
      'libmpi_abi.so.1',
      'libmpi.so.12',
    ]);
    const open = mpiLibraries('Open MPI', {PATH: join(folder, 'bin')});
    expect(open).to.deep.equal([own('libmpi.so.40'), 'libmpi.so.40']);
    for (const launcher of ['torchrun', 'Slurm'] as const) {
      expect(mpiLibraries(launcher, {PATH: join(folder, 'bin')})).to.deep.equal([]);
    }
    expect(mpiLibraries('Slurm', {PATH: join(folder, 'bin'), PMIX_RANK: '0'})[0]).to.equal(own('libmpi_abi.so.1'));
  });

  it('are those that the environment names', () => {
    const folder = installed('lib/libmpi.so.12');
    const file = join(folder, 'lib', 'libmpi.so.12');
    expect(mpiLibraries('MPICH', {FLASHMASK_MPI: file})).to.deep.equal([file]);
    expect(mpiLibraries('MPICH', {FLASHMASK_MPI: join(folder, 'lib')})).to.deep.equal([file]);
    expect(ncclLibraries(null, {FLASHMASK_NCCL: '/x/libnccl.so'})).to.deep.equal(['/x/libnccl.so']);
  });

  it('of NCCL are those beside TensorFlow', () => {
    const folder = installed('nvidia/nccl/lib/libnccl.so.2');
    const tensorflow = join(folder, 'tensorflow', 'libtensorflow_cc.so.2');
    const own = join(folder, 'nvidia', 'nccl', 'lib', 'libnccl.so.2');
    expect(ncclLibraries(tensorflow, {})).to.deep.equal([own, 'libnccl.so.2']);
    expect(ncclLibraries('/nowhere/tensorflow/x', {})).to.deep.equal(['libnccl.so.2']);
  });
});

describe('a process without a launcher', () => {
  before(async () => {
    await tf.setBackend('cpu');
  });

  it('is a group of one, on any backend', async () => {
    const world = await init();
    expect([world.rank, world.size, world.localRank]).to.deep.equal([0, 1, 0]);
    const x = tf.tensor2d([[1, 2]]);
    const results = [
      world.allReduce(x, 'mean'),
      world.allGather(x),
      world.reduceScatter(x),
      world.broadcast(x),
      world.allToAll(x, [1], [1]),
      world.sendReceive(x, {to: 0, from: 0}),
    ];
    for (const result of results) expect(await result.array()).to.deep.equal([[1, 2]]);
    expect(await world.sendReceive(x, {}).array()).to.deep.equal([[0, 0]]);
    expect(
      await tf
        .grad((given) => world.allReduce(given).sum())(x)
        .array(),
    ).to.deep.equal([[1, 1]]);
    expect(world.split(3).size).to.equal(1);
    world.barrier();
    expect(await world.exchange({a: 1})).to.deep.equal([{a: 1}]);
    await world.finalize();
  });

  it('gets options of init checked', async () => {
    const wrong = async (options: object): Promise<string> =>
      init(options).then(
        () => 'none',
        (error: unknown) => (error as Error).message,
      );
    expect(await wrong({timeout: -1})).to.match(/^init: timeout must be seconds, more than 0/);
    expect(await wrong({timeouts: 1})).to.match(/^init: options must be among timeout, rendezvous, got 'timeouts'/);
  });
});
