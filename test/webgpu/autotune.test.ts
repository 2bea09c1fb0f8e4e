/**
 * @file Autotune: which tiles it tries and chooses, where it stores the choice, and that a damaged cache never breaks a
 * call.
 */
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {trialSize} from '../../src/backends/webgpu/autotune/autotune.js';
import {loadMatrixCode} from '../../src/backends/webgpu/device/matrix_code.js';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {type AutotuneOptions, type AutotuneProgress, autotune, clearAutotuneCache} from '../../src/entries/webgpu.js';
import {tuningFile} from '../../src/node_webgpu/tuning_file.js';
import {
  type DeviceCapabilities,
  type Pass,
  type Variant,
  candidates,
  vectorPlan,
} from '../../src/backends/webgpu/plan/vector_plan.js';
import {MAP_BLOCK} from '../../src/call/constants.js';
import {matrixPlan} from '../../src/backends/webgpu/plan/matrix_plan.js';
import {
  type Tiles,
  isMatrixTile,
  tilesThatFit,
  tilesToTry,
  tunedTiles,
  tuningKey,
} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {
  type TuningStorage,
  setTuningStorage,
  storeTunedTiles,
  tunedTilesOf,
} from '../../src/backends/webgpu/device/tuned_tiles_store.js';
import {VERSION} from '../../src/call/version.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {planOn} from '../../src/backends/webgpu/plan/choose_plan.js';
import {capabilitiesOf} from '../../src/backends/webgpu/device/capabilities.js';
import {HEAD_SIZE} from '../support/cases.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {temporaryFolder} from '../support/packed_project.js';
import {recordDispatches} from './recorded_dispatches.js';

loadMatrixCode();

const variant: Variant = {
  D: 64,
  Dv: 64,
  causal: true,
  intervals: false,
  dropout: false,
  halvesPerNumber: 0,
  fewQueries: false,
};
const limits = {maxComputeWorkgroupStorageSize: 32768, maxComputeInvocationsPerWorkgroup: 256};
const traits: DeviceCapabilities = {limits, float16: false, matrix: null};
/** A device with subgroup matrices, such as an NVIDIA GPU. */
const withMatrices: DeviceCapabilities = {
  limits: {maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024},
  float16: true,
  matrix: {M: 16, N: 16, K: 16, lanes: 32},
};
const passes: Pass[] = ['forward', 'dq', 'dkdv'];

/** A device with the properties that the cache reads. */
const fakeDevice = (description: string, bytes = 32768): GPUDevice =>
  ({
    adapterInfo: {vendor: 'v', architecture: 'a', device: '', description},
    limits: {...limits, maxComputeWorkgroupStorageSize: bytes},
  }) as unknown as GPUDevice;

/** Stores its text in a field. */
class MemoryStorage implements TuningStorage {
  constructor(public text: string | null = null) {}
  read = () => this.text;
  write = (text: string) => void (this.text = text);
  clear = () => void (this.text = null);
}

/** The warnings that `body` prints. */
function warningsOf(body: () => void): string[] {
  const warnings: string[] = [];
  const original = console.warn;
  console.warn = (line: string) => void warnings.push(line);
  try {
    body();
  } finally {
    console.warn = original;
  }
  return warnings;
}

const tiles = {rows: 32, cols: 32, threadsX: 8, threadsY: 8};

describe('the trial', () => {
  it('is small on adapters that compute on the CPU', () => {
    const small = {length: 256, heads: 1};
    const infos = [
      {architecture: 'swiftshader'},
      {description: 'llvmpipe (LLVM 15)'},
      {isFallbackAdapter: true, architecture: 'unknown'},
    ];
    for (const info of infos) expect(trialSize(info)).to.deep.equal(small);
    const gpu = {architecture: 'ampere', description: 'NVIDIA', isFallbackAdapter: false};
    for (const info of [gpu, undefined]) expect(trialSize(info)).to.deep.equal({length: 4096, heads: 8});
  });
});

