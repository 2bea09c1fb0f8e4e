/**
 * @file The WGSL that every shader starts with: the uniform struct, the constants of its plan and its storage bindings.
 */
import {CHUNK, type ShaderPlan} from '../plan/vector_plan.js';
import {MAP_BLOCK} from '../../../call/constants.js';

/**
 * Uniforms of all passes, in order. Sizes that change from call to call live here, so that a new length never
 * recompiles.
 */
export const UNIFORMS = [
  ['B', 'u32'],
  ['H', 'u32'],
  ['Hkv', 'u32'],
  ['Sq', 'u32'],
  ['Sk', 'u32'],
  /** H / Hkv: query heads that share a key head. */
  ['groupSize', 'u32'],
  /** H / Hm: query heads that share a head of the mask. */
  ['maskGroup', 'u32'],
  /** Mask heads from one batch to the next: Hm, or 0 when the batches share one mask. */
  ['maskBatchStride', 'u32'],
  /** All mask heads: mask batches times Hm. */
  ['maskHeads', 'u32'],
  /** ceil(Sk / MAP_BLOCK): blocks of key columns in the bounds map. */
  ['mapBlocks', 'u32'],
  /** Sk - Sq: the causal triangle is aligned to the bottom right. */
  ['causalOffset', 'i32'],
  /** Head folding and key splits of passes over few queries: src/backends/webgpu/plan/decoding.ts. */
  ['foldedHeads', 'u32'],
  ['splits', 'u32'],
  /**
   * The range of this dispatch: it starts at workgroup firstWorkgroup, has gridX workgroups per row, and ends before
   * work item workEnd.
   */
  ['firstWorkgroup', 'u32'],
  ['gridX', 'u32'],
  ['workEnd', 'u32'],
  // Strides, counted in vec4s where the channels of the tensor are a multiple of 4, else in floats.
  ['qBatch', 'u32'],
  ['qRow', 'u32'],
  ['qHead', 'u32'],
  ['kBatch', 'u32'],
  ['kRow', 'u32'],
  ['kHead', 'u32'],
  ['vBatch', 'u32'],
  ['vRow', 'u32'],
  ['vHead', 'u32'],
  ['oBatch', 'u32'],
  ['oRow', 'u32'],
  ['oHead', 'u32'],
  ['scale', 'f32'],
  /**
   * scale log2(e). Weights are exp2((product - largest product) scaleLog2). The difference comes before the scaling,
   * since it is small where the weight is not. Rounding a large scaled score, once in each pass, would change its
   * weight.
   */
  ['scaleLog2', 'f32'],
  /** -Infinity, which WGSL cannot write as a constant. */
  ['negativeInfinity', 'f32'],
  ['seedLow', 'u32'],
  ['seedHigh', 'u32'],
  /** A pair is dropped if its random word is below this. */
  ['dropThreshold', 'u32'],
  /** 1 / (1 - dropout) */
  ['keepScale', 'f32'],
  // A slice of the heads (src/backends/webgpu/run/slices.ts): its first head, counted over batches and query heads, and
  // its first mask head.
  ['firstHead', 'u32'],
  ['firstMaskHead', 'u32'],
  // The copy pass, in its elements: the length of a row, and the start and the stride of the rows in both buffers.
  ['copyLength', 'u32'],
  ['sourceFirst', 'u32'],
  ['sourceStride', 'u32'],
  ['resultFirst', 'u32'],
  ['resultStride', 'u32'],
] as const;

/** Name and type of a uniform. */
export type Uniform = (typeof UNIFORMS)[number];
export type UniformName = Uniform[0];

/** The uniforms of a dispatch, a slice and a copy: 0 where they are left out. */
type LateUniform =
  | 'firstWorkgroup'
  | 'gridX'
  | 'workEnd'
  | 'firstHead'
  | 'firstMaskHead'
  | 'copyLength'
  | `${'source' | 'result'}${'First' | 'Stride'}`;

export type UniformValues = Record<Exclude<UniformName, LateUniform>, number> & Partial<Record<LateUniform, number>>;

/** One storage binding of a shader. */
export interface Binding {
  name: string;
  /** Element type of the runtime array, for example `vec4f`. */
  type: string;
  access: 'read' | 'read_write';
}

