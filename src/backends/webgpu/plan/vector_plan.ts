/**
 * @file The plan of a WebGPU pass: a pure function from the sizes of a call and the limits of a device to tile sides, workgroup
 * bytes. A shader is generated from its plan and from nothing else.
 *
 * Every pass multiplies a block of *rows*, which it keeps, by blocks of *columns*, which it walks over:
 *
 * | pass    | rows          | columns       | products                                   |
 * |---------|---------------|---------------|--------------------------------------------|
 * | forward | blockQ queries| blockK keys   | S = QKᵀ, O += PV                           |
 * | dq      | blockQ queries| blockK keys   | S = QKᵀ, dP = dO Vᵀ, dQ += dS K            |
 * | dkdv    | blockK keys   | blockQ queries| Sᵀ = KQᵀ, dPᵀ = V dOᵀ, dV += Pᵀ dO, dK += dSᵀ Q |
 */
import {FLOAT} from '../../../call/numbers.js';

/** The limits of a WebGPU device that a plan depends on. */
export interface DeviceLimits {
  /** Bytes of workgroup memory, at least 16384 on every device. */
  maxComputeWorkgroupStorageSize: number;
  maxComputeInvocationsPerWorkgroup: number;
}

/** Subgroup matrices: products of float16 matrices, M x K by K x N, added up in float32, by all lanes of a subgroup together. */
export interface MatrixConfig {
  M: number;
  N: number;
  K: number;
  /** Lanes of a subgroup. */
  lanes: number;
}

/** What a plan depends on of a device. */
export interface DeviceTraits {
  limits: DeviceLimits;
  /** Whether shaders may use float16. */
  float16: boolean;
  /** The subgroup matrices that its shaders may use. */
  matrix: MatrixConfig | null;
  /** Tiles that `autotune` has found fastest on it (src/backends/webgpu/plan/tuned_tiles.ts). */
  tuned?: ReadonlyMap<string, unknown>;
}

/** A WebGPU pass with tiles: the forward, and the gradients of the queries, and of the keys and values. */
export type Pass = 'forward' | 'dq' | 'dkdv';

/** What a shader depends on besides its tiles: each field is a constant in the generated code. */
export interface Variant {
  /** Channels of queries and keys. */
  D: number;
  /** Channels of values. */
  Dv: number;
  causal: boolean;
  /** Whether the mask has row intervals (n > 0). */
  intervals: boolean;
  dropout: boolean;
  /**
   * float16 numbers that stand for a number in products on subgroup matrices: 1 in 'float16', 2, a high and a low half, in 'float32';
   * 0 where vectors multiply float32. A plan on vectors takes any as 0.
   */
  parts: 0 | 1 | 2;
  /** At most FEW_QUERIES query rows, as in decoding. */
  fewQueries: boolean;
}

/**
 * Tile sides of one pass. `rows / threadsY` and `cols / threadsX` are multiples of 4: a thread's register tile. Heads stream through
 * workgroup memory in chunks of `CHUNK` vec4s of channels, rows and columns alike: keeping whole heads there costs more (fewer
 * workgroups on a core) than loading them again does, at every head size (docs/benchmarks.md, "Tuning notes").
 */
export interface TileShape {
  /** Rows that a workgroup keeps. */
  rows: number;
  /** Columns of a tile that it walks over. */
  cols: number;
  /** Threads along the columns. */
  threadsX: number;
  /** Threads along the rows. */
  threadsY: number;
}

/** What the plans of all passes have, on vectors and on subgroup matrices. */
export interface PassShape {
  pass: Pass;
  rows: number;
  cols: number;
  blockQ: number;
  blockK: number;
  threads: number;
  /** Bytes of workgroup memory that the shader declares. */
  workgroupBytes: number;
  /** Whether row blocks start in the order of a schedule of the mask (src/backends/webgpu/wgsl/mask/schedule.ts). */
  scheduled: boolean;
}

export interface PassPlan extends Variant, TileShape, PassShape {}

/** What the code of a pass depends on. */
export type ShaderPlan = Omit<PassPlan, 'workgroupBytes' | 'parts'>;

