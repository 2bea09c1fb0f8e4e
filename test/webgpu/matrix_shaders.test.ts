/**
 * @file Compiles on Dawn's null adapter every shader on subgroup matrices that `matrixPlan()` can choose, and the
 * shaders that write its float16 copies.
 */
import {expect} from 'chai';
import {loadMatrixCode} from '../../src/backends/webgpu/device/matrix_code.js';
import {
  matrixCandidates,
  type MatrixPlan,
  matrixPlan,
  matrixTilesToTry,
} from '../../src/backends/webgpu/plan/matrix_plan.js';
import type {DeviceCapabilities, MatrixConfig, Pass, Variant} from '../../src/backends/webgpu/plan/vector_plan.js';
import {shaderOf} from '../../src/backends/webgpu/passes/attention_pass.js';
import {MATRIX_FEATURES} from '../../src/backends/webgpu/device/matrix_probe.js';
import type {Code} from '../../src/backends/webgpu/run/pipelines.js';
import {scheduleOf, scheduleOrder, scheduleRanges} from '../../src/backends/webgpu/wgsl/mask/schedule.js';
import {type CopiesVariant, float16Copies, magnitude} from '../../src/backends/webgpu/wgsl/matrix/float16_copies.js';
import {specialize} from '../../src/backends/webgpu/wgsl/shader.js';
import {expectValid, nullDevice, problemOf} from '../support/null_device.js';
import {pairwise} from '../support/pairwise.js';

loadMatrixCode();

/** NVIDIA's matrices; the smallest ones, on subgroups of software adapters and of Apple GPUs. */
const configs: MatrixConfig[] = [
  {M: 16, N: 16, K: 16, lanes: 32},
  {M: 8, N: 8, K: 8, lanes: 8},
  {M: 8, N: 8, K: 8, lanes: 32},
];

/** Aligned, odd, smallest, largest, and different for keys and values. */
const channels = [[1, 1], [3, 20], [4, 4], [33, 64], [64, 64], [80, 33], [128, 128]] as const; // prettier-ignore

const passes: Pass[] = ['forward', 'dq', 'dkdv'];
const booleans = [false, true];

function variants(D: number, Dv: number): Variant[] {
  return booleans.flatMap((causal) =>
    booleans.flatMap((intervals) =>
      booleans.flatMap((dropout) =>
        ([1, 2] as const).map((halvesPerNumber) => ({
          D,
          Dv,
          causal,
          intervals,
          dropout,
          halvesPerNumber,
          fewQueries: false,
        })),
      ),
    ),
  );
}

const device = (matrix: MatrixConfig): DeviceCapabilities => ({
  limits: {maxComputeWorkgroupStorageSize: Infinity, maxComputeInvocationsPerWorkgroup: Infinity},
  float16: true,
  matrix,
});

/** Each plan that some device with these matrices can get: with all candidate tiles of the pass, not only the first. */
function plansOf(pass: Pass, variant: Variant, matrix: MatrixConfig): MatrixPlan[] {
  const first = matrixPlan(pass, variant, device(matrix))!;
  return matrixCandidates(pass, matrix, first).flatMap(
    (tile) => matrixPlan(pass, variant, device(matrix), [tile]) ?? [],
  );
}

/** The plans with the tiles that autotune may choose. */
const tunedPlansOf = (pass: Pass, variant: Variant, matrix: MatrixConfig): MatrixPlan[] =>
  matrixTilesToTry(matrixPlan(pass, variant, device(matrix))!).flatMap(
    (tile) => matrixPlan(pass, variant, device(matrix), [tile]) ?? [],
  );

/** The fields that decide a plan; the others follow from them. */
const fieldsOf = (p: MatrixPlan): object => {
  const {pass, D, Dv, causal, intervals, dropout, halvesPerNumber, matrix, subgroups, bandRows, cols} = p;
  const tiles = [subgroups, bandRows, cols];
  return {pass, heads: [D, Dv], causal, intervals, dropout, halvesPerNumber, matrix: Object.values(matrix), tiles};
};

const BALLAST = 16384;