describe('tiles that are tried', () => {
  it('are those of the plan first, each once, with whole blocks of the bounds map', () => {
    for (const pass of passes) {
      const tried = tilesToTry(pass, variant);
      const chosen = candidates(pass, variant);
      expect(tried.slice(0, chosen.length)).to.deep.equal(chosen);
      expect(tried.length).to.be.above(5);
      expect(new Set(tried.map((shape) => JSON.stringify(shape))).size).to.equal(tried.length);
      for (const {rows, cols, threadsX, threadsY} of tried) {
        expect((pass === 'dkdv' ? rows : cols) % MAP_BLOCK).to.equal(0);
        expect([(rows / threadsY) % 4, (cols / threadsX) % 4]).to.deep.equal([0, 0]);
      }
      for (const shape of tilesThatFit(traits, pass, variant)) {
        if (isMatrixTile(shape)) throw new Error('a device without matrices');
        expect(vectorPlan(pass, variant, limits, [shape])).to.include(shape);
      }
    }
  });

  it("are those on subgroup matrices where these compute, the plan's own first", () => {
    for (const pass of passes) {
      for (const halvesPerNumber of [1, 2] as const) {
        const kind = {...variant, halvesPerNumber};
        const fitting = tilesThatFit(withMatrices, pass, kind);
        expect(fitting.length).to.be.above(3);
        expect(new Set(fitting.map((one) => JSON.stringify(one))).size).to.equal(fitting.length);
        for (const shape of fitting) {
          if (!isMatrixTile(shape)) throw new Error('a device with matrices');
          expect(matrixPlan(pass, kind, withMatrices, [shape])).to.include(shape);
        }
        expect(matrixPlan(pass, kind, withMatrices)).to.include(fitting[0]);
        const tuned = new Map([[tuningKey(pass, kind), fitting[2]]]);
        expect(planOn({...withMatrices, tuned}, pass, kind)).to.include(fitting[2]);
      }
      expect(tilesThatFit(withMatrices, pass, variant).some(isMatrixTile)).to.equal(false);
    }
  });

  it('are taken by a plan if they were measured, are candidates and fit', () => {
    const taken = (chosen: unknown, by: Variant = variant) =>
      tunedTiles({...traits, tuned: new Map([[tuningKey('forward', variant), chosen]])}, 'forward', by);
    expect(taken(tiles)).to.deep.equal(tiles);
    expect(taken({threadsY: 8, threadsX: 8, cols: 32, rows: 32})).to.deep.equal(tiles);
    for (const other of [
      {...variant, D: 32},
      {...variant, causal: false},
      {...variant, halvesPerNumber: 1 as const},
    ]) {
      expect(taken(tiles, other)).to.equal(undefined);
    }
    const tooLarge = {rows: 128, cols: 64, threadsX: 8, threadsY: 32};
    expect(tilesToTry('forward', variant)).to.deep.include(tooLarge);
    for (const wrong of [tooLarge, {...tiles, rows: 33}, {...tiles, more: 1}, {}, [], 'text', 7, null]) {
      expect(taken(wrong), JSON.stringify(wrong)).to.equal(undefined);
    }
    expect(tunedTiles(traits, 'forward', variant)).to.equal(undefined);
  });
});

