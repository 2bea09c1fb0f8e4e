/** @file The kernels of the layers on WebGPU. Their values and gradients are tested in test/op/layers.test.ts. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {type WebGPUBackend, submitRecorded} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {gatedUnit} from '../../src/layers/gated_unit.js';
import {type LayerAttrs, type LayerKernel, runLayer} from '../../src/layers/kernel.js';
import {rmsNorm} from '../../src/layers/rms_norm.js';
import {devices} from '../support/devices.js';
import {recordDispatches} from './recorded_dispatches.js';

const webgpu = devices.find(({name}) => name === 'webgpu')!;
const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

const noise = (rows: number, channels: number, seed = 1): tf.Tensor2D =>
  tf.randomNormal([rows, channels], 0, 1, 'float32', seed);

function run(name: LayerKernel, inputs: Record<string, tf.Tensor>, attrs: LayerAttrs = {}): tf.Tensor[] {
  return runLayer(name, inputs, attrs, () => {
    throw new Error(`${name} has no kernel`);
  });
}

/** Calls of all kernels, for this many tokens. */
function calls(rows: number, channels: number): [LayerKernel, Record<string, tf.Tensor>, LayerAttrs?][] {
  const [x, dy] = [noise(rows, channels, 1), noise(rows, channels, 2)];
  const inverse = noise(rows, 1, 3);
  const gamma = tf.ones([channels]);
  const tables = {cosines: tf.ones([rows, 1, channels]), sines: tf.ones([rows, 1, channels])};
  return [
    ['FlashMaskRmsNorm', {x, gamma}, {epsilon: 1e-5}],
    ['FlashMaskRmsNormGrad', {x, gamma, inverse, dy}],
    ['FlashMaskRmsNormGammaGrad', {x, inverse, dy}],
    ['FlashMaskRotate', {x, ...tables}, {back: true}],
    ['FlashMaskGatedUnit', {gate: x, up: dy}],
    ['FlashMaskGatedUnitGrad', {gate: x, up: dy, dy}],
  ];
}

