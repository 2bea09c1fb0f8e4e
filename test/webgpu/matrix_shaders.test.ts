/**
 * @file Every shader on subgroup matrices that `matrixPlan()` can choose, and those that make its float16 copies, compiled on Dawn's null
 * adapter.
 */
import {expect} from 'chai';
import {matrixCandidates, type MatrixPlan, matrixPlan} from '../../src/backends/webgpu/plan/matrix_plan.js';
import type {DeviceTraits, MatrixConfig, Pass, Variant} from '../../src/backends/webgpu/plan/vector_plan.js';
import {matrixTilesToTry} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {bindingsOf, shaderOf} from '../../src/backends/webgpu/passes/attention_pass.js';
import {MATRIX_FEATURES} from '../../src/backends/webgpu/device/matrix_probe.js';
import {
  halvesBindings,
  halvesKey,
  halvesShader,
  magnitudeBindings,
  magnitudeKey,
  magnitudeShader,
} from '../../src/backends/webgpu/wgsl/matrix/float16_copies.js';
import {
  ORDER_BINDINGS,
  orderShader,
  RANGES_BINDINGS,
  rangesShader,
  scheduleKey,
} from '../../src/backends/webgpu/wgsl/mask/schedule.js';
import {expectValid, nullDevice, problemOf, type Shader, Shaders} from '../support/null_device.js';

/** Those of NVIDIA; the smallest, on subgroups of software and of Apple. */
const configs: MatrixConfig[] = [
  {M: 16, N: 16, K: 16, lanes: 32},
  {M: 8, N: 8, K: 8, lanes: 8},
  {M: 8, N: 8, K: 8, lanes: 32},
];

/** Aligned, odd, the least, the most, and different for keys and values. */
const channels = [[1, 1], [3, 20], [4, 4], [33, 64], [64, 64], [80, 33], [128, 128]] as const; // prettier-ignore

const passes: Pass[] = ['forward', 'dq', 'dkdv'];
const booleans = [false, true];

function variants(D: number, Dv: number): Variant[] {
  return booleans.flatMap((causal) =>
    booleans.flatMap((intervals) =>
      booleans.flatMap((dropout) =>
        ([1, 2] as const).map((parts) => ({D, Dv, causal, intervals, dropout, parts, fewQueries: false})),
      ),
    ),
  );
}

const device = (matrix: MatrixConfig): DeviceTraits => ({
  limits: {maxComputeWorkgroupStorageSize: Infinity, maxComputeInvocationsPerWorkgroup: Infinity},
  float16: true,
  matrix,
});

/** Each plan that some device with these matrices would be given: with all candidate tiles of the pass, not only the first. */
function plansOf(pass: Pass, variant: Variant, matrix: MatrixConfig): MatrixPlan[] {
  const first = matrixPlan(pass, variant, device(matrix))!;
  return matrixCandidates(pass, matrix, first).flatMap(
    (tile) => matrixPlan(pass, variant, device(matrix), [tile]) ?? [],
  );
}

/** The same, with the tiles that autotune may choose. */
const tunedPlansOf = (pass: Pass, variant: Variant, matrix: MatrixConfig): MatrixPlan[] =>
  matrixTilesToTry(matrixPlan(pass, variant, device(matrix))!).flatMap(
    (tile) => matrixPlan(pass, variant, device(matrix), [tile]) ?? [],
  );

const shaderFor = (p: MatrixPlan): Shader => ({
  key: p.key,
  code: shaderOf(p),
  bindings: bindingsOf(p),
  workgroupBytes: p.workgroupBytes,
});

const BALLAST = 16384;