/** The shader with enough extra workgroup memory that the null device refuses it; the error states the total. */
function withBallast(shader: Code): Code {
  const code = shader.code.replace(/^fn main\(.*\) \{$/m, (start) => `${start}\n  ballast[0] = vec4u();`);
  return {
    key: shader.key,
    bindings: shader.bindings,
    code: `${code}\nvar<workgroup> ballast: array<vec4u, ${BALLAST / 16}>;\n`,
  };
}

describe('shaders on subgroup matrices', () => {
  let gpu: GPUDevice;

  before(async () => {
    gpu = await nullDevice(...MATRIX_FEATURES);
  });

  after(() => gpu.destroy());

  async function expectCompiles({key, code}: Code): Promise<void> {
    gpu.pushErrorScope('validation');
    const {messages} = await gpu.createShaderModule({label: key, code}).getCompilationInfo();
    await gpu.popErrorScope();
    expect(messages.map(({message}) => message).join('\n'), key).to.equal('');
  }

  /**
   * Workgroup memory has the bytes that the plan counts. If the plan fits the null device, its bindings are the
   * shader's.
   */
  async function expectBytes(plan: MatrixPlan): Promise<void> {
    if (plan.threads > gpu.limits.maxComputeInvocationsPerWorkgroup) return;
    const shader = shaderOf(plan);
    expect(await problemOf(gpu, withBallast(shader)), shader.key).to.include(
      `workgroup storage (${plan.workgroupBytes + BALLAST} bytes) is larger`,
    );
    // The null device's subgroups may have up to 128 lanes and must be whole.
    if (plan.threads % 128 === 0) await expectValid(gpu, shader, plan.workgroupBytes);
  }

  it('are refused when they are wrong', async () => {
    const [plan] = plansOf('forward', variants(64, 64)[0], configs[0]);
    const shader = shaderOf(plan);
    const wrong = {
      key: 'wrong',
      bindings: shader.bindings,
      code: shader.code.replace('subgroupMatrixMultiplyAccumulate(', 'subgroupMatrixMultiply('),
    };
    expect(wrong.code).to.not.equal(shader.code);
    expect(await problemOf(gpu, wrong)).to.match(/subgroupMatrixMultiply/);
    expect(await problemOf(gpu, {...withBallast(shader), bindings: []})).to.not.equal('');
  });

  const plans = configs.flatMap((matrix) =>
    channels.flatMap(([D, Dv]) =>
      variants(D, Dv).flatMap((variant) => passes.flatMap((pass) => plansOf(pass, variant, matrix))),
    ),
  );

  it('forward, dq and dkdv', async () => {
    for (const p of pairwise(plans, fieldsOf)) await expectCompiles(shaderOf(p));
  });

  it('take the bytes of workgroup memory that plans count', async () => {
    const bare = plans.filter(({causal, intervals, dropout}) => !causal && !intervals && !dropout);
    for (const p of pairwise(bare, fieldsOf)) await expectBytes(p);
  });

  it('with the tiles of autotune', async () => {
    const everything = variants(64, 128).filter(({causal, intervals, dropout}) => causal && intervals && dropout);
    const tuned = configs.flatMap((matrix) =>
      everything.flatMap((variant) => passes.flatMap((pass) => tunedPlansOf(pass, variant, matrix))),
    );
    for (const p of pairwise(tuned, fieldsOf)) {
      await expectCompiles(shaderOf(p));
      await expectBytes(p);
    }
  });

  it('schedules of their tiles', async () => {
    const shaders = new Set(
      plans
        .filter(({scheduled}) => scheduled)
        .flatMap((p) => [scheduleRanges, scheduleOrder].map((shader) => specialize(shader, scheduleOf(p)))),
    );
    for (const shader of shaders) await expectValid(gpu, shader);
  });

  it('float16 copies', async () => {
    const groups: readonly CopiesVariant['names'][] = [['q', 'k', 'v'], ['dOut']];
    const copies = groups.flatMap((names) =>
      plans.map(({D, Dv, channels: padded, halvesPerNumber, causal, intervals}) => ({
        ...{names, D, Dv, padded, halvesPerNumber, causal, intervals},
      })),
    );
    for (const v of pairwise(copies, ({D, Dv, ...v}) => ({...v, heads: [D, Dv]}))) {
      await expectValid(gpu, specialize(magnitude, v));
      await expectValid(gpu, specialize(float16Copies, v));
    }
  });
});
