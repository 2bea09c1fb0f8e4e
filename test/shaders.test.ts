/**
 * @file Every shader that `plan()` can choose, compiled and validated on Dawn's null adapter: it checks WGSL, bindings and limits
 * as a real device does, and executes nothing. With the limits of the weakest device that WebGPU allows.
 */
import {expect} from 'chai';
import {create, globals} from 'webgpu';
import {type Pass, type PassPlan, type Variant, candidates, plan} from '../src/plan.js';
import {tilesToTry} from '../src/tuning.js';
import {createPipeline} from '../src/webgpu/dispatch.js';
import {backwardBindings, dkdvShader, dqShader} from '../src/webgpu/wgsl/backward.js';
import {copyBindings, copyKey, copyShader} from '../src/webgpu/wgsl/copy.js';
import {
  combineDqBindings,
  combineDqKey,
  combineDqShader,
  combineOutBindings,
  combineOutKey,
  combineOutShader,
} from '../src/webgpu/wgsl/combine.js';
import {deltaBindings, deltaKey, deltaShader} from '../src/webgpu/wgsl/delta.js';
import {forwardBindings, forwardShader} from '../src/webgpu/wgsl/forward.js';
import type {Binding} from '../src/webgpu/wgsl/header.js';
import {isScheduled} from '../src/webgpu/wgsl/row_blocks.js';
import {ORDER_BINDINGS, orderShader, RANGES_BINDINGS, rangesShader, scheduleKey} from '../src/webgpu/wgsl/schedule.js';
import {TILE_MAP_BINDINGS, tileMapKey, tileMapShader} from '../src/webgpu/wgsl/tile_map.js';
import {forms} from './cases.js';

/** Aligned, odd, the least, the most, and different for keys and values. */
const channels = [
  [1, 1], [3, 20], [4, 4], [33, 64], [64, 64], [80, 33], [128, 128], [128, 256], [192, 128], [256, 256],
] as const; // prettier-ignore

const booleans = [false, true];

function variants(D: number, Dv: number): Variant[] {
  return booleans.flatMap((causal) =>
    booleans.flatMap((intervals) =>
      booleans.flatMap((dropout) =>
        booleans.map((fewQueries) => ({D, Dv, causal, intervals, dropout, parts: 0 as const, fewQueries})),
      ),
    ),
  );
}

interface Shader {
  key: string;
  code: string;
  bindings: readonly Binding[];
  /** What the plan says that it takes of workgroup memory. */
  workgroupBytes: number;
}

function shaderOf(p: PassPlan): Shader {
  const code = {forward: forwardShader, dq: dqShader, dkdv: dkdvShader}[p.pass](p);
  const bindings = p.pass === 'forward' ? forwardBindings(p) : backwardBindings(p);
  return {key: p.key, code, bindings, workgroupBytes: p.workgroupBytes};
}

/** The passes that combine the splits of few queries. */
function combining(D: number, Dv: number): Shader[] {
  const out = {key: combineOutKey(Dv), code: combineOutShader(Dv), bindings: combineOutBindings(Dv)};
  const dq = {key: combineDqKey(D), code: combineDqShader(D), bindings: combineDqBindings(D)};
  return [out, dq].map((shader) => ({...shader, workgroupBytes: 0}));
}

/** The limits that every WebGPU device has at least. */
const leastLimits = {maxComputeWorkgroupStorageSize: 16384, maxComputeInvocationsPerWorkgroup: 256};
const anyLimits = {maxComputeWorkgroupStorageSize: Infinity, maxComputeInvocationsPerWorkgroup: Infinity};

/** Head sizes at which all tiles are compiled that autotune may choose; elsewhere those that a plan chooses by itself. */
const withEveryTile = ['33, 64', '128, 128'];

/** Each plan that some device would be given: with all candidate tiles of the pass, not only the first. */
function plansOf(pass: Pass, variant: Variant): PassPlan[] {
  const every = withEveryTile.includes(`${variant.D}, ${variant.Dv}`);
  const shapes = every ? tilesToTry(pass, variant) : candidates(pass, variant);
  return shapes.map((shape) => plan(pass, variant, anyLimits, [shape]));
}