/** The shader with so much more workgroup memory that the null device refuses it, and says how much there is. */
function withBallast(shader: Shader): Shader {
  const code = shader.code.replace(/^fn main\(.*\) \{$/m, (start) => `${start}\n  ballast[0] = vec4u();`);
  return {...shader, code: `${code}\nvar<workgroup> ballast: array<vec4u, ${BALLAST / 16}>;\n`};
}

describe('shaders on subgroup matrices', () => {
  let gpu: GPUDevice;

  before(async () => {
    gpu = await nullDevice(...MATRIX_FEATURES);
  });

  after(() => gpu.destroy());

  async function expectCompiles({key, code}: Shader): Promise<void> {
    gpu.pushErrorScope('validation');
    const {messages} = await gpu.createShaderModule({label: key, code}).getCompilationInfo();
    await gpu.popErrorScope();
    expect(messages.map(({message}) => message).join('\n'), key).to.equal('');
  }

  /** Bytes of workgroup memory are what the plan counts; where the plan fits the null device, bindings are those of the shader. */
  async function expectBytes(plan: MatrixPlan): Promise<void> {
    if (plan.threads > gpu.limits.maxComputeInvocationsPerWorkgroup) return;
    const shader = shaderFor(plan);
    expect(await problemOf(gpu, withBallast(shader)), shader.key).to.include(
      `workgroup storage (${shader.workgroupBytes + BALLAST} bytes) is larger`,
    );
    // Its subgroups may have up to 128 lanes, and must be whole.
    if (plan.threads % 128 === 0) await expectValid(gpu, shader);
  }

  it('are refused when they are wrong', async () => {
    const [plan] = plansOf('forward', variants(64, 64)[0], configs[0]);
    const shader = shaderFor(plan);
    const wrong = {
      ...shader,
      code: shader.code.replace('subgroupMatrixMultiplyAccumulate(', 'subgroupMatrixMultiply('),
    };
    expect(wrong.code).to.not.equal(shader.code);
    expect(await problemOf(gpu, wrong)).to.match(/subgroupMatrixMultiply/);
    expect(await problemOf(gpu, {...withBallast(shader), bindings: []})).to.not.equal('');
  });

  for (const matrix of configs) {
    const name = `${matrix.M} x ${matrix.N} x ${matrix.K}, ${matrix.lanes} lanes`;
    for (const [D, Dv] of channels) {
      it(`${name}: D ${D}, Dv ${Dv}`, async () => {
        const shaders = new Shaders();
        for (const variant of variants(D, Dv)) {
          for (const pass of passes)
            plansOf(pass, variant, matrix)
              .map(shaderFor)
              .forEach((shader) => shaders.add(shader));
        }
        for (const shader of shaders.values()) await expectCompiles(shader);
        const bare = variants(D, Dv).filter(({causal, intervals, dropout}) => !causal && !intervals && !dropout);
        for (const variant of bare) {
          for (const plan of passes.flatMap((pass) => plansOf(pass, variant, matrix))) await expectBytes(plan);
        }
      });
    }

    it(`${name}: tiles of autotune`, async () => {
      const everything = variants(64, 128).filter(({causal, intervals, dropout}) => causal && intervals && dropout);
      for (const variant of everything) {
        for (const plan of passes.flatMap((pass) => tunedPlansOf(pass, variant, matrix))) {
          await expectCompiles(shaderFor(plan));
          await expectBytes(plan);
        }
      }
    });
  }

  it('schedules of their tiles', async () => {
    const shaders = new Shaders();
    for (const variant of variants(128, 128).filter(({intervals}) => intervals)) {
      for (const matrix of configs) {
        for (const blocks of passes.flatMap((pass) => plansOf(pass, variant, matrix))) {
          const key = scheduleKey(blocks);
          shaders.add({key: `${key}_ranges`, code: rangesShader(blocks), bindings: RANGES_BINDINGS, workgroupBytes: 0});
          shaders.add({key: `${key}_order`, code: orderShader(blocks), bindings: ORDER_BINDINGS, workgroupBytes: 0});
        }
      }
    }
    for (const shader of shaders.values()) await expectValid(gpu, shader);
  });

  it('float16 copies', async () => {
    const shaders = new Shaders();
    const masked = [false, true].flatMap((causal) => [false, true].map((intervals) => [causal, intervals] as const));
    for (const names of [['q', 'k', 'v'], ['dOut']] as const) {
      for (const [D, Dv] of channels) {
        for (const parts of [1, 2] as const) {
          for (const padded of configs.map((matrix) => plansOf('forward', variants(D, Dv)[0], matrix)[0].channels)) {
            for (const [causal, intervals] of masked) {
              const v = {names, D, Dv, padded, parts, causal, intervals};
              const magnitude = {key: magnitudeKey(v), code: magnitudeShader(v), bindings: magnitudeBindings(v)};
              const halves = {key: halvesKey(v), code: halvesShader(v), bindings: halvesBindings(v)};
              shaders.add({...magnitude, workgroupBytes: 0});
              shaders.add({...halves, workgroupBytes: 0});
            }
          }
        }
      }
    }
    for (const shader of shaders.values()) await expectValid(gpu, shader);
  });
});
