/**
 * @file Every shader on vectors that `plan()` can choose, and those beside them, compiled and validated on Dawn's null adapter, on a
 * device without any feature. matrix_shaders.test.ts has those on subgroup matrices.
 */
import {expect} from 'chai';
import {type Pass, type PassPlan, type Variant, candidates, plan} from '../../src/backends/webgpu/plan/vector_plan.js';
import {tilesToTry} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {bindingsOf, shaderOf} from '../../src/backends/webgpu/passes/attention_pass.js';
import {copyBindings, copyKey, copyShader} from '../../src/backends/webgpu/wgsl/vector/copy.js';
import {
  combineDqBindings,
  combineDqKey,
  combineDqShader,
  combineOutBindings,
  combineOutKey,
  combineOutShader,
} from '../../src/backends/webgpu/wgsl/vector/combine.js';
import {deltaBindings, deltaKey, deltaShader} from '../../src/backends/webgpu/wgsl/vector/delta.js';
import type {Binding} from '../../src/backends/webgpu/wgsl/header.js';
import {isScheduled} from '../../src/backends/webgpu/wgsl/mask/row_blocks.js';
import {
  ORDER_BINDINGS,
  orderShader,
  RANGES_BINDINGS,
  rangesShader,
  scheduleKey,
} from '../../src/backends/webgpu/wgsl/mask/schedule.js';
import {TILE_MAP_BINDINGS, tileMapKey, tileMapShader} from '../../src/backends/webgpu/wgsl/mask/bounds_map.js';
import {forms} from '../support/cases.js';
import {expectValid, nullDevice, problemOf, type Shader, Shaders} from '../support/null_device.js';

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

const shaderFor = (p: PassPlan): Shader => ({
  key: p.key,
  code: shaderOf(p),
  bindings: bindingsOf(p),
  workgroupBytes: p.workgroupBytes,
});

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
  let device: GPUDevice;

  before(async () => {
    device = await nullDevice();
  });

  after(() => device.destroy());

  it('are refused when they are wrong', async () => {
    const bindings: Binding[] = [{name: 'x', type: 'f32', access: 'read_write'}];
    const error = await problemOf(device, {
      key: 'wrong',
      code: '@compute @workgroup_size(1) fn main() { x[0] = y; }',
      bindings,
      workgroupBytes: 0,
    });
    expect(error).to.match(/unresolved value 'x'/);
  });

  for (const [D, Dv] of channels) {
    it(`D ${D}, Dv ${Dv}`, async () => {
      const shaders = new Shaders();
      for (const variant of variants(D, Dv)) {
        for (const pass of ['forward', 'dq', 'dkdv'] as const) {
          for (const shader of plansOf(pass, variant).map(shaderFor)) shaders.add(shader);
        }
      }
      for (const [lseGradient, rounded] of booleans.flatMap((x) => booleans.map((y) => [x, y]))) {
        const delta = {Dv, lseGradient, rounded};
        const code = deltaShader(delta);
        shaders.add({key: deltaKey(delta), code, bindings: deltaBindings(delta), workgroupBytes: 0});
      }
      for (const shader of combining(D, Dv)) shaders.add(shader);
      for (const shader of shaders.values()) {
        await expectValid(device, shader);
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
      await expectValid(device, {
        key: copyKey(head),
        code: copyShader(head),
        bindings: copyBindings(head),
        workgroupBytes: 0,
      });
    }
  });

  it('tile maps of all forms', async () => {
    for (const form of forms) {
      const shader = {code: tileMapShader(form), bindings: TILE_MAP_BINDINGS, workgroupBytes: 0};
      await expectValid(device, {key: tileMapKey(form), ...shader});
    }
  });

  it('schedules of all tiles', async () => {
    const shaders = new Shaders();
    for (const variant of variants(64, 64).filter(isScheduled)) {
      for (const blocks of (['forward', 'dq', 'dkdv'] as const).flatMap((pass) => plansOf(pass, variant))) {
        const key = scheduleKey(blocks);
        shaders.add({key: `${key}_ranges`, code: rangesShader(blocks), bindings: RANGES_BINDINGS, workgroupBytes: 0});
        shaders.add({key: `${key}_order`, code: orderShader(blocks), bindings: ORDER_BINDINGS, workgroupBytes: 0});
      }
    }
    for (const shader of shaders.values()) await expectValid(device, shader);
    // Two tiles of dkdv and two of the passes over queries, causal or not, two passes each.
    expect(shaders.size).to.equal(16);
  });
});