describe('shaders', () => {
  // Dawn frees its devices with this object.
  let gpu: GPU;
  let device: GPUDevice;

  before(async () => {
    Object.assign(globalThis, globals);
    gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
    const adapter = (await gpu.requestAdapter())!;
    device = await adapter.requestDevice({requiredFeatures: ['shader-f16']});
  });

  after(() => device.destroy());

  it('are refused when they are wrong', async () => {
    const bindings: Binding[] = [{name: 'x', type: 'f32', access: 'read_write'}];
    const error = await problemOf({
      key: 'wrong',
      code: '@compute @workgroup_size(1) fn main() { x[0] = y; }',
      bindings,
      workgroupBytes: 0,
    });
    expect(error).to.match(/unresolved value 'x'/);
  });

  for (const [D, Dv] of channels) {
    it(`D ${D}, Dv ${Dv}`, async () => {
      const shaders = new Map<string, Shader>();
      for (const variant of variants(D, Dv)) {
        for (const pass of ['forward', 'dq', 'dkdv'] as const) {
          for (const shader of plansOf(pass, variant).map(shaderOf)) {
            expectSameCode(shaders.get(shader.key), shader);
            shaders.set(shader.key, shader);
          }
        }
      }
      for (const [lseGradient, rounded] of booleans.flatMap((x) => booleans.map((y) => [x, y]))) {
        const delta = {Dv, lseGradient, rounded};
        const code = deltaShader(delta);
        shaders.set(deltaKey(delta), {key: deltaKey(delta), code, bindings: deltaBindings(delta), workgroupBytes: 0});
      }
      for (const shader of combining(D, Dv)) shaders.set(shader.key, shader);
      for (const shader of shaders.values()) {
        await expectValid(shader);
      }
    });
  }

  it('fit 16 KiB of workgroup memory at every head size', () => {
    for (const [D, Dv] of channels) {
      for (const variant of variants(D, Dv)) {
        for (const pass of ['forward', 'dq', 'dkdv'] as const) {
          expect(plan(pass, variant, leastLimits).workgroupBytes).to.be.at.most(16384);
        }
      }
    }
  });

  it('copies of slices', async () => {
    for (const head of [3, 4]) {
      await expectValid({key: copyKey(head), code: copyShader(head), bindings: copyBindings(head), workgroupBytes: 0});
    }
  });

  it('tile maps of all forms', async () => {
    for (const form of forms) {
      const shader = {code: tileMapShader(form), bindings: TILE_MAP_BINDINGS, workgroupBytes: 0};
      await expectValid({key: tileMapKey(form), ...shader});
    }
  });

  it('schedules of all tiles', async () => {
    const shaders = new Map<string, Shader>();
    for (const variant of variants(64, 64).filter(isScheduled)) {
      for (const blocks of (['forward', 'dq', 'dkdv'] as const).flatMap((pass) => plansOf(pass, variant))) {
        const key = scheduleKey(blocks);
        for (const shader of [
          {key: `${key}_ranges`, code: rangesShader(blocks), bindings: RANGES_BINDINGS, workgroupBytes: 0},
          {key: `${key}_order`, code: orderShader(blocks), bindings: ORDER_BINDINGS, workgroupBytes: 0},
        ]) {
          expectSameCode(shaders.get(shader.key), shader);
          shaders.set(shader.key, shader);
        }
      }
    }
    for (const shader of shaders.values()) await expectValid(shader);
    // Two tiles of dkdv and two of the passes over queries, causal or not, two passes each.
    expect(shaders.size).to.equal(16);
  });

  /** What the device finds wrong with a shader; '' if nothing. */
  async function problemOf({key, code, bindings}: Shader): Promise<string> {
    device.pushErrorScope('validation');
    createPipeline(device, key, code, bindings);
    const error = await device.popErrorScope();
    return error ? error.message : '';
  }

  /** The null device has the least limits: there, of larger plans everything but their size is checked, and that by the bytes. */
  async function expectValid(shader: Shader): Promise<void> {
    const problem = await problemOf(shader);
    if (shader.workgroupBytes <= device.limits.maxComputeWorkgroupStorageSize) {
      expect(problem, shader.key).to.equal('');
    } else {
      expect(problem, shader.key).to.include(`workgroup storage (${shader.workgroupBytes} bytes) is larger`);
    }
  }
});

/** Equal keys must mean equal code: the key is all that the pipeline cache sees. */
function expectSameCode(known: Shader | undefined, shader: Shader): void {
  if (known) {
    expect(shader.code, `the code of two plans with the key ${shader.key}`).to.equal(known.code);
  }
}
