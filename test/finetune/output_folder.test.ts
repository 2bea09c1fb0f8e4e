/**
 * @file The output folder of a run: one process at a time, nothing deleted or overwritten that is not of the run, and
 * errors before training starts.
 */
import {spawnSync} from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {hostname, tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import {EXIT_CODES, type StopReason, processIo} from '../../examples/finetune/io.js';
import {saveCheckpoint} from '../../examples/finetune/train/checkpoint.js';
import {MetricsLog} from '../../examples/finetune/train/metrics.js';
import {OutputFolder} from '../../examples/finetune/train/output_folder.js';
import {shapesOf, writeSafetensors} from '../../examples/finetune/weights/safetensors.js';
import {makeFolder} from '../../src/node_webgpu/make_folder.js';
import {rejection} from '../support/hostile_files.js';
import {skip} from '../support/skip.js';

let folder: string;
let said: string[];
const say = (text: string): void => void said.push(text);
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flashmask-output-'));
  said = [];
});
afterEach(() => rmSync(folder, {recursive: true, force: true}));

const path = (...names: string[]): string => join(folder, ...names);
const RUN = 'a'.repeat(32);
const SHA256 = 'b'.repeat(64);
const BASE_MODEL = {
  origin: 'a',
  fingerprint: {configuration: SHA256, weights: SHA256, tokenizer: SHA256, 'chat template': SHA256},
};
const history = (steps: number): {global_step: number; loss: number}[] =>
  Array.from({length: steps}, (_, i) => ({global_step: i + 1, loss: 1 / (i + 1)}));

/** Saves a checkpoint of a run with tiny tensors. */
function save(step: number, saveLimit?: number, run = RUN): Promise<string> {
  const tensors = new Map([['x', {shape: [2], data: Float32Array.of(step, step)}]]);
  const state = {
    ...{run, settings: {seed: 1}, baseModel: BASE_MODEL, reference: null},
    ...{position: {epoch: 0, row: step}, logHistory: history(step)},
  };
  const writeModel = async (into: string): Promise<void> => {
    writeFileSync(join(into, 'adapter_config.json'), '{}');
    await writeSafetensors(join(into, 'adapter_model.safetensors'), shapesOf(tensors), tensors);
  };
  return saveCheckpoint(
    folder,
    step,
    {state, writeModel, optimizer: {shapes: shapesOf(tensors), tensors}},
    saveLimit,
    say,
  );
}

/** A checkpoint of Hugging Face's trainer. */
function writeForeign(step: number): void {
  mkdirSync(path(`checkpoint-${step}`));
  writeFileSync(path(`checkpoint-${step}`, 'trainer_state.json'), '{"epoch": 1, "global_step": 3}');
  writeFileSync(path(`checkpoint-${step}`, 'model.safetensors'), 'weights');
}

