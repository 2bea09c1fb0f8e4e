/**
 * @file What only the WebGPU backend can get wrong: errors that tfjs swallows, lost devices, binding limits, work that
 * is spread over submissions, the bounds map that layers share, and tiles that must not be read.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {createWebGPUBackend} from '../../src/entries/webgpu.js';
import {bufferOf, type WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {type PassRun, submitPasses} from '../../src/backends/webgpu/run/dispatch.js';
import {createPipeline} from '../../src/backends/webgpu/run/pipelines.js';
import {guarded} from '../../src/backends/webgpu/run/device_errors.js';
import {capabilitiesOf} from '../../src/backends/webgpu/device/capabilities.js';
import type {UniformValues} from '../../src/backends/webgpu/wgsl/header.js';
import {specialize, type Shader} from '../../src/backends/webgpu/wgsl/shader.js';
import {HEAD_SIZE} from '../support/cases.js';
import {devices} from '../support/devices.js';
import {skip} from '../support/skip.js';
import {recordDispatches} from './recorded_dispatches.js';

const webgpu = devices.find(({name}) => name === 'webgpu')!;

async function errorOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
}

const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

/** Runs `body` as a kernel and returns its output, of so many elements, as a tensor. */
function asKernel(backend: WebGPUBackend, body: () => void, elements = 4): tf.Tensor {
  const [info] = guarded(backend, 'TestKernel', () => {
    const out = backend.makeTensorInfo([elements], 'float32');
    bufferOf(backend, out);
    body();
    return [out];
  });
  return tf.engine().makeTensorFromTensorInfo(info);
}

/** Records a command that is invalid, as one of tfjs may be. */
function recordInvalid(backend: WebGPUBackend): void {
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  const pass = backend.commandEncoder!.beginComputePass();
  // Without a pipeline.
  pass.dispatchWorkgroups(1);
  pass.end();
}

const noise = (shape: [number, number, number, number], seed: number): tf.Tensor4D =>
  tf.randomNormal(shape, 0, 1, 'float32', seed);

/** Counts how often each item is processed. */
const countItems: Shader<object> = {
  name: 'test_count_items',
  fields: {},
  bindings: () => [{name: 'counts', type: 'u32', access: 'read_write'}],
  threads: () => 1,
  item: 'workgroup',
  declarations: () => '',
  body: () => 'counts[item] = counts[item] + 1u;',
};

/** Shows which bits workgroup memory has at the start, then sets some. */
const showWorkgroupMemory: Shader<object> = {
  name: 'test_show_workgroup_memory',
  fields: {},
  bindings: () => [{name: 'bits', type: 'u32', access: 'read_write'}],
  threads: () => 1,
  item: 'workgroup',
  declarations: () => 'var<workgroup> memory: array<u32, 1024>;',
  body: () => `for (var i = 0u; i < 1024u; i++) {
  bits[item] = bits[item] | memory[i];
  memory[i] = 7u + item;
}`,
};

/** Keys of the shaders that `run` dispatches. */
async function dispatchesOf(run: () => tf.Tensor[]): Promise<string[]> {
  const {keys, result: results} = recordDispatches(backendNow().device, run);
  await Promise.all(results.map((t) => t.data()));
  tf.dispose(results);
  return keys;
}