/**
 * The parts of a plan that depend on how many queries there are. A few queries are one block of queries, one tile of each key block: passes
 * over queries split their keys instead (src/backends/webgpu/plan/decoding.ts), and no pass takes a schedule. There is nothing to order, and a decoder,
 * which has a new mask at each step, would wait for the passes that make one.
 */
export const queryDependent = (
  pass: Pass,
  {fewQueries, intervals}: Variant,
): Pick<PassPlan, 'fewQueries' | 'scheduled'> => ({
  fewQueries: fewQueries && pass !== 'dkdv',
  scheduled: intervals && !fewQueries,
});

/** Query rows up to which a pass over queries takes its smallest tile. */
export const FEW_QUERIES = 16;

/** Tiles that one classification round covers: two 32-bit words of live bits. */
export const TILES_PER_ROUND = 64;

/** vec4s of channels that a tile holds at a time: as many as threadsX, so that each thread of a row owns one. */
export const CHUNK = 8;

/** Workgroup bytes of a pass, one line an array of the shader (src/webgpu/wgsl). */
function workgroupBytes(pass: Pass, t: TileShape): number {
  const vec4 = 4 * FLOAT;
  const rowTile = CHUNK * (t.rows + 1) * vec4;
  const colTile = CHUNK * (t.cols + 1) * vec4;
  const weights = (t.cols / 4) * (t.rows + 1) * vec4;
  const rowMax = pass === 'forward' ? t.threadsX * t.rows * FLOAT : 0;
  const rowState = pass === 'forward' ? 2 * t.rows * FLOAT : 0;
  // A single float takes the room of four.
  const notFiniteMet = pass === 'dq' ? 0 : vec4;
  const tileBits = 8 * FLOAT;
  return rowTile + colTile + weights + rowMax + rowState + notFiniteMet + tileBits;
}

/**
 * Tile shapes to try, best first. On an H100, of 20 shapes, the first reached the most TFLOP/s at head sizes 64 and 128 in every
 * pass (in dkdv at 128, 64 x 64 ties it). The second fits 16 KiB, and twice into the 32 KiB of many smaller devices. A few
 * queries (decoding) take the third, which wastes fewest rows.
 */
export function candidates(pass: Pass, variant: Pick<Variant, 'fewQueries'>): TileShape[] {
  const large = {rows: 64, cols: 32, threadsX: 8, threadsY: 16};
  const small = {rows: 32, cols: 32, threadsX: 8, threadsY: 8};
  const few = {rows: 16, cols: 32, threadsX: 8, threadsY: 4};
  return variant.fewQueries && pass !== 'dkdv' ? [few] : [large, small];
}

/** Whether so many workgroups of a pass fit the device at once. */
export function fits(pass: Pass, limits: DeviceLimits, t: TileShape, workgroups = 1): boolean {
  return (
    workgroups * workgroupBytes(pass, t) <= limits.maxComputeWorkgroupStorageSize &&
    t.threadsX * t.threadsY <= limits.maxComputeInvocationsPerWorkgroup
  );
}

/**
 * Chooses the tiles of a pass.
 *
 * @throws Error if no tile fits the device, naming the bytes that the smallest needs.
 */
export function plan(pass: Pass, variant: Variant, limits: DeviceLimits, shapes = candidates(pass, variant)): PassPlan {
  const fit = (workgroups: number) => (t: TileShape) => fits(pass, limits, t, workgroups);
  // Two workgroups on a core hide each other's barriers; the limit of one is all that WebGPU tells of the core's memory.
  const shape = shapes.find(fit(2)) ?? shapes.find(fit(1));
  if (!shape) {
    const least = Math.min(...shapes.map((t) => workgroupBytes(pass, t)));
    throw new Error(
      `flashMaskAttention: the ${pass} pass at D ${variant.D}, Dv ${variant.Dv} needs ${least} bytes of workgroup memory, ` +
        `got a device with ${limits.maxComputeWorkgroupStorageSize}. Request the adapter's limits when you create the device.`,
    );
  }
  const [blockQ, blockK] = pass === 'dkdv' ? [shape.cols, shape.rows] : [shape.rows, shape.cols];
  return {
    ...variant,
    ...queryDependent(pass, variant),
    ...shape,
    pass,
    blockQ,
    blockK,
    threads: shape.threadsX * shape.threadsY,
    workgroupBytes: workgroupBytes(pass, shape),
  };
}