describe('the output folder of a run', () => {
  const open = (): OutputFolder => OutputFolder.open(folder);

  describe('is locked', () => {
    const lockOf = (holder: object): void => writeFileSync(path('.lock'), JSON.stringify(holder));
    const namespace = process.platform === 'linux' ? readlinkSync('/proc/self/ns/pid') : '';
    const here = {host: hostname(), namespace, pid: process.pid, started: '', id: 'x'};
    const refused = (): string => {
      try {
        open().close();
      } catch (error) {
        return (error as Error).message;
      }
      return '';
    };

    it('against a second run, which names the first; one that was made for nothing is removed', () => {
      rmSync(folder, {recursive: true});
      const output = open();
      const message = `in use by process ${process.pid} on ${hostname()}. Wait for its end, or give another folder.`;
      expect(refused()).to.include(`--output: ${folder} is ${message}`);
      output.checkHeld();
      output.close();
      expect(existsSync(folder)).to.equal(false);
    });

    it('until the process has ended, also if its number was given to another one', () => {
      lockOf(here);
      expect(refused()).to.include('in use');
      lockOf({...here, pid: 999_999_999});
      expect(refused()).to.equal('');
      lockOf({...here, started: '1'});
      if (process.platform === 'linux') expect(refused()).to.equal('');
    });

    it('by another machine or container until that is silent for ten minutes', () => {
      for (const other of [{host: 'another'}, {namespace: 'pid:[1]', pid: 999_999_999}]) {
        lockOf({...here, ...other});
        expect(refused()).to.match(/in use by process \d+ on/);
        utimesSync(path('.lock'), new Date(0), new Date(Date.now() - 11 * 60_000));
        expect(refused()).to.equal('');
      }
      writeFileSync(path('.lock'), '');
      expect(refused(), 'half-written').to.include('in use by another process');
    });

    it('by a process that notices when the lock was taken from it', () => {
      const output = open();
      lockOf({...here, pid: 12});
      expect(() => output.checkHeld()).to.throw(`was taken by process 12 on ${hostname()} meanwhile`);
      output.close();
      expect(existsSync(path('.lock')), 'the lock of the other').to.equal(true);
    });

    it('never by a folder, which is an error', () => {
      mkdirSync(path('.lock'));
      expect(refused()).to.include(
        `${path('.lock')} must be the lock file of another process, got a folder. Delete it`,
      );
    });
  });

  it('names what keeps it from being made', () => {
    writeFileSync(path('file'), '');
    expect(() => OutputFolder.open(path('file', 'x', 'y'))).to.throw(/--output: .* must be a folder .*ENOTDIR/);
  });

  it('says that a file system is read-only, where Node says that there is no such folder', function () {
    const program = `
      import {makeFolder} from ${JSON.stringify(new URL('../../src/node_webgpu/make_folder.ts', import.meta.url).href)};
      try { makeFolder(process.argv[1] + '/a/b/c'); } catch (error) { console.log(error.code); }`;
    const args = ['-c', 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"', folder];
    const run = [process.execPath, '--import=tsx', '--input-type=module', '-e', program, folder];
    const {status, stdout, stderr} = spawnSync('unshare', ['-rm', 'bash', ...args, ...run], {encoding: 'utf8'});
    if (status !== 0) skip(this, stderr.trim() || 'no unshare');
    expect(stdout.trim()).to.equal('EROFS');
  });

  it('is made with its parents, also when others make them', () => {
    makeFolder(path('a', 'b'));
    makeFolder(path('a', 'b'));
    expect(readdirSync(path('a'))).to.deep.equal(['b']);
  });

  /** Opens the folder for `work` alone. */
  async function opened<T>(work: (output: OutputFolder) => Promise<T> | T): Promise<T> {
    const output = open();
    try {
      return await work(output);
    } finally {
      output.close();
    }
  }
  const start = (): Promise<string> => opened((output) => output.startRun(say));
  const resume = (): Promise<number> => opened(async (output) => (await output.resumeRun(say)).step);

  it('of a new run must hold no checkpoint, of whatever program and however damaged', async () => {
    expect(await start()).to.match(/^[0-9a-f]{32}$/);
    await save(2);
    expect(await rejection(start())).to.include('checkpoint-2 is there already. Go on with --resume, or');
    truncateSync(path('checkpoint-2', 'trainer_state.json'), 20);
    expect(await rejection(start())).to.include('checkpoint-2 is there already, and nothing to go on from. Move it');
    rmSync(path('checkpoint-2'), {recursive: true});
    writeForeign(5);
    expect(await rejection(start())).to.include('checkpoint-5 is there already');
    expect(readdirSync(path('checkpoint-5'))).to.have.length(2);
  });

  it('of a new run keeps earlier metrics and charts under other names', async () => {
    const files = ['metrics.jsonl', 'metrics.1.jsonl', 'loss.svg'];
    files.forEach((name) => writeFileSync(path(name), name));
    await opened((output) => output.setAside([], say));
    expect(readdirSync(folder).sort()).to.deep.equal(['loss.1.svg', 'metrics.1.jsonl', 'metrics.2.jsonl']);
    expect(readFileSync(path('metrics.2.jsonl'), 'utf8')).to.equal('metrics.jsonl');
    expect(said[0]).to.include(`Kept     ${path('metrics.jsonl')} of an earlier run as ${path('metrics.2.jsonl')}`);
  });

  it('of a resumed run keeps metrics that are not its own, and goes on with those that are', async () => {
    const log = new MetricsLog(path('metrics.jsonl'));
    history(4).forEach((record) => log.append(record));
    for (const steps of [2, 4, 6]) await opened((output) => output.setAside(history(steps), say));
    expect(said).to.deep.equal([]);
    const other = history(2).map((record) => ({...record, loss: 9}));
    await opened((output) => output.setAside(other, say));
    expect(readdirSync(folder)).to.deep.equal(['metrics.1.jsonl']);
  });

  it('of a resumed run may hold what is not its own, unless that would be in the way', async () => {
    expect(await rejection(resume())).to.include(`--resume: there is no checkpoint in ${folder}`);
    writeForeign(3);
    await save(4);
    await save(6);
    expect(await resume()).to.equal(6);
    expect(said.at(-1)).to.match(/^Kept {5}.*checkpoint-3: .*should be of the format .*another program's\?\.$/);
    truncateSync(path('checkpoint-6', 'optimizer.safetensors'), 10);
    expect(await resume()).to.equal(4);
    writeFileSync(path('checkpoint-6', 'notes.txt'), 'mine');
    expect(await rejection(resume())).to.include('checkpoint-6 would be in the way: it also holds notes.txt. Move it');
  });

  it('loses old checkpoints of its own run alone, and says what it keeps', async () => {
    await save(1, 2, 'c'.repeat(32));
    writeForeign(2);
    await save(3, 2);
    await save(4, 2);
    writeFileSync(path('checkpoint-4', 'notes.txt'), 'mine');
    await save(5, 2);
    await save(6, 2);
    await save(7, 2);
    const kept = [1, 2, 3, 4, 6, 7].map((step) => `checkpoint-${step}`);
    expect(readdirSync(folder).sort()).to.deep.equal(kept.filter((name) => name !== 'checkpoint-3'));
    expect(said[0]).to.equal(`Kept ${path('checkpoint-4')}: it also holds notes.txt.`);
    expect(await rejection(save(4))).to.include(`${path('checkpoint-4')} is in the way and stays: it also holds`);
    expect(readdirSync(path('checkpoint-4'))).to.include('notes.txt');
  });

  it('keeps a folder with the name of an unfinished checkpoint that holds anything else', async () => {
    const name = (digit: string, kind: string): string => path(`.checkpoint-1.${digit.repeat(16)}.${kind}`);
    for (const each of [name('1', 'new'), name('2', 'new'), name('3', 'old'), path('.checkpoint-1.new')])
      mkdirSync(each);
    writeFileSync(join(name('2', 'new'), 'thesis.txt'), 'mine');
    writeFileSync(join(name('3', 'old'), 'optimizer.safetensors'), 'whose?');
    await save(2);
    expect(readdirSync(folder).sort()).to.deep.equal([
      ...['.checkpoint-1.2222222222222222.new', '.checkpoint-1.3333333333333333.old', '.checkpoint-1.new'],
      'checkpoint-2',
    ]);
  });

  it('of the small job is cleared of its runs alone', async () => {
    await save(2);
    const log = new MetricsLog(path('metrics.jsonl'));
    history(2).forEach((record) => log.append(record));
    writeFileSync(path('loss.svg'), '');
    writeForeign(9);
    await opened((output) => output.discardRuns());
    expect(readdirSync(folder)).to.deep.equal(['checkpoint-9']);
  });

  it('has no whole checkpoint without the files of a model', async () => {
    await save(2);
    const nothing = {state: stateWithout(), writeModel: () => Promise.resolve(), optimizer: EMPTY};
    expect(await rejection(saveCheckpoint(folder, 3, nothing))).to.match(/files is no part .*should name optimizer/);
    expect(await resume()).to.equal(2);
  });
});

const EMPTY = {shapes: new Map<string, number[]>(), tensors: []};
const stateWithout = () => ({
  ...{run: RUN, settings: {}, baseModel: BASE_MODEL, reference: null},
  ...{position: {epoch: 0, row: 3}, logHistory: history(3)},
});

describe('wishes to stop a process', () => {
  it('come by signal, once however often it is repeated at once', () => {
    const reasons: StopReason[] = [];
    const listeners = (): number => process.listenerCount('SIGHUP') + process.listenerCount('SIGTERM');
    const before = listeners();
    const end = processIo.onStop((reason) => reasons.push(reason));
    process.emit('SIGHUP');
    process.emit('SIGTERM');
    process.emit('SIGHUP');
    end();
    expect(reasons).to.deep.equal(['SIGHUP']);
    expect(listeners()).to.equal(before);
    expect(EXIT_CODES).to.deep.equal({SIGINT: 130, SIGTERM: 143, SIGHUP: 129, 'closed output': 141});
  });
});
