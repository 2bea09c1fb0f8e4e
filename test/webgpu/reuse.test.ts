/** @file What stays on the device from call to call of tfjs's own operations, on the backends of this library. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {devices} from '../support/devices.js';

const webgpu = devices.find(({name}) => name === 'webgpu')!;
const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

/** The results of a method's calls while `body` runs. */
async function resultsOf<T extends object>(object: T, method: keyof T & string, body: () => Promise<unknown>) {
  const own = Object.getOwnPropertyDescriptor(object, method);
  const original = object[method] as unknown as (...args: unknown[]) => unknown;
  const results: unknown[] = [];
  Object.defineProperty(object, method, {
    configurable: true,
    value: (...args: unknown[]) => {
      const result = original.apply(object, args);
      results.push(result);
      return result;
    },
  });
  try {
    await body();
  } finally {
    Reflect.deleteProperty(object, method);
    if (own) Object.defineProperty(object, method, own);
  }
  return results;
}

/** The number of calls of a method while `body` runs. */
const callsOf = async <T extends object>(object: T, method: keyof T & string, body: () => Promise<unknown>) =>
  (await resultsOf(object, method, body)).length;

/** A few operations with numbers, on a tensor of the device. */
async function work(x: tf.Tensor, factor: number): Promise<number[]> {
  const y = tf.tidy(() => tf.tanh(tf.add(tf.mul(x, factor), 0.25)).mul(-0.5));
  const values = Array.from(await y.data());
  y.dispose();
  return values;
}

const expected = (x: number[], factor: number): number[] => x.map((value) => Math.tanh(value * factor + 0.25) * -0.5);

(webgpu.skip ? describe.skip : describe)(`reuse on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());
  afterEach(async () => expect(await webgpu.hiddenErrors()).to.deep.equal([]));

  const host = Array.from({length: 3000}, (_, i) => Math.sin(i));
  let x: tf.Tensor;
  before(async () => {
    x = tf.tensor1d(host);
    await tf.add(x, x).data();
  });
  after(() => x.dispose());

  it('numbers and uniforms are uploaded once', async () => {
    const {queue} = backendNow();
    await work(x, 2);
    expect(await callsOf(queue, 'writeBuffer', () => work(x, 2))).to.equal(0);
    const created = await callsOf(backendNow().bufferManager, 'acquireBuffer', () => work(x, 2));
    // Three results of operations, and the buffer that is read.
    expect(created).to.be.at.most(5);
  });

  it('gives the right numbers for more of them than stay, for 0 and -0, and for whole numbers of the same bits', async () => {
    for (let i = 0; i < 1100; i++) {
      const factor = (i % 550) / 100;
      if (i % 100 !== 0) {
        tf.tidy(() => void tf.mul(x, factor));
        continue;
      }
      const found = await work(x, factor);
      expected(host, factor).forEach((value, at) => expect(found[at]).to.be.closeTo(value, 1e-5));
    }
    const inverse = async (zero: number): Promise<number> => {
      const y = tf.tidy(() => tf.div(1, tf.mul(tf.ones([2000]), zero)));
      const [value] = await y.data();
      y.dispose();
      return value;
    };
    expect([await inverse(0), await inverse(-0), await inverse(0)]).to.deep.equal([Infinity, -Infinity, Infinity]);
    const whole = tf.tidy(() => tf.add(tf.fill([2000], 3, 'int32'), tf.scalar(1, 'int32')));
    expect((await whole.data())[1999]).to.equal(4);
    whole.dispose();
  });

  it('buffers that a disposed tensor leaves serve the next operation, before anything is submitted', async () => {
    const chain = (): tf.Tensor =>
      tf.tidy(() => {
        let y = tf.add(x, 1);
        for (let i = 0; i < 40; i++) {
          const next = tf.add(y, 1);
          y.dispose();
          y = next;
        }
        return y;
      });
    const {device} = backendNow();
    chain().dispose();
    let result!: tf.Tensor;
    const created = await callsOf(device, 'createBuffer', () => Promise.resolve((result = chain())));
    expect(created).to.equal(0);
    const values = await result.data();
    host.forEach((value, at) => expect(values[at]).to.be.closeTo(value + 41, 1e-4));
    result.dispose();
  });

  it('training steps take the bind groups of the steps before', async () => {
    const weights = [0.5, 0.25, 0.125].map((value) => tf.variable(tf.fill([1000], value)));
    const step = async (): Promise<void> => {
      const {value, grads} = tf.variableGrads(() =>
        weights.reduce<tf.Tensor>((y, weight) => tf.tanh(y.mul(weight).add(weight)), tf.ones([1000])).sum(),
      );
      tf.tidy(() => weights.forEach((weight) => weight.assign(weight.sub(grads[weight.name].mul(0.01)))));
      await value.data();
      tf.dispose([value, grads]);
    };
    const known = new Set<unknown>();
    for (let i = 0; i < 6; i++) {
      for (const bindGroup of await resultsOf(backendNow().device, 'createBindGroup', step)) known.add(bindGroup);
    }
    const last = await resultsOf(backendNow().device, 'createBindGroup', step);
    expect(last).to.have.length.above(20);
    expect(last.filter((bindGroup) => !known.has(bindGroup))).to.deep.equal([]);
    tf.dispose(weights);
  });
});
