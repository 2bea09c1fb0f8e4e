/** @file tfjs's own switches on our passes: printing shaders, compiling ahead, timing; and `prepareAttention`. */
import * as tf from '@tensorflow/tfjs-core';
import {expect} from 'chai';
import {type PrepareOptions, flashMaskAttention, masks, prepareAttention} from '../../src/entries/webgpu.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {recordDispatches} from './recorded_dispatches.js';

const webgpu = devices.find(({name}) => name === 'webgpu')!;
const backendNow = (): WebGPUBackend => tf.engine().backend as unknown as WebGPUBackend;

/** Head sizes that no other test of this file has compiled. */
let nextD = 20;

const noise = (shape: [number, number, number, number]): tf.Tensor4D => tf.randomNormal(shape, 0, 1, 'float32', 1);

/** Keys of the pipelines that `run` compiles: those that it waits for, and those that it compiles ahead. */
async function compiledBy(run: () => unknown): Promise<{now: string[]; ahead: string[]}> {
  const {device} = backendNow();
  const found = {now: [] as string[], ahead: [] as string[]};
  const original = device.createComputePipeline.bind(device);
  const originalAsync = device.createComputePipelineAsync.bind(device);
  device.createComputePipeline = (descriptor) => {
    found.now.push(descriptor.label!);
    return original(descriptor);
  };
  device.createComputePipelineAsync = (descriptor) => {
    found.ahead.push(descriptor.label!);
    return originalAsync(descriptor);
  };
  try {
    await run();
  } finally {
    device.createComputePipeline = original;
    device.createComputePipelineAsync = originalAsync;
  }
  return found;
}

/** What `run` prints with console.debug, by console.group. */
function printedBy(run: () => void): {group: string; text: string}[] {
  const printed: {group: string; text: string}[] = [];
  const {group, debug} = console;
  let current = '';
  console.group = (name: string) => void (current = name);
  console.debug = (text: string) => void printed.push({group: current, text});
  try {
    run();
  } finally {
    Object.assign(console, {group, debug});
  }
  return printed;
}

/** Gradients of a call with packed documents, as numbers. */
async function train(D: number, mask: Parameters<typeof flashMaskAttention>[3], options = {}): Promise<number[]> {
  const length = 70;
  const x = noise([1, length, 2, D]);
  const gradient = tf.tidy(() => tf.grad((q) => flashMaskAttention(q as tf.Tensor4D, x, x, mask, options))(x));
  const values = [...(await gradient.data())];
  tf.dispose([x, gradient]);
  return values;
}

const documents = (): ReturnType<typeof masks.causalDocument> => masks.causalDocument([40, 30]);

