/**
 * @file The WGSL copies of the rules that each language has, against the shared vectors: small shaders call the
 * functions that the passes use, and the test reads the results back.
 */
import {expect} from 'chai';
import * as tf from '@tensorflow/tfjs-core';
import {MAP_BLOCK} from '../../src/call/constants.js';
import {createPipeline} from '../../src/backends/webgpu/run/pipelines.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {
  UNIFORMS,
  declare,
  declareConstants,
  type Binding,
  type UniformName,
} from '../../src/backends/webgpu/wgsl/header.js';
import {MASK_HEAD} from '../../src/backends/webgpu/wgsl/mask/row_blocks.js';
import {classifyFunction} from '../../src/backends/webgpu/wgsl/mask/tiles.js';
import {keepFunction} from '../../src/backends/webgpu/wgsl/vector/steps.js';
import {dropoutOf} from '../../src/call/dropout.js';
import {devices} from '../support/devices.js';
import {type Vectors, vectors} from '../support/vectors.js';

type Uniforms = Partial<Record<UniformName, number>>;

/** A buffer with these words. */
function bufferOf(device: GPUDevice, words: Int32Array | Uint32Array, usage: number): GPUBuffer {
  const buffer = device.createBuffer({size: Math.max(16, words.byteLength), usage: usage | GPUBufferUsage.COPY_DST});
  device.queue.writeBuffer(buffer, 0, words as BufferSource);
  return buffer;
}

function uniformWords(values: Uniforms): Uint32Array {
  const view = new DataView(new ArrayBuffer(UNIFORMS.length * 4));
  UNIFORMS.forEach(([name, type], i) => {
    const value = values[name] ?? 0;
    if (type === 'f32') view.setFloat32(4 * i, value, true);
    else view.setUint32(4 * i, value >>> 0, true);
  });
  return new Uint32Array(view.buffer);
}

/**
 * Runs a shader with the bindings `given` and `found`, one thread per case; returns the `count` words that it wrote.
 */
async function run(
  code: string,
  bindings: readonly Binding[],
  uniforms: Uniforms,
  given: Int32Array | Uint32Array,
  [cases, count]: [number, number],
): Promise<Int32Array> {
  const {device} = tf.backend() as unknown as WebGPUBackend;
  const pipeline = createPipeline(device, {key: 'vectors', code, bindings});
  const uniform = bufferOf(device, uniformWords(uniforms), GPUBufferUsage.UNIFORM);
  const input = bufferOf(device, given, GPUBufferUsage.STORAGE);
  const output = bufferOf(device, new Int32Array(count), GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
  const staging = bufferOf(device, new Int32Array(count), GPUBufferUsage.MAP_READ);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  const entries = [uniform, input, output].map((buffer, binding) => ({binding, resource: {buffer}}));
  pass.setBindGroup(0, device.createBindGroup({layout: pipeline.getBindGroupLayout(0), entries}));
  pass.dispatchWorkgroups(cases);
  pass.end();
  encoder.copyBufferToBuffer(output, 0, staging, 0, count * 4);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Int32Array(staging.getMappedRange(0, count * 4).slice(0));
  [uniform, input, output, staging].forEach((buffer) => buffer.destroy());
  return values;
}

const KINDS = ['empty', 'partial', 'full'];

/**
 * Kinds of tiles of one shape and form, each with its own mask head. `given` holds the bounds map, then key block, r0
 * and r1 of each case.
 */
async function kindsOf(cases: Vectors['classify'][], causal: boolean, intervals: boolean): Promise<string[]> {
  const [{Sq, Sk}] = cases;
  const mapBlocks = Math.ceil(Sk / MAP_BLOCK);
  const bindings: Binding[] = [
    {name: 'mask', type: 'vec4i', access: 'read'},
    {name: 'found', type: 'i32', access: 'read_write'},
  ];
  const given = new Int32Array(cases.length * (mapBlocks * 8 + 4));
  cases.forEach((x, i) => {
    given.set(x.map, (i * mapBlocks + x.c0 / MAP_BLOCK) * 8);
    given.set([x.c0 / MAP_BLOCK, x.r0, x.r1], cases.length * mapBlocks * 8 + 4 * i);
  });
  const code = `${declareConstants({BLOCK_K: MAP_BLOCK, MAP_BLOCK, MAP_SPAN: 1})}${declare(bindings)}
${classifyFunction({causal, intervals})}
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) id: vec3u) {
  let tile = mask[${cases.length * mapBlocks * 2}u + id.x];
  found[id.x] = i32(classify(id.x, u32(tile.x), tile.y, tile.z));
}
`;
  const uniforms = {Sq, Sk, causalOffset: Sk - Sq, mapBlocks};
  const found = await run(code, bindings, uniforms, given, [cases.length, cases.length]);
  return Array.from(found, (kind) => KINDS[kind]);
}

const webgpu = devices.find(({name}) => name === 'webgpu')!;

(webgpu.skip ? describe.skip : describe)(`shared vectors on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());

  it('kinds of tiles', async () => {
    const groups = new Map<string, Vectors['classify'][]>();
    for (const x of vectors('classify')) {
      const key = `${x.Sq} ${x.Sk} ${x.causal} ${x.n > 0}`;
      groups.set(key, [...(groups.get(key) ?? []), x]);
    }
    for (const cases of groups.values()) {
      const found = await kindsOf(cases, cases[0].causal, cases[0].n > 0);
      // A last tile with columns past Sk is handled as a partial tile.
      const expected = cases.map(({kind, c0, Sk}) => (kind === 'full' && c0 + MAP_BLOCK > Sk ? 'partial' : kind));
      expect(found).to.deep.equal(expected);
    }
  });

  it('dropout', async () => {
    const bindings: Binding[] = [
      {name: 'given', type: 'u32', access: 'read'},
      {name: 'found', type: 'u32', access: 'read_write'},
    ];
    const code = `${declare(bindings)}${keepFunction({dropout: true})}
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) id: vec3u) {
  for (var group = 0u; group < 8u; group++) {
    let factors = keep(given[0], given[1], group);
    for (var i = 0u; i < 4u; i++) { found[4u * group + i] = select(0u, 1u, factors[i] > 0.0); }
  }
}
`;
    for (const {rate, seed, batchHead, row, kept} of vectors('dropout')) {
      const {threshold, keepScale, key0, key1} = dropoutOf(rate, seed);
      const uniforms = {seedLow: key0, seedHigh: key1, dropThreshold: threshold, keepScale};
      const found = await run(code, bindings, uniforms, Uint32Array.of(batchHead, row), [1, kept.length]);
      expect(found.join(''), `dropout ${rate}, seed ${seed}`).to.equal(kept);
    }
  });

  it('mask head of a query head', async () => {
    const bindings: Binding[] = [
      {name: 'given', type: 'u32', access: 'read'},
      {name: 'found', type: 'u32', access: 'read_write'},
    ];
    const code = `${declare(bindings)}${MASK_HEAD}
@compute @workgroup_size(1)
fn main() {
  found[0] = maskHeadOf(given[0], given[1]);
}
`;
    const seen = vectors('mask_head').filter(({b}) => b === 2);
    for (const {maskB, Hm, H, b, h, maskHead} of seen) {
      const uniforms = {maskGroup: H / Hm, maskBatchStride: maskB === 1 ? 0 : Hm};
      const [found] = await run(code, bindings, uniforms, Uint32Array.of(b, h), [1, 1]);
      expect(found, `batch ${b}, head ${h} of ${H}`).to.equal(maskHead);
    }
  });
});
