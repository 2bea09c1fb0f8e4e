/**
 * @file The plan of a WebGPU pass: a pure function from the sizes of a call and the limits of a device to tile sides
 * and workgroup bytes. A shader is generated from its plan and from nothing else.
 *
 * Every pass keeps a block of *rows* and multiplies it by blocks of *columns*, over which it walks:
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

/**
 * Subgroup matrices: all lanes of a subgroup together multiply float16 matrices, M x K by K x N, and accumulate in
 * float32.
 */
export interface MatrixConfig {
  M: number;
  N: number;
  K: number;
  /** Lanes of a subgroup. */
  lanes: number;
}

/** The properties of a device that a plan depends on. */
export interface DeviceCapabilities {
  limits: DeviceLimits;
  /** Whether shaders may use float16. */
  float16: boolean;
  /** The subgroup matrices that shaders may use; null if there are none. */
  matrix: MatrixConfig | null;
  /** Tiles that `autotune` found fastest on the device (src/backends/webgpu/plan/tuned_tiles.ts). */
  tuned?: ReadonlyMap<string, unknown>;
}

/** A WebGPU pass with tiles: the forward pass, the gradient of the queries, or the gradients of keys and values. */
export type Pass = 'forward' | 'dq' | 'dkdv';

/**
 * The properties of a call that a shader depends on besides its tiles. Each field is a constant in the generated code.
 */
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
   * Number of float16 values that represent one number in products on subgroup matrices: 1 in 'float16'; 2 in
   * 'float32', the rounded value and the remainder; 0 where vectors multiply float32. Vector plans ignore this field.
   */
  halvesPerNumber: 0 | 1 | 2;
  /** Whether there are at most FEW_QUERIES query rows, as in decoding. */
  fewQueries: boolean;
}

/**
 * Tile sides of one pass. A thread's register tile has `rows / threadsY` rows and `cols / threadsX` columns, both
 * multiples of 4. Heads of both sides stream through workgroup memory in chunks of `CHUNK` vec4s of channels. Whole
 * heads would leave room for fewer workgroups per core. That costs more than loading the chunks again, at every head
 * size (docs/benchmarks.md, "Tuning notes").
 */
export interface TileShape {
  /** Rows that a workgroup keeps. */
  rows: number;
  /** Columns of each tile that the workgroup walks over. */
  cols: number;
  /** Threads along the columns. */
  threadsX: number;
  /** Threads along the rows. */
  threadsY: number;
}

/** The fields that the plans of all passes share, on vectors and on subgroup matrices. */
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

export interface VectorPlan extends Variant, TileShape, PassShape {}

/** The fields of a plan that the code of a pass depends on. */
export type ShaderPlan = Omit<VectorPlan, 'workgroupBytes' | 'halvesPerNumber'>;

/**
 * The fields of a plan that depend on the number of queries. Few queries fit one block of queries, so every key block
 * has a single tile. Passes over queries then split their keys (src/backends/webgpu/plan/decoding.ts). No pass uses a
 * schedule then: there is nothing to order, and a decoder, whose mask is new at each step, would wait for the passes
 * that make the schedule.
 */
export const queryDependent = (
  pass: Pass,
  {fewQueries, intervals}: Variant,
): Pick<VectorPlan, 'fewQueries' | 'scheduled'> => ({
  fewQueries: fewQueries && pass !== 'dkdv',
  scheduled: intervals && !fewQueries,
});

/** Largest number of query rows for which a pass over queries uses its smallest tile. */
export const FEW_QUERIES = 16;

/** Tiles that are classified per round: two 32-bit words of live bits. */
export const TILES_PER_ROUND = 64;

/** vec4s of channels that a tile holds at a time: equal to threadsX, so that each thread of a row owns one. */
export const CHUNK = 8;

/** Workgroup bytes of a pass, one line per array of the shader (src/backends/webgpu/wgsl/vector). */
function workgroupBytes(pass: Pass, t: TileShape): number {
  const vec4 = 4 * FLOAT;
  const rowTile = CHUNK * (t.rows + 1) * vec4;
  const colTile = CHUNK * (t.cols + 1) * vec4;
  const weights = (t.cols / 4) * (t.rows + 1) * vec4;
  const rowMax = pass === 'forward' ? t.threadsX * t.rows * FLOAT : 0;
  const rowState = pass === 'forward' ? 2 * t.rows * FLOAT : 0;
  // A single number takes the space of four.
  const notFiniteMet = pass === 'dq' ? 0 : vec4;
  const tileBits = 8 * FLOAT;
  return rowTile + colTile + weights + rowMax + rowState + notFiniteMet + tileBits;
}

/**
 * Tile shapes to try, best first. Of 20 shapes on an H100 the first reached the most TFLOP/s at head sizes 64 and 128
 * in every pass (in dkdv at 128, 64 x 64 ties it). The second fits 16 KiB, and twice into the 32 KiB of many smaller
 * devices. Few queries (decoding) use the third, which wastes the fewest rows.
 */
export function candidates(pass: Pass, variant: Pick<Variant, 'fewQueries'>): TileShape[] {
  const large = {rows: 64, cols: 32, threadsX: 8, threadsY: 16};
  const small = {rows: 32, cols: 32, threadsX: 8, threadsY: 8};
  const few = {rows: 16, cols: 32, threadsX: 8, threadsY: 4};
  return variant.fewQueries && pass !== 'dkdv' ? [few] : [large, small];
}

/**
 * Whether the workgroup memory of this many workgroups fits the limit of the device, and the threads of one workgroup
 * fit theirs.
 */
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
export function vectorPlan(
  pass: Pass,
  variant: Variant,
  limits: DeviceLimits,
  shapes = candidates(pass, variant),
): VectorPlan {
  const fit = (workgroups: number) => (t: TileShape) => fits(pass, limits, t, workgroups);
  // Two workgroups on a core hide each other's barriers. WebGPU does not report the memory of a core, so the limit of
  // one workgroup has to stand in for it.
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
