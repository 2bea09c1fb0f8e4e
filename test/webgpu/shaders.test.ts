/**
 * @file Compiles and validates on Dawn's null adapter, on a device without any feature, every shader on vectors that
 * `plan()` can choose, and their helper shaders. matrix_shaders.test.ts has those on subgroup matrices.
 */
import {expect} from 'chai';
import {
  type Pass,
  type VectorPlan,
  type Variant,
  candidates,
  vectorPlan,
} from '../../src/backends/webgpu/plan/vector_plan.js';
import {tilesToTry} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {shaderOf} from '../../src/backends/webgpu/passes/attention_pass.js';
import {boundsMap} from '../../src/backends/webgpu/wgsl/mask/bounds_map.js';
import {scheduleOf, scheduleOrder, scheduleRanges} from '../../src/backends/webgpu/wgsl/mask/schedule.js';
import {specialize, type ShaderVariant} from '../../src/backends/webgpu/wgsl/shader.js';
import {gammaGrad} from '../../src/backends/webgpu/wgsl/layers/gamma_grad.js';
import {gatedUnit, gatedUnitGrad} from '../../src/backends/webgpu/wgsl/layers/gated_unit.js';
import {rmsNorm, rmsNormGrad} from '../../src/backends/webgpu/wgsl/layers/rms_norm.js';
import {rotate} from '../../src/backends/webgpu/wgsl/layers/rotate.js';
import {combineDq, combineOut} from '../../src/backends/webgpu/wgsl/vector/combine.js';
import {copyRows} from '../../src/backends/webgpu/wgsl/vector/copy.js';
import {delta} from '../../src/backends/webgpu/wgsl/vector/delta.js';
import {forms} from '../support/cases.js';
import {expectValid, nullDevice, problemOf} from '../support/null_device.js';
import {pairwise} from '../support/pairwise.js';

/** Aligned, odd, smallest, largest, and different for keys and values. */
const channels = [
  [1, 1], [3, 20], [4, 4], [33, 64], [64, 64], [80, 33], [128, 128], [128, 256], [192, 128], [256, 256],
] as const; // prettier-ignore

const booleans = [false, true];
const passes: readonly Pass[] = ['forward', 'dq', 'dkdv'];

function variants(D: number, Dv: number): Variant[] {
  return booleans.flatMap((causal) =>
    booleans.flatMap((intervals) =>
      booleans.flatMap((dropout) =>
        booleans.map((fewQueries) => ({D, Dv, causal, intervals, dropout, halvesPerNumber: 0 as const, fewQueries})),
      ),
    ),
  );
}

/** The lowest limits that a WebGPU device may have. */
const leastLimits = {maxComputeWorkgroupStorageSize: 16384, maxComputeInvocationsPerWorkgroup: 256};
const anyLimits = {maxComputeWorkgroupStorageSize: Infinity, maxComputeInvocationsPerWorkgroup: Infinity};

/**
 * Head sizes for which all tiles that autotune may choose are compiled; for others only the tiles that a plan chooses
 * itself.
 */
const withEveryTile = ['33, 64', '128, 128'];

/** Each plan that some device can get: with all candidate tiles of the pass, not only the first. */
function plansOf(pass: Pass, variant: Variant): VectorPlan[] {
  const every = withEveryTile.includes(`${variant.D}, ${variant.Dv}`);
  const shapes = every ? tilesToTry(pass, variant) : candidates(pass, variant);
  return shapes.map((shape) => vectorPlan(pass, variant, anyLimits, [shape]));
}

/** The fields that decide a plan; the others follow from them. */
const fieldsOf = (p: VectorPlan): object => {
  const {pass, D, Dv, causal, intervals, dropout, fewQueries, rows, cols, threadsX, threadsY} = p;
  return {pass, heads: [D, Dv], causal, intervals, dropout, fewQueries, tiles: [rows, cols, threadsX, threadsY]};
};

describe('shaders', () => {
  let device: GPUDevice;

  before(async () => {
    device = await nullDevice();
  });

  after(() => device.destroy());

  it('are refused when they are wrong', async () => {
    const error = await problemOf(device, {
      key: 'wrong',
      code: '@compute @workgroup_size(1) fn main() { x[0] = y; }',
      bindings: [{name: 'x', type: 'f32', access: 'read_write'}],
    });
    expect(error).to.match(/unresolved value 'x'/);
  });

  it('forward, dq and dkdv', async () => {
    const plans = channels.flatMap(([D, Dv]) =>
      variants(D, Dv).flatMap((variant) => passes.flatMap((pass) => plansOf(pass, variant))),
    );
    for (const p of pairwise(plans, fieldsOf)) await expectValid(device, shaderOf(p), p.workgroupBytes);
  });

  it('fit 16 KiB of workgroup memory at every head size', () => {
    for (const [D, Dv] of channels) {
      for (const variant of variants(D, Dv)) {
        for (const pass of passes) expect(vectorPlan(pass, variant, leastLimits).workgroupBytes).to.be.at.most(16384);
      }
    }
  });

  const validate = async (shaders: Iterable<ShaderVariant>): Promise<void> => {
    for (const shader of new Set(shaders)) await expectValid(device, shader);
  };

  it('delta', async () => {
    const rows = channels.flatMap(([, Dv]) =>
      booleans.flatMap((lseGradient) => booleans.map((rounded) => ({Dv, lseGradient, rounded}))),
    );
    await validate(rows.map((row) => specialize(delta, row)));
  });

  it('sums of splits, and copies of slices', async () => {
    const ofElements = [combineDq, copyRows].flatMap((shader) =>
      (['f32', 'vec4f'] as const).map((element) => specialize(shader, {element})),
    );
    await validate([...ofElements, ...channels.map(([, Dv]) => specialize(combineOut, {Dv}))]);
  });

  it('layers of few, odd and many channels', async () => {
    const elements = (['f32', 'vec4f'] as const).map((element) => ({element}));
    await validate([
      ...elements.flatMap((v) => [specialize(gatedUnit, v), specialize(gatedUnitGrad, v)]),
      ...[1, 2, 4, 576, 1030, 2049, 16384].flatMap((C) => [
        ...[0, 1e-7, 1e-5, 0.1].map((epsilon) => specialize(rmsNorm, {channels: C, epsilon})),
        specialize(rmsNormGrad, {channels: C}),
        ...booleans.map((again) => specialize(gammaGrad, {channels: C, again})),
      ]),
      ...[2, 6, 64, 128].flatMap((D) => booleans.map((back) => specialize(rotate, {H: 3, D, back}))),
    ]);
  });

  it('bounds maps of all forms', async () => {
    await validate(forms.map((form) => specialize(boundsMap, form)));
  });

  it('schedules of all tiles', async () => {
    const scheduled = variants(64, 64)
      .flatMap((variant) => passes.flatMap((pass) => plansOf(pass, variant)))
      .filter((p) => p.scheduled);
    const shaders = new Set(
      scheduled.flatMap((p) => [scheduleRanges, scheduleOrder].map((shader) => specialize(shader, scheduleOf(p)))),
    );
    await validate(shaders);
    // Two tiles of dkdv and two of the passes over queries, causal or not, with two shaders each.
    expect(shaders.size).to.equal(16);
  });
});