/** Element type that binds a tensor with this many channels: vec4f needs rows that start at multiples of 16 bytes. */
export function elementType(channels: number): 'vec4f' | 'f32' {
  return channels % 4 === 0 ? 'vec4f' : 'f32';
}

/** Declares the bindings. Binding 0 is the uniform buffer if there are `uniforms`; the others follow in order. */
export function declare(bindings: readonly Binding[], uniforms: readonly Uniform[] = UNIFORMS): string {
  const fields = uniforms.map(([name, type]) => `  ${name}: ${type},`).join('\n');
  const first = uniforms.length ? 1 : 0;
  const storage = bindings.map(
    ({name, type, access}, i) => `@group(0) @binding(${first + i}) var<storage, ${access}> ${name}: array<${type}>;`,
  );
  const sizes = `struct Sizes {\n${fields}\n}\n@group(0) @binding(0) var<uniform> u: Sizes;\n`;
  return `${first ? sizes : ''}${storage.join('\n')}\n`;
}

/** Declares the constants of a plan, named as in the glossary. */
export function constants(p: ShaderPlan): string {
  const values: Record<string, number> = {
    ROWS: p.rows,
    COLS: p.cols,
    BLOCK_Q: p.blockQ,
    BLOCK_K: p.blockK,
    ...mapConstants(p),
    CHUNK,
    THREADS: p.threads,
    THREADS_X: p.threadsX,
    THREADS_Y: p.threadsY,
    // Quarter of a side: element 4g + i of a tile lies at i * QUARTER + g, so that neighbouring threads, which own
    // neighbouring groups g of four, read neighbouring vec4s.
    ROW_QUARTER: p.rows / 4,
    COL_QUARTER: p.cols / 4,
    // One more than the side: an odd stride between planes keeps column-wise accesses free of bank conflicts too.
    ROW_STRIDE: p.rows + 1,
    COL_STRIDE: p.cols + 1,
  };
  return declareConstants(values);
}

/** Constants of the bounds map: key columns of a map block, and map blocks of a key block. */
export const mapConstants = ({blockK}: Pick<ShaderPlan, 'blockK'>): Record<string, number> => ({
  MAP_BLOCK,
  MAP_SPAN: Math.ceil(blockK / MAP_BLOCK),
});

/** Declares `values`, and the constants that all passes share. */
export function declareConstants(values: Record<string, number>): string {
  const lines = Object.entries(values).map(([name, value]) => `const ${name} = ${value}u;`);
  return [
    ...lines,
    'const EMPTY = 0u;',
    'const PARTIAL = 1u;',
    'const FULL = 2u;',
    '// The lowest float: no finite score is below it, and WGSL lets an implementation assume that no infinity occurs.',
    'const LOWEST = -3.4028234663852886e38f;',
    'const LN_2 = 0.6931471805599453f;',
    '',
  ].join('\n');
}

/**
 * Declares `isNotFinite`: which numbers are infinite or NaN. It tests bits, since WGSL lets an implementation assume
 * that there are no such numbers. A weight of 0 does not hide them, so partial tiles clear them before products that
 * add up masked pairs too.
 */
export const NOT_FINITE_FUNCTION = `
fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }
`;

/** Declares the workgroup's flag `notFiniteMet`. */
export const NOT_FINITE_MET = `
// Not 0 once a thread has met an infinite or NaN number.
var<workgroup> notFiniteMet: u32;
`;

/**
 * Declares `orNaN`, which turns infinite numbers into NaN, and `logSumExp`, which computes the lse of a row from its
 * largest score, in powers of two, and the sum of its weights. This sum is finite unless a score is NaN. On some
 * implementations `exp2` and `log2` turn NaN into any number.
 */
export const ROW_FUNCTIONS = `
fn orNaN(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  return bitcast<f32>(select(bits, bits | 0x7fc00000u, (bits & 0x7f800000u) == 0x7f800000u));
}

fn logSumExp(most: f32, sum: f32) -> f32 {
  if (sum == 0.0) { return u.negativeInfinity; }
  return select(sum, (most + log2(sum)) * LN_2, (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u);
}
`;

/** Joins `count` generated lines: the unrolled loops of a shader. */
export function unroll(count: number, line: (i: number) => string): string {
  return Array.from({length: count}, (_, i) => line(i)).join('\n');
}