describe('layers on WebGPU', function () {
  if (webgpu.skip !== undefined) return;

  before(() => webgpu.setup());

  afterEach(async () => expect(await webgpu.hiddenErrors()).to.deep.equal([]));

  it('are one dispatch each, and two for gamma of many rows', () => {
    const counts = (rows: number): number[] =>
      calls(rows, 8).map(([name, inputs, attrs]) => {
        // Uploads the inputs, and leaves no pass of tfjs open.
        run(name, inputs, attrs);
        submitRecorded(backendNow());
        return recordDispatches(backendNow().device, () => run(name, inputs, attrs)).keys.length;
      });
    expect(counts(64)).to.deep.equal([1, 1, 1, 1, 1, 1]);
    expect(counts(65)).to.deep.equal([1, 1, 2, 1, 1, 1]);
  });

  it('are part of the submissions of tfjs', () => {
    const {queue} = backendNow();
    const x = noise(3, 4);
    gatedUnit(x, x).dispose();
    submitRecorded(backendNow());
    const submit = queue.submit.bind(queue);
    let submissions = 0;
    queue.submit = (buffers) => {
      submissions++;
      submit(buffers);
    };
    const batch = tf.env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE');
    for (let i = 0; i < 2 * batch; i++) gatedUnit(x, x).dispose();
    queue.submit = submit;
    expect(submissions).to.equal(2);
  });

  it('take more workgroups than a dispatch has in one dimension', async () => {
    const {device} = backendNow();
    const {limits} = device;
    const known = calls(1000, 66);
    const results = (): tf.Tensor[] => known.flatMap(([name, inputs, attrs]) => run(name, inputs, attrs));
    const expected = results();
    // SwiftShader takes seconds for as many workgroups as every device allows.
    Object.defineProperty(device, 'limits', {value: {maxComputeWorkgroupsPerDimension: 3}, configurable: true});
    const actual = results();
    Object.defineProperty(device, 'limits', {value: limits, configurable: true});
    for (const [i, tensor] of actual.entries()) expect(await tensor.data()).to.deep.equal(await expected[i].data());
  });

  it('add up the gradient by gamma in the same order in each run', async () => {
    const [x, dy, inverse] = [noise(1000, 66, 1), noise(1000, 66, 2), noise(1000, 1, 3)];
    const sums = async (): Promise<tf.TypedArray> => run('FlashMaskRmsNormGammaGrad', {x, dy, inverse})[0].data();
    expect(await sums()).to.deep.equal(await sums());
  });

  it('give nothing for no tokens', () => {
    const shapes = calls(0, 4).map(([name, inputs, attrs]) => run(name, inputs, attrs).map(({shape}) => shape));
    expect(shapes).to.deep.equal([[[0, 4], [0, 1]], [[0, 4]], [[4]], [[0, 4]], [[0, 4]], [[0, 4], [0, 4]]]); // prettier-ignore
  });

  it('have the sigmoid of large numbers', async () => {
    const gate = tf.tensor2d([[-1e30, -100, 100, 1e30, Infinity, -Infinity, NaN, 0]]);
    const one = tf.onesLike(gate);
    const [value] = run('FlashMaskGatedUnit', {gate, up: one});
    expect(Array.from(await value.data(), (x) => x + 0)).to.deep.equal(
      [0, 0, 100, Math.fround(1e30), Infinity, NaN, NaN, 0], // prettier-ignore
    );
    const [dGate] = run('FlashMaskGatedUnitGrad', {gate, up: one, dy: one});
    expect(Array.from(await dGate.data(), (x) => x + 0)).to.deep.equal([0, 0, 1, 1, NaN, NaN, NaN, 0.5]);
  });

  it('hold no memory but their results', () => {
    const before = tf.memory();
    const known = calls(200, 8);
    tf.tidy(() => known.forEach(([name, inputs, attrs]) => run(name, inputs, attrs)));
    known.forEach(([, inputs]) => tf.dispose(inputs));
    submitRecorded(backendNow());
    const {numTensors, numBytes, ...after} = tf.memory();
    expect([numTensors, numBytes, Reflect.get(after, 'numBytesInGPU')]).to.deep.equal([
      before.numTensors,
      before.numBytes,
      Reflect.get(before, 'numBytesInGPU'),
    ]);
  });

  it('have names in tf.time(), and right results there', async () => {
    const x = noise(3, 4);
    let timed: tf.Tensor | undefined;
    const info = (await tf.time(() => void (timed = gatedUnit(x, x)))) as {getExtraProfileInfo?: () => string};
    expect(info.getExtraProfileInfo?.()).to.match(/^gated_unit: /);
    expect(await timed!.data()).to.deep.equal(await gatedUnit(x, x).data());
  });

  it('compile ahead', async () => {
    const x = noise(3, 22);
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', true);
    const {keys} = recordDispatches(backendNow().device, () => rmsNorm(x, tf.ones([22]), 1e-5));
    await backendNow().checkCompileCompletionAsync();
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', false);
    expect(keys).to.deep.equal([]);
    expect(Object.keys(backendNow().pipelineCache)).to.include('rms_norm channels=22 epsilon=0.00001');
  });

  it('throw the error of a shader when a result is read', async () => {
    const {device} = backendNow();
    const x = noise(3, 26);
    const gamma = tf.ones<tf.Rank.R1>([26]);
    await Promise.all([x.data(), gamma.data()]);
    const original = device.createShaderModule.bind(device);
    device.createShaderModule = (descriptor) => original({...descriptor, code: `${descriptor.code}\nfn`});
    const result = rmsNorm(x, gamma, 1e-5);
    device.createShaderModule = original;
    const message = await result.data().then(() => '', String);
    expect(message).to.match(/rms_norm failed on the WebGPU device \(validation\)/);
    // Submitted, the commands of tfjs would report the error once more.
    backendNow().endComputePassEncoder();
    backendNow().commandEncoder = null;
  });
});
