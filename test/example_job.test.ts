/** @file The main job as a user starts it, each time in a process of its own: a run, Ctrl-C and resume, every error. */
import {type ChildProcess, spawn, spawnSync} from 'node:child_process';
import {chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {loadCheckpoint} from '../examples/lib/checkpoint.js';
import {findPip} from '../examples/lib/pinned_download.js';
import {MODEL} from '../examples/lib/sources.js';

const repository = fileURLToPath(new URL('..', import.meta.url));
const SMALL = ['--backend', 'cpu', '--row-tokens', '48', '--prompt', 'Attention'];
const SCRATCH = [...SMALL, '--from-scratch'];

interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

describe('example: the job', () => {
  let folder: string;
  let cache: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-job-'));
    cache = join(folder, 'cache');
  });
  afterEach(() => rmSync(folder, {recursive: true, force: true}));

  const start = (args: string[], environment: NodeJS.ProcessEnv = {}): ChildProcess =>
    spawn(
      process.execPath,
      ['--import=tsx', 'examples/finetune.ts', '--checkpoint-dir', join(folder, 'checkpoints'), ...args],
      {
        cwd: repository,
        env: {...process.env, XDG_CACHE_HOME: cache, ...environment},
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
  /** Waits for the end; `onOutput` sees all of standard output so far. */
  const finish = (child: ChildProcess, onOutput: (text: string) => void = () => {}): Promise<Finished> =>
    new Promise((resolve, reject) => {
      const finished: Finished = {code: null, stdout: '', stderr: ''};
      child.stdout!.on('data', (text: Buffer) => onOutput((finished.stdout += text.toString())));
      child.stderr!.on('data', (text: Buffer) => (finished.stderr += text.toString()));
      child.on('error', reject);
      child.on('close', (code) => resolve({...finished, code}));
    });
  /** Sends one SIGINT as soon as the output has a text. */
  const interruptAt = (child: ChildProcess, wanted: string): ((text: string) => void) => {
    let sent = false;
    return (text) => {
      if (!sent && text.includes(wanted)) {
        sent = child.kill('SIGINT');
      }
    };
  };
  const run = (args: string[], environment?: NodeJS.ProcessEnv): Promise<Finished> => finish(start(args, environment));
  const fails = async (message: RegExp, args: string[], environment?: NodeJS.ProcessEnv): Promise<Finished> => {
    const finished = await run(args, environment);
    expect(finished.stderr).to.match(message);
    expect(finished.stderr).to.not.match(/\n {4}at /);
    expect(finished.code).to.equal(1);
    return finished;
  };

  it('trains, compares, draws, generates and saves', async () => {
    const {code, stdout, stderr} = await run([...SCRATCH, '--steps', '3', '--compare-steps', '2']);
    expect(code, stderr).to.equal(0);
    for (const part of [
      /fresh weights: 0\.\d+ M parameters/,
      /Packing +\d+ rows of 48 tokens, \d+\.\d % full/,
      /step 3\/3 +loss \d\.\d{3} +\d+ tokens\/s +0s left/,
      /step 1 to 3/,
      /Held-out loss +\d\.\d{3} before, \d\.\d{3} after/,
      /Tiles skipped +\d+\.\d %/,
      /Same losses +yes: .* over 2 steps/,
      /flashMaskAttention +\d+\.\d\d s +\d+\.\d MB/,
      /dense masked attention +\d+\.\d\d s +\d+\.\d MB/,
    ]) {
      expect(stdout).to.match(part);
    }
    expect(loadCheckpoint(join(folder, 'checkpoints')).losses).to.have.length(3);
  });

  it('leaves a checkpoint on Ctrl-C, from which --resume gives the losses of a run without', async () => {
    const args = [...SCRATCH, '--compare-steps', '0', '--batch', '2', '--steps', '6', '--seed', '3'];
    const whole = await run([...args, '--checkpoint-dir', join(folder, 'whole')]);
    expect(whole.code, whole.stderr).to.equal(0);

    const child = start(args);
    const stopped = await finish(child, interruptAt(child, 'step 1/6'));
    expect(stopped.code, stopped.stderr).to.equal(130);
    expect(stopped.stdout).to.match(/Stopping after this step[^]*Stopped after step \d of 6\. Go on with --resume/);
    const done = loadCheckpoint(join(folder, 'checkpoints')).losses.length;
    expect(done).to.be.within(1, 5);

    // The settings come from the checkpoint.
    const resumed = await run([
      ...SCRATCH.filter((arg) => !['--row-tokens', '48'].includes(arg)),
      '--compare-steps',
      '0',
      '--resume',
    ]);
    expect(resumed.code, resumed.stderr).to.equal(0);
    expect(resumed.stdout).to.include(`from step ${done + 1} on cpu`);
    const wanted = loadCheckpoint(join(folder, 'whole')).losses;
    expect(loadCheckpoint(join(folder, 'checkpoints')).losses).to.deep.equal(wanted);
    expect(readdirSync(join(folder, 'checkpoints'))).to.deep.equal(['checkpoint.safetensors']);

    await fails(/--resume: all 6 steps are done. Give a larger --steps/, [...SMALL, '--from-scratch', '--resume']);
  });

  it('trains from scratch where there is no pip, and says so', async () => {
    const {code, stdout, stderr} = await run([...SMALL, '--steps', '1', '--compare-steps', '0'], {PATH: folder});
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/there is no pip here.*\n.*from scratch on this repository's documentation instead/);
    expect(stdout).to.match(/Model +fresh weights/);
  });

  it('says that the network is missing, and what to do', async function () {
    if (findPip() === null) {
      console.log('      skipped: no pip');
      this.skip();
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
      if (process.platform === 'win32') {
        this.skip();
      }
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
      const garbage = standIn(`echo garbage > "$destination/${MODEL.file}"`);
      await fails(/glassllm-0\.1\.0.*arrived corrupt: sha256 [0-9a-f]{64}, wanted 1611801c/, SMALL, garbage);
      expect(readdirSync(downloads())).to.deep.equal([]);
    });

    it('notices a damaged file in the cache and downloads it again', async () => {
      mkdirSync(downloads(), {recursive: true});
      writeFileSync(join(downloads(), MODEL.file), 'half of it');
      const {stdout} = await fails(
        /pip failed:\nERROR: out of order/,
        SMALL,
        standIn('echo "ERROR: out of order" >&2; exit 1'),
      );
      expect(stdout).to.match(/glassllm-0\.1\.0.* is damaged; downloading it again/);
      expect(readdirSync(downloads())).to.deep.equal([]);
    });

    it('leaves no half file under the final name when it is interrupted', async () => {
      const slow = standIn(`echo half > "$TMPDIR/${MODEL.file}"; exec /bin/sleep 60`);
      const child = start(SMALL, slow);
      const finished = await finish(child, interruptAt(child, 'downloading glassllm'));
      expect(finished.code).to.not.equal(0);
      expect(existsSync(join(downloads(), MODEL.file))).to.equal(false);
    });
  });

  describe('errors', () => {
    it('of files that are absent, damaged or of another kind', async () => {
      const file = (name: string, content: string): string => {
        writeFileSync(join(folder, name), content);
        return join(folder, name);
      };
      const absent = join(folder, 'absent');
      const model = (path: string): string[] => [...SMALL, '--model', path];
      await fails(/--model: cannot read .*absent\.npz \(ENOENT\)/, model(`${absent}.npz`));
      await fails(/--model should be a \.npz, \.whl or \.safetensors file, got .*a\.bin/, model(file('a.bin', 'x')));
      file('a.tokenizer.json', '{"alphabet": ["a"], "merges": []}');
      await fails(/a\.npz holds no sound \.npz/, model(file('a.npz', 'PK and then nothing')));
      await fails(/a\.whl is no sound \.whl/, model(file('a.whl', 'no zip at all')));
      await fails(/a\.safetensors is no complete \.safetensors/, model(file('a.safetensors', 'short')));
    });

    it('of data files', async () => {
      // A checkpoint as the model: no download.
      const made = await run([...SCRATCH, '--steps', '1', '--compare-steps', '0']);
      expect(made.code, made.stderr).to.equal(0);
      const data = (path: string): string[] => [
        ...SMALL,
        '--model',
        join(folder, 'checkpoints', 'checkpoint.safetensors'),
        '--data',
        path,
      ];
      await fails(/--data: cannot read .*absent\.json \(ENOENT\)/, data(join(folder, 'absent.json')));
      const file = join(folder, 'bad.json');
      writeFileSync(file, '[{"text": "a"}]');
      await fails(/bad\.json should hold .*item 0 lacks instruction or output/, data(file));
      const short = join(folder, 'short.txt');
      writeFileSync(short, 'Attention.');
      await fails(/fill less than 2 rows of 48 tokens/, data(short));
      await fails(
        /--data should be a \.json, \.jsonl, \.txt or \.md file/,
        data(join(repository, 'examples', 'finetune.ts')),
      );
    });

    it('of options', async () => {
      const {stderr} = await fails(/argument 'no' is invalid. It should be a whole number, at least 1/, [
        '--steps',
        'no',
      ]);
      expect(stderr).to.include('--steps');
      await fails(/Allowed choices are webgpu, cpu/, ['--backend', 'cuda']);
      await fails(/--resume: there is no .*checkpoint\.safetensors/, [...SCRATCH, '--resume']);
      const help = spawnSync(process.execPath, ['--import=tsx', 'examples/finetune.ts', '--help'], {
        cwd: repository,
        encoding: 'utf8',
      });
      expect(help.status).to.equal(0);
      for (const option of [
        '--model',
        '--data',
        '--steps',
        '--row-tokens',
        '--lr',
        '--resume',
        '--compare-steps',
        'Examples:',
      ]) {
        expect(help.stdout).to.include(option);
      }
    });
  });
});