(webgpu.skip ? describe.skip : describe)(`tfjs's switches on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());
  afterEach(() => {
    tf.env().set('WEBGPU_PRINT_SHADER', '');
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', false);
  });

  it('WEBGPU_PRINT_SHADER prints the shaders that it names as they are compiled, once', () => {
    const D = nextD++;
    const attend = (): void => {
      const x = noise([1, 20, 1, D]);
      tf.dispose([x, flashMaskAttention(x, x, x, null, {causal: true})]);
    };
    tf.env().set('WEBGPU_PRINT_SHADER', `nothing,FORWARD PASS=FORWARD D=${D} `);
    const printed = printedBy(attend);
    expect(printed.length).to.equal(1);
    expect(printed[0].group).to.match(new RegExp(`^forward pass=forward D=${D} Dv=${D} causal `));
    expect(printed[0].text)
      .to.match(/^struct Sizes \{\n {2}B: u32,/)
      .and.to.match(/\n@compute @workgroup_size\(\d+\)\n/);
    expect(printedBy(attend)).to.deep.equal([]);
  });

  it('WEBGPU_ENGINE_COMPILE_ONLY compiles ahead and computes nothing', async () => {
    const D = nextD++;
    const mask = documents();
    const backend = backendNow();
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', true);
    const x = noise([1, 70, 2, D]);
    const call = (): void => tf.dispose(tf.grad((q) => flashMaskAttention(q as tf.Tensor4D, x, x, mask))(x));
    let dispatched: string[] = [];
    const compiled = await compiledBy(() => (dispatched = recordDispatches(backend.device, call).keys));
    expect(dispatched).to.deep.equal([]);
    expect(compiled.now).to.deep.equal([]);
    expect(compiled.ahead.filter((key) => key.startsWith('forward')).length).to.equal(1);
    expect((await compiledBy(call)).ahead).to.deep.equal([]);
    await backend.checkCompileCompletionAsync();
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', false);
    // The calls that computed nothing left an empty mask buffer, which later calls must not reuse.
    let values: number[] = [];
    const later = await compiledBy(async () => {
      values = await train(D, mask);
    });
    expect(later.now.filter((key) => !/^[A-Z]/.test(key))).to.deep.equal([]);
    x.dispose();
    expect(values).to.deep.equal(await train(D, documents()));
    expect(values.some((value) => value !== 0)).to.equal(true);
  });

  it('tf.time() and tf.profile() count our passes', async () => {
    const backend = backendNow();
    const x = noise([1, 70, 2, 8]);
    const call = (mask = documents()): tf.Tensor => flashMaskAttention(x, x, x, mask);
    const expected = [...(await call().data())];
    // What a call needs exists after it has run a few times, but not the buffers that tfjs makes to time it.
    const warm = documents();
    for (let i = 0; i < 5; i++) tf.dispose(call(warm));
    let out: tf.Tensor | undefined;
    const {kernelMs} = (await tf.time(() => void (out = call(warm)))) as tf.TimingInfo & {kernelMs: number};
    expect([...(await out!.data())]).to.deep.equal(expected);
    if (backend.supportTimestampQuery) expect(kernelMs).to.be.above(0);
    else expect(kernelMs).to.equal(0);
    const {kernels} = await tf.profile(() => call());
    const [kernel] = kernels.filter(({name}) => name === 'FlashMaskAttention');
    expect(await kernel.extraInfo).to.match(/bounds_map: .*schedule_ranges: .*schedule_order: .*forward: /);
    x.dispose();
  });

  it('prepareAttention compiles all that calls of its kind need, and nothing that they do not', async () => {
    const {numTensors} = tf.memory();
    const kinds: [Omit<PrepareOptions, 'D'>, (D: number) => Promise<unknown>][] = [
      [{}, (D) => train(D, documents())],
      [{queryLength: 1, gradient: false, vectors: 0}, decode],
    ];
    if (full) {
      kinds.push([{causal: false}, (D) => train(D, masks.document([40, 30]))]);
      kinds.push([{vectors: 0, dropout: true}, (D) => train(D, null, {causal: true, dropout: 0.5, seed: 3})]);
    }
    for (const [kind, call] of kinds) {
      const D = nextD++;
      const prepared = await compiledBy(() => prepareAttention({D, ...kind}));
      expect(prepared.now).to.deep.equal([]);
      const running = await compiledBy(() => call(D));
      expect(running.now.filter((key) => !/^[A-Z]/.test(key))).to.deep.equal([]);
      expect((await compiledBy(() => prepareAttention({D, ...kind}))).ahead).to.deep.equal([]);
    }
    expect(tf.memory().numTensors).to.be.at.most(numTensors + 4);
  });

  it('prepareAttention refuses what no call could have', async () => {
    const errorOf = (options: unknown): Promise<string> =>
      prepareAttention(options as PrepareOptions).then(
        () => 'no error',
        (error: unknown) => (error as Error).message,
      );
    expect(await errorOf({})).to.match(/prepareAttention: D must be a positive integer, got undefined\. Pass/);
    expect(await errorOf({D: 8, length: 3})).to.match(/options must be among D, Dv, .*gradient, got 'length'/);
    expect(await errorOf({D: 8, vectors: 4})).to.match(/a mask with causal: true has 0, 1, 2 bounds a column, got 4/);
    expect(await errorOf({D: 8, vectors: 2})).to.match(/with two vectors causal must be given, got none\. Pass/);
    expect(await errorOf({D: 8, queryLength: 0})).to.match(/queryLength must be a positive integer, got 0/);
    expect(await errorOf({D: 8, precision: 'float16'})).to.match(/'float16' needs a WebGPU device with .* shader-f16/);
    expect(tf.env().getBool('WEBGPU_ENGINE_COMPILE_ONLY')).to.equal(false);
    const {device} = backendNow();
    const original = device.createComputePipelineAsync.bind(device);
    device.createComputePipelineAsync = () => Promise.reject(new Error('no such feature'));
    const D = nextD++;
    expect(await errorOf({D})).to.match(/no such feature/);
    device.createComputePipelineAsync = original;
    await prepareAttention({D});
  });
});

/** Runs one query with so many keys that they are split. */
async function decode(D: number): Promise<void> {
  const [q, k] = [noise([1, 1, 2, D]), noise([1, 300, 2, D])];
  const out = flashMaskAttention(q, k, k, null, {causal: true});
  await out.data();
  tf.dispose([q, k, out]);
}