describe('cache of measured tiles', () => {
  afterEach(() => {
    setTuningStorage(undefined);
    clearAutotuneCache();
  });

  it('comes back in the next run, for the same device alone', () => {
    const storage = new MemoryStorage();
    setTuningStorage(storage);
    for (const [i, device] of [fakeDevice('one'), fakeDevice('two'), fakeDevice('one', 16384)].entries()) {
      tunedTilesOf(device).set('forward', {...tiles, rows: i});
      storeTunedTiles(device);
    }
    // Only the text remains, as in a new process.
    setTuningStorage(undefined);
    expect(tunedTilesOf(fakeDevice('one')).size).to.equal(0);
    setTuningStorage(new MemoryStorage(storage.text));
    expect(tunedTilesOf(fakeDevice('one')).get('forward')).to.deep.equal({...tiles, rows: 0});
    expect(tunedTilesOf(fakeDevice('two')).get('forward')).to.deep.equal({...tiles, rows: 1});
    expect(tunedTilesOf(fakeDevice('one', 16384)).get('forward')).to.deep.equal({...tiles, rows: 2});
    expect(tunedTilesOf(fakeDevice('three')).size).to.equal(0);
    setTuningStorage(new MemoryStorage(storage.text!.replaceAll(VERSION, '0.0.9')));
    expect(tunedTilesOf(fakeDevice('one')).size).to.equal(0);
  });

  it('is cleared, in memory and in the storage', () => {
    const storage = new MemoryStorage();
    setTuningStorage(storage);
    const device = fakeDevice('one');
    tunedTilesOf(device).set('forward', tiles);
    storeTunedTiles(device);
    clearAutotuneCache();
    expect(storage.text).to.equal(null);
    expect(tunedTilesOf(device).size).to.equal(0);
  });

  it('counts as empty where its text is damaged, with one warning, and is written anew', () => {
    const warnings = warningsOf(() => {
      for (const text of ['{"half', '[1]', '7', 'null']) {
        setTuningStorage(new MemoryStorage(text));
        expect(tunedTilesOf(fakeDevice(text)).size).to.equal(0);
      }
      for (const inside of ['7', '[1]', 'null', '"text"']) {
        const storage = new MemoryStorage();
        setTuningStorage(storage);
        storeTunedTiles(fakeDevice('one'));
        setTuningStorage(new MemoryStorage(storage.text!.replace('{}', inside)));
        expect(tunedTilesOf(fakeDevice('one')).size).to.equal(0);
      }
    });
    expect(warnings).to.have.length(1);
    expect(warnings[0]).to.match(/autotune cache cannot be read and counts as empty: .*clearAutotuneCache\(\)/);
    const storage = new MemoryStorage('{"half');
    setTuningStorage(storage);
    const device = fakeDevice('one');
    tunedTilesOf(device).set('forward', tiles);
    storeTunedTiles(device);
    expect(Object.values(JSON.parse(storage.text!) as object)).to.deep.equal([{forward: tiles}]);
  });

  it('keeps choices in memory where the storage fails', () => {
    const refuse = (): never => {
      throw new Error('no room');
    };
    setTuningStorage({read: refuse, write: refuse, clear: refuse});
    const device = fakeDevice('full disk');
    tunedTilesOf(device).set('forward', tiles);
    storeTunedTiles(device);
    expect(tunedTilesOf(device).get('forward')).to.deep.equal(tiles);
    clearAutotuneCache();
    expect(tunedTilesOf(device).size).to.equal(0);
  });

  it('is a file of the cache folder in Node', () => {
    const before = process.env.XDG_CACHE_HOME;
    const folder = temporaryFolder();
    try {
      process.env.XDG_CACHE_HOME = folder;
      const file = tuningFile();
      expect(file.read()).to.equal(null);
      file.clear();
      file.write('{"a": 1}');
      file.write('{"a": 2}');
      expect(readdirSync(join(folder, 'tfjs-flashmask'))).to.deep.equal(['autotune.json']);
      expect(file.read()).to.equal('{"a": 2}');
      file.clear();
      expect(file.read()).to.equal(null);
      writeFileSync(join(folder, 'a-file'), '');
      process.env.XDG_CACHE_HOME = join(folder, 'a-file');
      expect(() => file.write('{}')).to.throw(/ENOTDIR|EEXIST/);
      mkdirSync(join(folder, 'a-folder', 'tfjs-flashmask', 'autotune.json'), {recursive: true});
      process.env.XDG_CACHE_HOME = join(folder, 'a-folder');
      expect(() => file.read()).to.throw(/EISDIR/);
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME;
      else process.env.XDG_CACHE_HOME = before;
    }
  });

  it('knows the version of the package', () => {
    const {version} = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string;
    };
    expect(VERSION).to.equal(version);
  });
});

