/**
 * @file The CPU kernels without TensorFlow: native/test/cpu_check.cc, compiled from the sources and run on each instruction set that
 * this machine has. test/op/kernels.test.ts judges the best of them more strictly, through the addon.
 */
import {execFile, spawnSync} from 'node:child_process';
import {mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {availableParallelism, tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';
import {expect} from 'chai';
import {instructionSetFlags} from '../../scripts/build_native.mjs';
import {skip} from '../support/skip.js';

const run = promisify(execFile);
const cpu = fileURLToPath(new URL('../../native/cpu/', import.meta.url));
const check = fileURLToPath(new URL('../../native/test/cpu_check.cc', import.meta.url));
const compiler = process.env.CXX ?? 'g++';
const hasCompiler = spawnSync(compiler, ['--version']).status === 0;

/** Compiles the kernels and the program; returns its path. */
async function build(folder: string): Promise<string> {
  const sources = [...readdirSync(cpu).filter((file) => file.endsWith('.cc'))];
  const jobs = sources.map((file) => ({
    from: join(cpu, file),
    to: join(folder, `${file}.o`),
    flags: instructionSetFlags(file),
  }));
  jobs.push({from: check, to: join(folder, 'check.o'), flags: []});
  const objects = jobs.map(({to}) => to);
  const worker = async (): Promise<void> => {
    for (let job = jobs.pop(); job; job = jobs.pop()) {
      await run(compiler, [
        '-std=c++17',
        '-O2',
        '-Wall',
        '-Wextra',
        '-Werror',
        ...job.flags,
        '-c',
        job.from,
        '-o',
        job.to,
      ]);
    }
  };
  await Promise.all(Array.from({length: availableParallelism()}, worker));
  const program = join(folder, 'check');
  await run(compiler, [...objects, '-pthread', '-o', program]);
  return program;
}

describe('CPU kernels against plain loops', function () {
  if (!hasCompiler) {
    it.skip(`needs a C++ compiler (${compiler} is not there)`, () => undefined);
    return;
  }
  let folder: string;
  let program: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-cpu-'));
    program = await build(folder);
  });
  after(() => rmSync(folder, {recursive: true, force: true}));

  for (const set of ['avx512', 'avx2', 'neon', 'generic']) {
    it(`are right on ${set}, with the same bits on one thread and on three, whatever is in masked places`, async function () {
      const {stdout} = await run(program, ['60'], {env: {...process.env, FLASHMASK_CPU: set}});
      if (!stdout.startsWith(`${set}:`)) skip(this, `this processor has no ${set}`);
      expect(stdout).to.equal(`${set}: 60 problems, 0 wrong\n`);
    });
  }

  it('share no function with other files that an older machine could not run', async function () {
    if (spawnSync('nm', ['--version']).status !== 0) skip(this, 'nm is not installed');
    const files = readdirSync(folder).filter((file) => /^kernels_.*\.o$/.test(file));
    const {stdout} = await run('nm', ['-C', ...files.map((file) => join(folder, file))]);
    // Of equal weak (W, V) or unique (u) functions in several files, the linker keeps any one.
    expect(stdout.split('\n').filter((line) => / [WVu] /.test(line))).to.deep.equal([]);
  });
});
