/**
 * @file The CUDA kernels without a GPU: compiles them for the emulator of native/test/emulator, and runs random calls
 * against dense attention. On a GPU native/test/cuda/check.py judges them.
 */
import {execFile, spawnSync} from 'node:child_process';
import {mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';
import {expect} from 'chai';
import {compileForTests} from '../../scripts/build_native.mjs';
import {full} from '../support/full.js';

const run = promisify(execFile);
const native = fileURLToPath(new URL('../../native/', import.meta.url));
const compiler = process.env.CXX ?? 'g++';
const hasCompiler = spawnSync(compiler, ['--version']).status === 0;

const FLAGS = [
  '-std=c++17',
  '-O2',
  '-Wall',
  '-Werror',
  '-Wno-unknown-pragmas',
  '-Wno-pass-failed',
  '-Wno-psabi',
  '-fno-strict-aliasing',
  '-DFLASHMASK_EMULATOR',
  `-I${join(native, 'test', 'emulator', 'include')}`,
  '-x',
  'c++',
];

/** Random calls of each of two processes. */
const CALLS = full ? 300 : 25;
/** How many of the variants of emulator_order_check.cc lose instructions: all, or the first ones. */
const VARIANTS = full ? [] : ['2'];

/** Calls with wrong plans, of each of two processes. */
const PLANS = full ? 40 : 4;

const PROGRAMS = ['emulator_check', 'emulator_plan_check', 'emulator_order_check'];

/** Makes the programs in the folder. */
async function build(folder: string): Promise<void> {
  const filesOf = (part: string, extension: string): string[] =>
    readdirSync(join(native, part))
      .filter((file) => file.endsWith(extension))
      .map((file) => join(part, file));
  const sources = PROGRAMS.map((program) => join('test', `${program}.cc`));
  const kernels = filesOf('cuda', '.cu').filter((path) => !path.endsWith('layers.cu'));
  const objects = await compileForTests([...sources, ...kernels, ...filesOf(join('test', 'emulator'), '.cc')], FLAGS);
  const shared = objects.slice(PROGRAMS.length);
  await Promise.all(PROGRAMS.map((program, i) => run(compiler, [objects[i], ...shared, '-o', join(folder, program)])));
}

describe('CUDA kernels on the emulator', function () {
  if (!hasCompiler || process.platform !== 'linux') {
    it.skip(`needs Linux and a C++ compiler (${compiler})`, () => undefined);
    return;
  }
  let folder: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-cuda-'));
    await build(folder);
  });
  after(() => rmSync(folder, {recursive: true, force: true}));

  /** Runs so many random calls in each of two processes. */
  async function expectRight(program: string, count: number): Promise<void> {
    const calls = [1000, 2000].map((seed) => run(join(folder, program), [String(count), String(seed)]));
    for (const {stdout} of await Promise.all(calls)) expect(stdout).to.equal(`${count} calls, 0 wrong\n`);
  }

  it('are as right as dense attention, whatever is in masked places', () => expectRight('emulator_check', CALLS));

  it('all follow the plan that a call is given, and end whatever is in it', () =>
    expectRight('emulator_plan_check', PLANS));

  it('do not come through without what orders their instructions', async () => {
    const {stdout} = await run(join(folder, 'emulator_order_check'), VARIANTS);
    const lines = [...stdout.matchAll(/^(\w+): (\d+) of (\d+) places noticed$/gm)];
    expect(lines).to.have.length(8);
    for (const [line, name, noticed, places] of lines) {
      // Lanes rarely drift apart so far that this matters.
      if (name === '__syncwarp') continue;
      expect(Number(noticed), line).to.be.greaterThan(Number(places) / 2);
    }
  });
});
