/** @file `npm start`, the main job: a run as a user starts it, Ctrl-C and resume, failed downloads, every error. */
import {chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import {paragraphs} from '../../examples/finetune/data/paragraphs.js';
import {findPip} from '../../examples/finetune/pinned_download.js';
import {LossComparison} from '../../examples/finetune/train/comparison.js';
import type {MetricsRecord} from '../../examples/finetune/train/metrics.js';
import {GLASSLLM} from '../../examples/finetune/weights/pypi.js';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import {
  type Finished,
  command,
  fails as commandFails,
  finish,
  interruptAt,
  onEachLine,
  preload,
  start,
  succeeds,
} from '../support/finetune_command.js';
import {FASTEST_BACKEND as BACKEND, setUpFastestBackend} from '../support/finetune_device.js';
import {writeInstructions, writeTinyModel} from '../support/finetune_tiny.js';
import {skip} from '../support/skip.js';
import {withWrongDense} from '../support/wrong_dense_attention.js';

const SMALL = ['--backend', BACKEND, '--row-tokens', '48', '--eval-samples', '0', '--prompt', 'Attention'];
const SCRATCH = [...SMALL, '--from-scratch'];

describe('the main job', () => {
  let folder: string;
  let cache: string;
  before(setUpFastestBackend);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-demo-'));
    cache = join(folder, 'cache');
  });
  afterEach(() => rmSync(folder, {recursive: true, force: true}));

  /** `npm start` runs in the temporary folder after its setup. */
  const here = (env: NodeJS.ProcessEnv = {}) => ({cwd: folder, env: {XDG_CACHE_HOME: cache, ...env}});
  const run = (args: string[], env?: NodeJS.ProcessEnv): Promise<string> => succeeds(['demo', ...args], here(env));
  const fails = (message: RegExp, args: string[], env?: NodeJS.ProcessEnv): Promise<Finished> =>
    commandFails(message, ['demo', ...args], here(env));
  const output = (...path: string[]): string => join(folder, 'checkpoints', 'demo', ...path);

  it('trains on WebGPU, compares, draws, generates and saves, in a process of its own', async function () {
    try {
      await useWebGPU({quiet: true});
    } catch (error) {
      skip(this, (error as Error).message);
    }
    const sizes = ['--steps', '2', '--batch-rows', '1', '--row-tokens', '64', '--eval-samples', '2'];
    // Leaves XDG_CACHE_HOME alone, so that the software adapter is not unpacked again.
    const {code, stdout, stderr} = await finish(start(['demo', ...sizes, '--from-scratch'], {cwd: folder}));
    expect(code, stderr + stdout).to.equal(0);
    for (const part of [
      /Device +webgpu on /,
      /Model +fresh glassllm: 0\.\d\d M parameters, all trained/,
      /Data +checkpoints\/demo\/documentation\.jsonl: \d+ samples of \d+ records.*; the first 2 held out/,
      /Packing +\d+ rows of 64 tokens, \d+\.\d % full/,
      /Training 2 steps of 1 row, .* a twin with dense attention does the first 2 too/,
      /step 2\/2 +loss \d\.\d{4} .* 0s left/,
      /Loss: training loss/,
      /Held-out loss +\d\.\d{4} before, \d\.\d{4} after/,
      /Prompt +Describe a day at the beach\./,
      /Tiles skipped +\d+\.\d %/,
      /Same losses +yes: .* over 2 steps/,
      /flashMaskAttention +\d+\.\d\d s +\d+\.\d MB/,
      /dense masked attention +\d+\.\d\d s +\d+\.\d MB/,
    ]) {
      expect(stdout).to.match(part);
    }
    expect(readdirSync(output())).to.have.members([
      ...['accuracy.svg', 'checkpoint-2', 'documentation.jsonl', 'loss.svg', 'metrics.jsonl'],
    ]);
  });

  it('goes on after Ctrl-C with the settings that it had, and starts over without --resume', async () => {
    const first = ['demo', ...SCRATCH, '--steps', '5', '--seed', '3', '--compare', '0'];
    const stopped = await command(first, {...here(), onOutput: interruptAt('step 1/5')});
    expect(stopped.code, stopped.stderr).to.equal(130);
    const [, done] = /Stopped after step (\d) of 5\. Go on with --resume/.exec(stopped.stdout)!;

    await fails(/checkpoint-\d is a checkpoint of a run with other settings: learning-rate was 0\.001 and is 0\.002/, [
      ...['--backend', BACKEND, '--resume', '--learning-rate', '0.002'],
    ]);
    const resumed = await run(['--backend', BACKEND, '--resume', '--compare', '1']);
    expect(resumed).to.match(/Model +fresh glassllm/);
    expect(resumed).to.match(
      new RegExp(`Training 5 steps of 1 row, 0\\.\\d\\d epochs from step ${Number(done) + 1}; `),
    );
    const lines = readFileSync(output('metrics.jsonl'), 'utf8').trimEnd().split('\n');
    expect(lines.map((line) => (JSON.parse(line) as MetricsRecord).global_step)).to.deep.equal([1, 2, 3, 4, 5]);

    await run([...SCRATCH, '--steps', '1', '--compare', '0']);
    expect(readdirSync(output())).to.include('checkpoint-1').and.not.include('checkpoint-5');
    // A folder given by --output is different: its checkpoints are kept.
    await fails(/checkpoint-1 is there already/, [...SCRATCH, '--steps', '1', '--output', output()]);
  });

  it('trains from scratch where there is no pip, and says so; not where other data were given', async () => {
    // Without --backend, in a process of its own: it takes what this machine has.
    const sizes = ['--row-tokens', '48', '--eval-samples', '0', '--steps', '1', '--compare', '0'];
    const {code, stdout, stderr} = await finish(start(['demo', ...sizes], here({PATH: folder})));
    expect(code, stderr + stdout).to.equal(0);
    expect(stdout).to.match(/^Start +looking for a GPU; without one, the job takes two to three minutes/);
    expect(stdout).to.match(/Device +(tensorflow|webgpu) on /);
    expect(stdout).to.match(/(glassllm|smollm2) .* no pip here\..* on this repository's documentation instead\.\n/);
    expect(stdout).to.match(/Model +fresh glassllm: 0\.\d\d M parameters, all trained/);
    await fails(/there is no pip here/, [...SMALL, '--data', 'alpaca_en_demo'], {PATH: folder});
  });

  it('says why it does not take tfjs-node', async function () {
    const broken = preload(`const {dlopen} = process;
      process.dlopen = (module, file, ...rest) => {
        if (file.endsWith('tfjs_binding.node')) throw new Error('the binding is broken\\nin many ways');
        return dlopen.call(process, module, file, ...rest);
      };`);
    // Without pip nothing is downloaded. The software adapter is in the user's own cache.
    const child = start(['demo'], {cwd: folder, env: {...broken, PATH: folder}});
    const {stdout, stderr} = await finish(child, (text) => {
      if (text.split('\n').length > 2) child.kill('SIGKILL');
    });
    const [, second = stderr] = stdout.split('\n');
    if (!second.startsWith('Start')) skip(this, `WebGPU has a GPU, or does not start: ${second}`);
    expect(second).to.match(
      /^Start +WebGPU on the CPU, without --backend tensorflow: (@tensorflow\/tfjs-node: the binding is broken|there is no tfjs-node here)\. Run: npx tfjs-flashmask doctor$/,
    );
  });

  it('fails when dense attention gives other losses', async () => {
    await writeTinyModel(join(folder, 'model'));
    const model = ['--model', 'model', '--data', writeInstructions(folder)];
    const args = ['demo', ...SMALL, ...model, '--backend', 'cpu', '--steps', '2'];
    const {code, stdout, stderr} = await withWrongDense(() => command(args, here()));
    expect(stdout, stderr).to.match(/Same losses +NO: .* over 2 steps \(allowed 1e-4\)/);
    expect(code).to.equal(1);
  });

  it('takes losses for the same up to 1e-4 relative', () => {
    const agrees = (...losses: [number, number][]): boolean => {
      const comparison = new LossComparison();
      losses.forEach(([flash, dense]) => comparison.add(flash, dense));
      return comparison.agrees;
    };
    expect([agrees(), agrees([5, 5], [5.0004, 5]), agrees([4.9996, 5])]).to.deep.equal([true, true, true]);
    expect([agrees([5.0006, 5], [5, 5]), agrees([5, 5], [4.9994, 5])]).to.deep.equal([false, false]);
  });

  it('splits a text into paragraphs that fit, and loses nothing but blank ends', () => {
    const text = Array.from({length: 30}, (_, i) => `the cat sat ${'on '.repeat(i % 4)}the mat.\n`).join('');
    const parts = paragraphs(text, ({length}) => length < 60);
    expect(parts.length).to.be.above(5);
    expect(parts.join('\n') + '\n').to.equal(text);
    parts.forEach((part) => expect(part.length).to.be.below(60));
    expect(paragraphs('one line that is too long\n\n\nx', ({length}) => length < 5)).to.deep.equal([
      'one line that is too long',
      'x',
    ]);
  });

  it('says that the network is missing, and what to do', async function () {
    if (findPip() === null) {
      skip(this, 'no pip');
    }
    const offline = {
      PIP_CONFIG_FILE: '/dev/null',
      PIP_INDEX_URL: 'http://127.0.0.1:9/simple',
      PIP_EXTRA_INDEX_URL: '',
      PIP_FIND_LINKS: '',
      PIP_NO_CACHE_DIR: '1',
    };
    await fails(
      /Cannot download glassllm 0\.1\.0: the package index cannot be reached.*--model and --data.*--from-scratch/,
      SMALL,
      offline,
    );
    expect(readdirSync(join(cache, 'tfjs-flashmask', 'downloads'))).to.deep.equal([]);
  });

  describe('with a stand-in for pip', function () {
    before(function () {
      if (process.platform === 'win32') skip(this, 'the stand-in is a script of sh');
    });
    /** A `python3` that runs `lines` of sh instead of a download; `$destination` is where pip should put the file. */
    const standIn = (lines: string): NodeJS.ProcessEnv => {
      const bin = join(folder, 'bin');
      mkdirSync(bin, {recursive: true});
      const script = `#!/bin/sh
case "$*" in *--version*) exit 0;; esac
while [ $# -gt 0 ]; do if [ "$1" = --dest ]; then destination=$2; fi; shift; done
${lines}
`;
      writeFileSync(join(bin, 'python3'), script);
      chmodSync(join(bin, 'python3'), 0o755);
      return {PATH: bin};
    };
    const downloads = (): string => join(cache, 'tfjs-flashmask', 'downloads');

    it('refuses a download that arrives corrupt, and keeps nothing of it', async () => {
      const garbage = standIn(`echo garbage > "$destination/${GLASSLLM.file}"`);
      await fails(/glassllm-0\.1\.0.*arrived corrupt: sha256 [0-9a-f]{64}, wanted 1611801c/, SMALL, garbage);
      expect(readdirSync(downloads())).to.deep.equal([]);
    });

    it('notices a damaged file in the cache and downloads it again', async () => {
      mkdirSync(downloads(), {recursive: true});
      writeFileSync(join(downloads(), GLASSLLM.file), 'half of it');
      const {stdout} = await fails(
        /pip failed:\nERROR: out of order/,
        SMALL,
        standIn('echo "ERROR: out of order" >&2; exit 1'),
      );
      expect(stdout).to.match(/glassllm-0\.1\.0.* is damaged; downloading it again/);
      expect(readdirSync(downloads())).to.deep.equal([]);
    });

    it('leaves no half file under the final name when it is interrupted', async () => {
      const slow = standIn(`echo half > "$TMPDIR/${GLASSLLM.file}"; exec /bin/sleep 60`);
      const interrupt = onEachLine('if (/^downloading glassllm/.test(line)) process.kill(process.pid, "SIGINT")');
      const finished = await finish(start(['demo', ...SMALL], here({...slow, ...interrupt})));
      expect(finished.code).to.not.equal(0);
      expect(existsSync(join(downloads(), GLASSLLM.file))).to.equal(false);
    });
  });

  it('says what is wrong with an option', async () => {
    await fails(/'--steps <number>' argument 'no' is invalid\. It should be a whole number, at least 1/, [
      '--steps',
      'no',
    ]);
    await fails(/Allowed choices are auto, tensorflow, webgpu, cpu/, ['--backend', 'cuda']);
    await fails(/option '--from-scratch' cannot be used with option '--data <name>'/, [...SCRATCH, '--data', 'x.json']);
    await writeTinyModel(join(folder, 'model'));
    await fails(/--data: there is no x\.json/, [...SMALL, '--model', 'model', '--data', 'x.json']);
    await fails(/--resume: there is no checkpoint in checkpoints\/demo/, [...SCRATCH, '--resume']);
  });

  it('explains its options', async () => {
    const help = await run(['--help']);
    expect(help).to.match(/Usage: npm start -- \[options\]/);
    for (const option of ['--from-scratch', '--steps', '--row-tokens', '--learning-rate', '--compare', '--resume']) {
      expect(help).to.include(option);
    }
  });
});