(webgpu.skip ? describe.skip : describe)(`webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());

  it('throws the error of a shader when a result, or anything made from it, is read', async () => {
    const backend = backendNow();
    const before = tf.tensor([1, 2]);
    const out = asKernel(backend, () =>
      createPipeline(backend.device, {key: 'broken', code: 'fn main( {', bindings: []}),
    );
    const derived = tf.add(out, 1);
    expect(await errorOf(derived.data())).to.match(/TestKernel failed on the WebGPU device \(validation\)/);
    expect(await errorOf(out.data())).to.match(/TestKernel failed/);
    expect([...(await before.data())]).to.deep.equal([1, 2]);
    const after = tf.tensor([3, 4]);
    expect([...(await tf.add(before, after).data())]).to.deep.equal([4, 6]);
    tf.dispose([before, out, derived, after]);
  });

  // How it is zeroed depends on the driver (src/node_webgpu/dawn.ts).
  it('starts each workgroup with zeroed memory, whatever the one before left there', async () => {
    const backend = backendNow();
    const items = 256;
    const bits = tf.zeros([items], 'int32');
    const pass = {shader: specialize(showWorkgroupMemory, {}), uniforms: {} as UniformValues};
    submitPasses(backend, [{...pass, buffers: [bufferOf(backend, bits)], items, flopsPerWorkgroup: 1}]);
    expect([...(await bits.data())]).to.deep.equal(Array.from({length: items}, () => 0));
    bits.dispose();
  });

  it('throws when memory runs out, and keeps the failed buffer out of the pool', async () => {
    const backend = backendNow();
    const {device} = backend;
    const pop = device.popErrorScope.bind(device);
    let scope = 0;
    // The scopes are popped in the order internal, out-of-memory, validation.
    device.popErrorScope = async () => ((await pop(), ++scope === 2) ? new GPUOutOfMemoryError('no room') : null);
    // No buffer of this size is in the pool.
    const out = asKernel(backend, () => {}, 4321);
    device.popErrorScope = pop;
    const {resource} = backend.tensorMap.get(out.dataId);
    expect(await errorOf(out.data())).to.match(/out-of-memory\): no room.*Free tensors/);
    out.dispose();
    const next = tf.add(tf.ones([4321]), 1);
    expect(backend.tensorMap.get(next.dataId).resource).to.not.equal(resource);
    expect((await next.data()).every((x) => x === 2)).to.equal(true);
  });

  it('throws the error of a bind group or a command, and what was recorded before and after it still runs', async () => {
    const backend = backendNow();
    const {device} = backend;
    const wrong: PassRun = {
      // Without the uniforms and the buffer that it binds.
      shader: specialize(countItems, {}), buffers: [], uniforms: {} as UniformValues, items: 1, flopsPerWorkgroup: 1,
    }; // prettier-ignore
    const tooMany = (): void => {
      device.createBuffer({size: 16, usage: GPUBufferUsage.STORAGE}).destroy();
      recordInvalid(backend);
    };
    const x = tf.ones([2000]);
    for (const body of [() => submitPasses(backend, [wrong]), tooMany]) {
      const before = tf.add(x, 1);
      const out = asKernel(backend, body);
      expect(await errorOf(out.data())).to.match(/TestKernel failed on the WebGPU device \(validation\)/);
      expect((await before.data())[1999]).to.equal(2);
      const after = tf.add(x, 2);
      expect((await after.data())[1999]).to.equal(3);
      tf.dispose([before, out, after]);
    }
    x.dispose();
  });

  it('opens error scopes for a call that makes something, and submits no short call that makes nothing', async () => {
    const backend = (await createWebGPUBackend({name: 'webgpu-scopes'})) as unknown as WebGPUBackend;
    const {device, queue} = backend;
    const mask = masks.causalDocument([40, 30]);
    let counts = {scopes: 0, submissions: 0};
    const push = device.pushErrorScope.bind(device);
    device.pushErrorScope = (scope) => {
      counts.scopes++;
      push(scope);
    };
    const submit = queue.submit.bind(queue);
    queue.submit = (commands) => {
      counts.submissions++;
      submit(commands);
    };
    const call = (x: tf.Tensor4D): typeof counts => {
      counts = {scopes: 0, submissions: 0};
      tf.dispose(flashMaskAttention(x, x, x, mask));
      return counts;
    };
    const x = noise([1, 70, 2, HEAD_SIZE], 1);
    expect(call(x)).to.deep.equal({scopes: 3, submissions: 1});
    // Its buffers come back in another order, and then again in this one.
    for (let i = 0; i < 5; i++) call(x);
    expect(call(x)).to.deep.equal({scopes: 0, submissions: 0});
    const y = noise([1, 70, 3, HEAD_SIZE], 1);
    // One around the recorded calls, and three around this one.
    expect(call(y)).to.deep.equal({scopes: 4, submissions: 2});
    tf.dispose([x, y]);
    await webgpu.setup();
    tf.removeBackend('webgpu-scopes');
  });

  it('throws the error of a command of tfjs that a call is submitted with', async () => {
    await createWebGPUBackend({name: 'webgpu-shared'});
    const backend = backendNow();
    const mask = masks.causalDocument([40, 30]);
    const x = noise([1, 70, 2, HEAD_SIZE], 1);
    const call = (): tf.Tensor => flashMaskAttention(x, x, x, mask);
    const kept = call();
    const expected = [...(await kept.data())];
    // Their buffers come back in other orders, until all bind groups exist.
    for (let i = 0; i < 6; i++) tf.dispose([tf.add(x, 1), call()]);
    const early = tf.add(x, 1);
    const {commandEncoder} = backend;
    const out = call();
    expect(backend.commandEncoder).to.equal(commandEncoder);
    recordInvalid(backend);
    expect(await errorOf(out.data())).to.match(/tfjs failed on the WebGPU device \(validation\)/);
    expect(await errorOf(early.data())).to.match(/tfjs failed/);
    // Neither what was made before the submission nor what is made after the report.
    expect((await x.data()).every(Number.isFinite)).to.equal(true);
    const later = call();
    expect([...(await later.data())]).to.deep.equal(expected);
    tf.dispose([x, kept, early, out, later]);
    await webgpu.setup();
    tf.removeBackend('webgpu-shared');
  });

  it('fills the mask buffer again after a failure', async () => {
    const backend = backendNow();
    // The tensors below get used buffers, which are filled by commands.
    const sizes = [70, 140 * HEAD_SIZE];
    tf.dispose(sizes.flatMap((size) => [1, 2, 3].map((value) => tf.add(tf.fill([size], value), value))));
    const mask = masks.causalDocument([40, 30]);
    const x = noise([1, 70, 2, HEAD_SIZE], 1);
    const {device} = backend;
    const original = device.createBindGroup.bind(device);
    device.createBindGroup = (descriptor) => {
      if (descriptor.label?.startsWith('forward')) recordInvalid(backend);
      return original(descriptor);
    };
    const failed = flashMaskAttention(x, x, x, mask);
    device.createBindGroup = original;
    expect(await errorOf(failed.data())).to.match(/failed on the WebGPU device/);
    const [again, fresh] = [mask, masks.causalDocument([40, 30])].map((each) => flashMaskAttention(x, x, x, each));
    const results = [...(await again.data())];
    expect(results).to.deep.equal([...(await fresh.data())]);
    // The first row sees itself alone. Its values were uploaded by the call that failed.
    const [first] = await x.data();
    expect(results[0]).to.be.closeTo(first, 1e-6);
    tf.dispose([x, failed, again, fresh]);
  });

  it('says that the device was lost, at the call and at a read', async () => {
    const current = tf.getBackend();
    const backend = (await createWebGPUBackend({name: 'webgpu-lost'})) as unknown as WebGPUBackend;
    const q = noise([1, 8, 1, 4], 1);
    const out = flashMaskAttention(q, q, q);
    const unread = flashMaskAttention(q, q, q);
    await out.data();
    backend.device.destroy();
    await backend.device.lost;
    expect(await errorOf(unread.data())).to.match(/device was lost.*createWebGPUBackend\(\{name: 'webgpu-lost'\}\)/s);
    expect(() => flashMaskAttention(q, q, q)).to.throw(/flashMaskAttention: the WebGPU device was lost/);
    expect(q.isDisposed).to.equal(false);
    await tf.setBackend(current);
    tf.removeBackend('webgpu-lost');
  });

  it('gives the gradient of a forward pass that ran on another backend', async () => {
    const gradients = async (first: string): Promise<number[]> => {
      await tf.setBackend(first);
      const [q, k, v] = [1, 2, 3].map((seed) => noise([1, 8, 2, HEAD_SIZE], seed));
      const results = tf.grads((a, b, c) => {
        // With a scale the row maxima of the two backends differ: 'cpu' takes them of scores, 'webgpu' of products.
        const out = flashMaskAttention(a as tf.Tensor4D, b as tf.Tensor4D, c as tf.Tensor4D, null, {scale: 7});
        void tf.setBackend('webgpu');
        return out;
      })([q, k, v]);
      const values = await Promise.all(results.map((x) => x.data()));
      tf.dispose([q, k, v, results]);
      return values.flatMap((x) => [...x]);
    };
    const expected = await gradients('webgpu');
    const crossed = await gradients('cpu');
    crossed.forEach((x, i) => expect(x).to.be.closeTo(expected[i], 1e-4));
  });

  it('refuses a tensor past the binding limit before anything runs', async () => {
    const current = tf.getBackend();
    const adapter = (await navigator.gpu.requestAdapter())!;
    const device = await adapter.requestDevice();
    await createWebGPUBackend({name: 'webgpu-small', device});
    const rows = device.limits.maxStorageBufferBindingSize / 256 + 1;
    const q = tf.zeros([1, rows, 1, 64]) as tf.Tensor4D;
    const k = noise([1, 2, 1, 64], 1);
    const tensors = tf.memory().numTensors;
    expect(() => flashMaskAttention(q, k, k)).to.throw(
      /q must fit one WebGPU storage binding, got 134217984 bytes.*134217728/,
    );
    // The bounds of 'no mask' are cached; nothing else may stay.
    expect(tf.memory().numTensors - tensors).to.be.at.most(1);
    expect(q.isDisposed).to.equal(false);
    tf.dispose([q, k]);
    await tf.setBackend(current);
    tf.removeBackend('webgpu-small');
  });

  it('computes bounds map and schedules once for all layers, forward and backward', async () => {
    const mask = masks.causalDocument([40, 30]);
    const x = noise([1, 70, 2, HEAD_SIZE], 2);
    const keys = await dispatchesOf(() => {
      const layers = (q: tf.Tensor4D): tf.Tensor => [1, 2, 3].reduce((h) => flashMaskAttention(h, h, h, mask), q);
      return [tf.grad((q) => layers(q as tf.Tensor4D))(x)];
    });
    const count = (name: string): number => keys.filter((key) => key.startsWith(name)).length;
    // Once for the tiles of forward and dq, once for those of dkdv.
    expect(count('bounds_map')).to.equal(2);
    for (const pass of ['schedule_ranges', 'schedule_order']) {
      expect([count(pass), count(`${pass} ofKeys`)]).to.deep.equal([2, 1]);
    }
    expect([count('forward '), count('dq '), count('dkdv ')]).to.deep.equal([3, 3, 3]);
    x.dispose();
  });

  it('compiles nothing for a new length, batch, head count or mask of the same form', async () => {
    const {device} = backendNow();
    const call = async (B: number, N: number, H: number): Promise<void> => {
      const x = noise([B, N, H, HEAD_SIZE], N);
      const mask = masks.causalDocument([N - 20, 20]);
      const gradient = tf.grad((q) => flashMaskAttention(q as tf.Tensor4D, x, x, mask))(x);
      await gradient.data();
      tf.dispose([x, gradient]);
    };
    await call(1, 70, 2);
    const compiled: string[] = [];
    const create = device.createComputePipeline.bind(device);
    device.createComputePipeline = (descriptor) => {
      const label = descriptor.label ?? '';
      // tfjs compiles pipelines for the noise too.
      if (/^(forward|delta|dq|dkdv|bounds_map|schedule)/.test(label)) compiled.push(label);
      return create(descriptor);
    };
    await call(1, 101, 2);
    await call(2, 133, 3);
    device.createComputePipeline = create;
    expect(compiled).to.deep.equal([]);
  });

  it('neither loads nor computes empty tiles', async () => {
    // Keys and values of the second document are NaN, so any product with them would show in the first document.
    const mask = masks.document([64, 64]);
    const half: [number, number, number, number] = [1, 64, 1, HEAD_SIZE];
    const poison = tf.concat([tf.ones(half), tf.fill(half, NaN)], 1) as tf.Tensor4D;
    const q = noise([1, 128, 1, HEAD_SIZE], 3);
    const [out, gradients] = [
      flashMaskAttention(q, poison, poison, mask),
      tf.grad((x) => tf.sum(tf.slice(flashMaskAttention(x as tf.Tensor4D, poison, poison, mask), [0, 0, 0, 0], half)))(
        q,
      ),
    ];
    for (const result of [out, gradients]) {
      const values = await result.data();
      expect(values.subarray(0, 64 * HEAD_SIZE).every(Number.isFinite)).to.equal(true);
      expect(values.subarray(64 * HEAD_SIZE).every(Number.isNaN)).to.equal(true);
    }
    tf.dispose([poison, q, out, gradients]);
  });

  it('float16 reads halves and stays within their rounding', async function () {
    const current = tf.getBackend();
    const {device} = await createWebGPUBackend({name: 'webgpu-half'});
    if (capabilitiesOf(device).matrix === null) {
      await tf.setBackend(current);
      tf.removeBackend('webgpu-half');
      skip(this, 'the device has no subgroup matrices');
    }
    const mask = masks.causalDocument([100, 60]);
    const x = noise([1, 160, 2, 64], 5);
    const call = (precision: 'float16' | 'auto'): tf.Tensor[] => [
      flashMaskAttention(x, x, x, mask, {precision}),
      tf.grad((q) => flashMaskAttention(q as tf.Tensor4D, x, x, mask, {precision}))(x),
    ];
    const [half, full] = [call('float16'), call('auto')];
    for (const [i, result] of half.entries()) {
      const error = tf.max(tf.abs(tf.sub(result, full[i])));
      // float16 has 11 bits; the results are of the order of 1 to 4.
      expect((await error.data())[0]).to.be.within(1e-6, 0.02);
      error.dispose();
    }
    tf.dispose([x, ...half, ...full]);
    await tf.setBackend(current);
    tf.removeBackend('webgpu-half');
  });

  it('splits long work over submissions without losing or repeating any', async () => {
    const backend = backendNow();
    const items = 1000;
    const counts = tf
      .engine()
      .makeTensorFromTensorInfo(backend.makeTensorInfo([items], 'int32', new Float32Array(items)));
    let submissions = 0;
    const submit = backend.queue.submit.bind(backend.queue);
    backend.queue.submit = (buffers) => {
      submissions++;
      submit(buffers);
    };
    submitPasses(backend, [
      {
        shader: specialize(countItems, {}), buffers: [bufferOf(backend, counts)], uniforms: {} as UniformValues,
        items, flopsPerWorkgroup: 1e12,
      },
    ]); // prettier-ignore
    backend.queue.submit = submit;
    expect(submissions).to.be.greaterThan(4);
    expect((await counts.data()).every((count) => count === 1)).to.equal(true);
    counts.dispose();
  });
});
