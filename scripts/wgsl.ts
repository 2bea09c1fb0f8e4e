/**
 * @file `npm run wgsl -- NAME [FIELD=VALUE | FLAG ...]` prints a shader, `npm run wgsl` lists them all. `--update`
 * writes the golden files of test/webgpu/golden, in which a review sees the effect of a change in a generator.
 */
import {mkdirSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {matrixPlan} from '../src/backends/webgpu/plan/matrix_plan.js';
import {type MatrixConfig, type Variant, vectorPlan} from '../src/backends/webgpu/plan/vector_plan.js';
import {allShaders} from '../src/backends/webgpu/wgsl/all_shaders.js';
import {type Shader, type ShaderVariant, specialize} from '../src/backends/webgpu/wgsl/shader.js';

/** Fields of a variant by name. */
export type Fields = Record<string, unknown>;

const GOLDEN = fileURLToPath(new URL('../test/webgpu/golden/', import.meta.url));

const LIMITS = {maxComputeWorkgroupStorageSize: 32768, maxComputeInvocationsPerWorkgroup: 256};
/** The matrix configuration of NVIDIA's GPUs. */
const MATRIX: MatrixConfig = {M: 16, N: 16, K: 16, lanes: 32};

/** Properties of a call with packed documents, and of a layer, on which shaders depend besides their plans. */
const CALL = {
  ...{D: 64, Dv: 64, causal: true, intervals: true, dropout: false, fewQueries: false, halvesPerNumber: 1},
  ...{n: 1, ofKeys: false, lseGradient: false, rounded: false, element: 'vec4f', names: ['q', 'k', 'v'], padded: 64},
  ...{channels: 64, H: 2, epsilon: 1e-5, back: false, again: false},
};

/** A shader and the values of its fields for that call; the fields in `given` replace the usual ones. */
export function exampleOf(name: string, given: Fields = {}): {shader: Shader<Fields>; values: Fields} {
  const shader = allShaders.find((one) => one.name === name) as Shader<Fields> | undefined;
  if (!shader) throw new Error(`wgsl: NAME must be among ${namesOf(allShaders)}, got '${name}'. Correct the spelling.`);
  const unknown = Object.keys(given).find((field) => !(field in shader.fields) && !(field in CALL));
  if (unknown !== undefined) {
    const fields = Object.keys(shader.fields).join(', ');
    throw new Error(`wgsl: fields of ${name} must be among ${fields}, got '${unknown}'. Correct the spelling.`);
  }
  const call = {...CALL, Dv: given['D'] ?? CALL.Dv, ...given};
  return {shader, values: {...call, ...MATRIX, ...planOf(name, call as unknown as Variant), ...given}};
}

/** The variant of a shader for that call. */
export function variantFor(name: string, given: Fields = {}): ShaderVariant {
  const {shader, values} = exampleOf(name, given);
  return specialize(shader, values);
}

/** The plan of the pass that a shader belongs to. The schedules are those of the forward pass, or of dkdv. */
function planOf(name: string, variant: Variant): object {
  const pass = /forward|dq|dkdv/.exec(name)?.[0] ?? ('ofKeys' in variant && variant.ofKeys ? 'dkdv' : 'forward');
  const device = {limits: {...LIMITS, maxComputeInvocationsPerWorkgroup: 1024}, float16: true, matrix: MATRIX};
  const onMatrices = name.startsWith('matrix_') ? matrixPlan(pass as 'dq', variant, device) : null;
  return onMatrices ?? vectorPlan(pass as 'dq', variant, LIMITS);
}

const namesOf = (shaders: readonly {name: string}[]): string => shaders.map(({name}) => name).join(', ');

const SMALL = {D: 16, Dv: 16};

/** Each shader, and the variants whose code differs most. Their text is kept in test/webgpu/golden. */
export const EXAMPLES: readonly [name: string, fields: Fields][] = [
  ...allShaders.map(({name}): [string, Fields] => [name, SMALL]),
  ['forward', {D: 6, Dv: 3, causal: false, intervals: false}],
  ['forward', {...SMALL, fewQueries: true, dropout: true}],
  ['dq', {...SMALL, fewQueries: true}],
  ['dkdv', {...SMALL, dropout: true, intervals: false}],
  ['matrix_forward', {...SMALL, halvesPerNumber: 2, dropout: true}],
  ['matrix_dkdv', {...SMALL, halvesPerNumber: 2, causal: false}],
  ['delta', {Dv: 3, lseGradient: true, rounded: true}],
  ['bounds_map', {causal: false, n: 2}],
  ['schedule_ranges', {ofKeys: true}],
  ['rms_norm', {channels: 3000, epsilon: 1e-7}],
  ['rms_norm_grad', {channels: 6}],
  ['gamma_grad', {channels: 6, again: true}],
  ['rotate', {D: 6, back: true}],
  ['gated_unit', {element: 'f32'}],
  ['magnitude', {causal: false, intervals: false, names: ['dOut']}],
];

/** The golden files and their contents. */
export function goldens(): {file: string; code: string}[] {
  return EXAMPLES.map(([name, fields]) => {
    const {key, code} = variantFor(name, fields);
    const flags = Object.entries(fields).map(([field, value]) =>
      value === true ? field : `${field}_${String(value)}`,
    );
    return {file: `${[name, ...flags].join('-')}.wgsl`, code: `// ${key}\n${code}`};
  });
}

function updateGoldens(): void {
  rmSync(GOLDEN, {recursive: true, force: true});
  mkdirSync(GOLDEN, {recursive: true});
  for (const {file, code} of goldens()) writeFileSync(join(GOLDEN, file), code);
}

/** `D=64` is a number, `names=q,k` a list, `causal` true and `causal=false` false. */
function readField(text: string): [string, unknown] {
  const [name, value = 'true'] = text.split('=');
  if (value === 'true' || value === 'false') return [name, value === 'true'];
  if (value.includes(',') || name === 'names') return [name, value.split(',')];
  return [name, Number.isNaN(Number(value)) ? value : Number(value)];
}

function main([name, ...fields]: string[]): void {
  if (name === '--update') {
    updateGoldens();
    return;
  }
  if (name === undefined) {
    for (const {name: shader, fields: known} of allShaders) console.log(`${shader}: ${Object.keys(known).join(' ')}`);
    return;
  }
  const {key, code} = variantFor(name, Object.fromEntries(fields.map(readField)));
  console.log(`// ${key}\n${code}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(process.argv.slice(2));
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
