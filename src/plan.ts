/**
 * @file The plan of a WebGPU pass: a pure function from the sizes of a call and the limits of a device to tile sides, workgroup
 * bytes and the key of the compiled shader. A shader is generated from its plan and from nothing else.
 *
 * Every pass multiplies a block of *rows*, which it keeps, by blocks of *columns*, which it walks over:
 *
 * | pass    | rows          | columns       | products                                   |
 * |---------|---------------|---------------|--------------------------------------------|
 * | forward | blockQ queries| blockK keys   | S = QKᵀ, O += PV                           |
 * | dq      | blockQ queries| blockK keys   | S = QKᵀ, dP = dO Vᵀ, dQ += dS K            |
 * | dkdv    | blockK keys   | blockQ queries| Sᵀ = KQᵀ, dPᵀ = V dOᵀ, dV += Pᵀ dO, dK += dSᵀ Q |
 */

/** The limits of a WebGPU device that a plan depends on. */
export interface DeviceLimits {
  /** Bytes of workgroup memory, at least 16384 on every device. */
  maxComputeWorkgroupStorageSize: number;
  maxComputeInvocationsPerWorkgroup: number;
}

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
  /** The products read float16 (precision 'float16'; the device has shader-f16); else float32. */
  half: boolean;
}

/** Tile sides of one pass. `rows / threadsY` and `cols / threadsX` are multiples of 4: a thread's register tile. */
export interface TileShape {
  rows: number;
  cols: number;
  threadsX: number;
  threadsY: number;
  /** vec4s of channels that workgroup memory holds at a time; the whole head when `resident`. */
  chunk: number;
  /** Whole heads stay in workgroup memory: rows for the whole pass, columns for their tile. Else both stream in chunks. */
  resident: boolean;
}

export interface PassPlan extends Variant, TileShape {
  pass: Pass;
  blockQ: number;
  blockK: number;
  threads: number;
  /** Bytes of workgroup memory that the shader declares. */
  workgroupBytes: number;
  /** Names this shader in the pipeline cache: equal keys mean equal code. */
  key: string;
}

/** Tiles that one classification round covers: two 32-bit words of live bits. */
export const TILES_PER_ROUND = 64;

const FLOAT = 4;

/** Workgroup bytes of a pass, one line an array of the shader (src/webgpu/wgsl). */
export function workgroupBytes(pass: Pass, variant: Pick<Variant, 'D' | 'Dv' | 'half'>, t: TileShape): number {
  const d4 = Math.ceil(variant.D / 4);
  const dv4 = Math.ceil(variant.Dv / 4);
  const vec4 = variant.half ? 8 : 16;
  const tile = (side: number, planes: number): number => roundUp(planes, t.threadsX) * (side + 1) * vec4;
  const rowTiles = pass === 'forward' ? [d4] : [d4, dv4];
  const tiles = t.resident
    ? sum(rowTiles.map((planes) => tile(t.rows, planes))) + tile(t.cols, d4) + tile(t.cols, dv4)
    : tile(t.rows, t.chunk) + tile(t.cols, t.chunk);
  const weights = (t.cols / 4) * (t.rows + 1) * vec4; // P or dS
  const rowMax = pass === 'forward' ? t.threadsX * t.rows * FLOAT : 0;
  const rowStats = pass === 'forward' ? 2 * t.rows * FLOAT : 0;
  const tileBits = 8 * FLOAT;
  return tiles + weights + rowMax + rowStats + tileBits;
}

/** Tile shapes to try, best first: the first whose bytes and threads the device allows is taken. */
export function candidates(pass: Pass, variant: Pick<Variant, 'D' | 'Dv' | 'half'>): TileShape[] {
  const head = Math.max(Math.ceil(variant.D / 4), Math.ceil(variant.Dv / 4));
  const resident = (rows: number, cols: number, threadsX: number, threadsY: number): TileShape => ({
    rows, cols, threadsX, threadsY, chunk: head, resident: true,
  });
  const streamed = (rows: number, cols: number, threadsX: number, threadsY: number, chunk: number): TileShape => ({
    rows, cols, threadsX, threadsY, chunk, resident: false,
  });
  if (pass === 'forward') {
    return [resident(64, 32, 8, 8), resident(32, 32, 8, 8), streamed(32, 32, 8, 8, 8)];
  }
  return [resident(32, 32, 8, 8), streamed(32, 32, 8, 8, 8)];
}

/**
 * Chooses the tiles of a pass.
 *
 * @throws Error if no tile fits the device, naming the bytes that the smallest needs.
 */
export function plan(pass: Pass, variant: Variant, limits: DeviceLimits, shapes = candidates(pass, variant)): PassPlan {
  const fits = (t: TileShape): boolean =>
    workgroupBytes(pass, variant, t) <= limits.maxComputeWorkgroupStorageSize &&
    t.threadsX * t.threadsY <= limits.maxComputeInvocationsPerWorkgroup;
  const shape = shapes.find(fits);
  if (!shape) {
    const least = Math.min(...shapes.map((t) => workgroupBytes(pass, variant, t)));
    throw new Error(
      `flashMaskAttention: the ${pass} pass at D ${variant.D}, Dv ${variant.Dv} needs ${least} bytes of workgroup memory, ` +
        `got a device with ${limits.maxComputeWorkgroupStorageSize}. Request the adapter's limits when you create the device.`,
    );
  }
  const [blockQ, blockK] = pass === 'dkdv' ? [shape.cols, shape.rows] : [shape.rows, shape.cols];
  return {
    ...variant, ...shape, pass, blockQ, blockK,
    threads: shape.threadsX * shape.threadsY,
    workgroupBytes: workgroupBytes(pass, variant, shape),
    key: keyOf(pass, variant, shape),
  };
}

function keyOf(pass: Pass, v: Variant, t: TileShape): string {
  const flags = [v.causal && 'causal', v.intervals && 'intervals', v.dropout && 'dropout', v.half && 'half', t.resident && 'resident'];
  return [pass, `d${v.D}x${v.Dv}`, `t${t.rows}x${t.cols}`, `w${t.threadsX}x${t.threadsY}`, `c${t.chunk}`, ...flags]
    .filter(Boolean).join('_');
}

export function roundUp(x: number, multiple: number): number {
  return Math.ceil(x / multiple) * multiple;
}

function sum(xs: number[]): number {
  return xs.reduce((a, b) => a + b, 0);
}
