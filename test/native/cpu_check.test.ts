/**
 * @file The CPU kernels without TensorFlow: compiles the programs of native/test/ and runs them on each instruction set
 * of this machine. test/op/kernels.test.ts judges the best instruction set more strictly, through the addon.
 */
import {execFile, spawnSync} from 'node:child_process';
import {mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';
import {expect} from 'chai';
import {compileForTests} from '../../scripts/build_native.mjs';
import {skip} from '../support/skip.js';
import {vectors} from '../support/vectors.js';

const run = promisify(execFile);
const cpu = fileURLToPath(new URL('../../native/cpu/', import.meta.url));
const programs = fileURLToPath(new URL('../../native/test/', import.meta.url));
const compiler = process.env.CXX ?? 'g++';
const hasCompiler = spawnSync(compiler, ['--version']).status === 0;

/** Values as a C++ initializer. */
function initializer(value: unknown): string {
  if (Array.isArray(value)) return `{${value.map(initializer).join(', ')}}`;
  // In C++ -2147483648 is the negation of a literal that int32 cannot hold.
  return value === -(2 ** 31) ? 'INT32_MIN' : String(value);
}

function arrayOf(name: string, type: string, cases: unknown[][]): string {
  return `const ${type} ${name}[] = {\n${cases.map((x) => `  ${initializer(x)},`).join('\n')}\n};\n`;
}

const KINDS = {empty: 'kEmpty', partial: 'kPartial', full: 'kFull'};

/** The shared vectors as arrays of the structs of native/test/vectors_check.cc. */
function vectorsInCpp(): string {
  const word = (x: number): string => `${x}u`;
  const seed = (low: number, high: number): string => `${(BigInt(high) << 32n) + BigInt(low)}u`;
  return [
    arrayOf('kIntervals', 'IntervalsCase', vectors('intervals').map((x) => [x.n, x.causal, x.bounds, x.intervals])),
    arrayOf('kClassify', 'ClassifyCase', vectors('classify').map((x) => [
      x.causal, x.Sq, x.Sk, x.r0, x.r1, x.c0, x.c1, x.map, `TileKind::${KINDS[x.kind]}`,
    ])),
    arrayOf('kPhilox', 'PhiloxCase', vectors('philox').map((x) => [
      x.counter.map(word), seed(x.key[0], x.key[1]), x.words.map(word),
    ])),
    arrayOf('kDropout', 'DropoutCase', vectors('dropout').map((x) => [
      `${x.seed}u`, word(x.threshold), x.batchHead, x.row, `"${x.kept}"`,
    ])),
    arrayOf('kMaskHead', 'MaskHeadCase', vectors('mask_head').map((x) => [
      x.maskB, x.Hm, x.H, x.Hkv, x.b, x.h, x.maskHead,
    ])),
  ].join('\n'); // prettier-ignore
}

const FLAGS = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror'];

/** Makes the programs `cpu_check` and `vectors_check` in the folder; returns objects of one instruction set. */
async function build(folder: string): Promise<string[]> {
  writeFileSync(join(folder, 'vectors.inc'), vectorsInCpp());
  const sources = readdirSync(cpu).filter((file) => file.endsWith('.cc'));
  const [check, ...kernels] = await compileForTests(
    ['test/cpu_check.cc', ...sources.map((file) => join('cpu', file))],
    FLAGS,
  );
  await run(compiler, [...kernels, check, '-pthread', '-o', join(folder, 'cpu_check')]);
  // The cache of objects does not know vectors.inc, which is not in native/.
  const vectorsCheck = [`-I${folder}`, join(programs, 'vectors_check.cc')];
  await run(compiler, [...FLAGS, ...vectorsCheck, ...kernels, '-pthread', '-o', join(folder, 'vectors_check')]);
  return kernels.filter((_, i) => sources[i].startsWith('kernels_'));
}

describe('CPU kernels against plain loops', function () {
  if (!hasCompiler) {
    it.skip(`needs a C++ compiler (${compiler} is not there)`, () => undefined);
    return;
  }
  let folder: string;
  let ofOneSet: string[];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-cpu-'));
    ofOneSet = await build(folder);
  });
  after(() => rmSync(folder, {recursive: true, force: true}));

  for (const set of ['avx512', 'avx2', 'neon', 'generic']) {
    it(`are right on ${set}, with the same bits on one thread and on three, whatever is in masked places`, async function () {
      const {stdout} = await run(join(folder, 'cpu_check'), ['60'], {env: {...process.env, FLASHMASK_CPU: set}});
      if (!stdout.startsWith(`${set}:`)) skip(this, `this processor has no ${set}`);
      expect(stdout).to.equal(`${set}: 60 problems, 0 wrong\n`);
    });
  }

  it('have the shared vectors of all languages', async () => {
    const names = ['intervals', 'classify', 'philox', 'dropout', 'mask_head'] as const;
    const {stdout} = await run(join(folder, 'vectors_check'));
    expect(stdout).to.equal(names.map((name) => `${name}: ${vectors(name).length}\n`).join(''));
  });

  it('share no function with other files that an older machine could not run', async function () {
    if (spawnSync('nm', ['--version']).status !== 0) skip(this, 'nm is not installed');
    const {stdout} = await run('nm', ['-C', ...ofOneSet]);
    // The linker keeps one of several equal weak (W, V) or unique (u) functions, perhaps one for a newer machine.
    expect(stdout.split('\n').filter((line) => / [WVu] /.test(line))).to.deep.equal([]);
  });
});