const webgpu = devices.find(({name}) => name === 'webgpu')!;

/** Runs a call and its gradient; returns the keys of the shaders, and the results. */
async function attend(): Promise<{keys: string[]; results: Float32Array[]}> {
  const {device} = tf.backend() as unknown as WebGPUBackend;
  const x = [1, 2, 3].map((seed) => tf.randomNormal([1, 70, 2, HEAD_SIZE], 0, 1, 'float32', seed) as tf.Tensor4D);
  const call = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor4D =>
    flashMaskAttention(q, k, v, masks.causalDocument([30, 40]));
  const {keys, result: tensors} = recordDispatches(device, () => [call(x[0], x[1], x[2]), ...tf.grads(call)(x)]);
  const results = (await Promise.all(tensors.map((t) => t.data()))) as Float32Array[];
  tf.dispose([x, tensors]);
  return {keys, results};
}

/** Fewer tiles fit a device of 64 threads: a software adapter compiles each of them for seconds. */
function shrink(capabilities: DeviceCapabilities): () => void {
  const {limits: own} = capabilities;
  capabilities.limits = {
    maxComputeWorkgroupStorageSize: own.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: 64,
  };
  return () => void (capabilities.limits = own);
}

(webgpu.skip ? describe.skip : describe)(`autotune${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  const storage = new MemoryStorage();
  const options: AutotuneOptions = {D: HEAD_SIZE, length: 70, heads: 1};
  const textOf = (tiles: Tiles): string => {
    if (isMatrixTile(tiles)) throw new Error('autotune in float32 takes tiles on vectors');
    return `rows=${tiles.rows} cols=${tiles.cols} threadsX=${tiles.threadsX} threadsY=${tiles.threadsY}`;
  };
  /** The tiles in the label of a pass. */
  const used = (keys: string[], pass: Pass): string =>
    /rows=\d+ cols=\d+ threadsX=\d+ threadsY=\d+/.exec(keys.find((l) => l.startsWith(`${pass} `))!)![0];

  let restoreLimits = (): void => {};
  before(async () => {
    await webgpu.setup();
    setTuningStorage(storage);
    if (!full) restoreLimits = shrink(capabilitiesOf((tf.backend() as unknown as WebGPUBackend).device));
  });
  after(() => {
    restoreLimits();
    clearAutotuneCache();
    setTuningStorage(undefined);
  });

  it('times every tile that fits, and its choice is what the next call takes', async () => {
    const {numTensors} = tf.memory();
    const found = await autotune(options);
    // The bounds of the trial's mask stay cached.
    expect(tf.memory().numTensors - numTensors).to.be.at.most(1);
    const real = capabilitiesOf((tf.backend() as unknown as WebGPUBackend).device);
    expect(found.map(({pass}) => pass)).to.deep.equal(passes);
    const {keys} = await attend();
    for (const {pass, tiles: best, tried} of found) {
      const fitting = tilesThatFit(real, pass, {...variant, D: HEAD_SIZE, Dv: HEAD_SIZE, intervals: true});
      expect(tried.map((one) => one.tiles)).to.have.deep.members(fitting);
      expect(tried[0].tiles).to.deep.equal(best);
      const times = tried.map(({milliseconds}) => milliseconds);
      expect(times).to.deep.equal([...times].sort((a, b) => a - b));
      expect(times[0]).to.be.above(0);
      expect(used(keys, pass)).to.equal(textOf(best));
    }
    expect(Object.values(JSON.parse(storage.text!) as object)).to.have.length(1);
  });

  it('returns what it remembers, without a measurement, until it is forced to measure again', async () => {
    const seen: AutotuneProgress[] = [];
    const more = {...options, onProgress: (progress: AutotuneProgress) => void seen.push(progress)};
    const {device} = tf.backend() as unknown as WebGPUBackend;
    const first = await autotune(more);
    expect(seen).to.deep.equal([]);
    expect(first.map(({pass, tried, untried}) => [pass, tried.length, untried])).to.deep.equal(
      passes.map((pass) => [pass, 0, 0]),
    );
    const kind = {...variant, D: HEAD_SIZE, Dv: HEAD_SIZE, intervals: true};
    for (const {pass, tiles: best} of first)
      expect(best).to.deep.equal(tunedTilesOf(device).get(tuningKey(pass, kind)));

    const forced = await autotune({...more, force: true, budgetMs: 1e-3});
    const fitting = passes.map((pass) => tilesThatFit(capabilitiesOf(device), pass, kind));
    const total = fitting.flat().length;
    // Without time each pass tries the plan's own tiles, and no others.
    expect(forced.map(({tried, untried}) => [tried.map((one) => one.tiles), untried])).to.deep.equal(
      fitting.map((all) => [[all[0]], all.length - 1]),
    );
    const starts = [0, fitting[0].length, fitting[0].length + fitting[1].length];
    expect(seen).to.deep.equal(passes.map((pass, i) => ({pass, ...forced[i].tried[0], done: starts[i] + 1, total})));
    expect((await autotune(options)).map(({tiles: best}) => best)).to.deep.equal(fitting.map(([own]) => own));
  });

  it('leaves results as they are, whatever tiles were stored', async () => {
    clearAutotuneCache();
    const untuned = await attend();
    const {device} = tf.backend() as unknown as WebGPUBackend;
    const kind = {...variant, D: HEAD_SIZE, Dv: HEAD_SIZE, intervals: true};
    const choices = passes.map((pass) => tilesThatFit(capabilitiesOf(device), pass, kind));
    for (let i = 0; i < Math.max(...choices.map(({length}) => length)); i++) {
      const chosen = choices.map((fitting) => fitting[i % fitting.length]);
      passes.forEach((pass, p) => tunedTilesOf(device).set(tuningKey(pass, kind), chosen[p]));
      const {keys, results} = await attend();
      passes.forEach((pass, p) => expect(used(keys, pass)).to.equal(textOf(chosen[p])));
      results.forEach((values, r) =>
        values.forEach((value, at) => expect(value).to.be.closeTo(untuned.results[r][at], 1e-5)),
      );
    }
    clearAutotuneCache();
    expect((await attend()).keys).to.deep.equal(untuned.keys);
  });

  it('refuses what no call could have, and leaves no tensors', async () => {
    const errorOf = async (wrong: object): Promise<string> => {
      const {numTensors} = tf.memory();
      const message = await autotune({...options, ...wrong}).then(String, (error: unknown) => (error as Error).message);
      expect(tf.memory().numTensors).to.be.at.most(numTensors + 1);
      return message;
    };
    expect(await errorOf({D: 0})).to.match(/autotune: D must be a positive integer, got 0\. Pass/);
    expect(await errorOf({D: 300})).to.match(/flashMaskAttention: D .*256/);
    expect(await errorOf({length: 'long'})).to.match(/length must be a positive integer, got 'long'/);
    expect(await errorOf({force: 1})).to.match(/force must be true or false, got 1/);
    expect(await errorOf({budgetMs: 0})).to.match(/budgetMs must be a positive number, got 0\. Pass/);
    expect(await errorOf({onProgress: true})).to.match(/onProgress must be a function, got true\. Pass/);
    expect(await errorOf({causal: 1})).to.match(/causal must be true or false, got 1/);
    expect(await errorOf({caussal: true})).to.match(/options must be among D, .*got 'caussal'/);
    expect(await errorOf({precision: 'float16'})).to.match(/'float16' needs a WebGPU device with .* shader-f16/);
    await tf.setBackend('cpu');
    expect(await errorOf({})).to.match(/autotune: the current backend must be WebGPU, got 'cpu'/);
    await tf.setBackend('webgpu');
  });
});
