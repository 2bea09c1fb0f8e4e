/**
 * @file The plan of a WebGPU pass on subgroup matrices (tensor cores and the like): a pure function of the same inputs
 * as `plan`.
 *
 * Each subgroup of a workgroup keeps a *band* of rows. All subgroups walk together over the blocks of columns, which
 * they share in workgroup memory. Shaders cannot access the elements of a subgroup matrix, so scores go through
 * workgroup memory to become weights. There each lane handles some of the columns of one row of its band.
 */
import {FLOAT, roundUp} from '../../../call/numbers.js';
import {
  queryDependent,
  type DeviceLimits,
  type DeviceCapabilities,
  type MatrixConfig,
  type Pass,
  type VectorPlan,
  type PassShape,
  type Variant,
} from './vector_plan.js';

/** Sides of a tile. */
export interface MatrixTile {
  /** Subgroups of a workgroup: one per band in the forward pass, two per band in dq and dkdv. */
  subgroups: number;
  /** Rows of a band: a multiple of M, and a divisor of the number of lanes of a subgroup. */
  bandRows: number;
  /** Columns of a tile: a multiple of N, K and 16. */
  cols: number;
}

/** A variant that runs on subgroup matrices. */
interface MatrixVariant extends Variant {
  halvesPerNumber: 1 | 2;
}

export interface MatrixPlan extends MatrixVariant, MatrixTile, PassShape {
  matrix: MatrixConfig;
  /**
   * Subgroups that share a band: two in the backward passes. Each of the two computes one of the two products of rows
   * and columns, then some of the weights of each row. Last it computes one of the two gradients (dkdv) or half the
   * channels of the single one (dq). So each needs registers for only half of the work.
   */
  roles: 1 | 2;
  /** Channels of all float16 copies, padded so that every role has whole matrices. */
  channels: number;
  /** Lanes of a subgroup that share one row of a band. */
  rowLanes: number;
}

/** The fields of a plan that the code of a pass depends on. */
export type MatrixShaderPlan = Omit<MatrixPlan, 'workgroupBytes'>;

/** Channels beyond which the accumulators of a band no longer fit the registers of a subgroup. */
const MOST_CHANNELS = 128;

/**
 * Largest number of rows of a workgroup, and a multiple of the rows of every plan. Float16 copies are padded to a
 * multiple of it.
 */
export const MOST_ROWS = 256;

const HALF = 2;

/**
 * The fastest tiles on an H200 for heads of up to 64 channels ('short') and for longer heads. `heights` is the height
 * of a band in multiples of M.
 */
const FASTEST: Record<
  Pass,
  Record<1 | 2, Record<'short' | 'long', [subgroups: number, heights: number, cols: number]>>
> = {
  forward: {1: {short: [4, 2, 16], long: [8, 1, 32]}, 2: {short: [4, 1, 16], long: [8, 1, 16]}},
  dq: {1: {short: [8, 1, 16], long: [8, 1, 16]}, 2: {short: [8, 1, 32], long: [8, 1, 16]}},
  dkdv: {1: {short: [8, 1, 16], long: [8, 1, 32]}, 2: {short: [4, 1, 16], long: [8, 1, 16]}},
};

/** Tile shapes to try, best first: the fastest, then shapes that need less of the device or less of its matrices. */
export function matrixCandidates(
  pass: Pass,
  {M}: MatrixConfig,
  {channels, halvesPerNumber}: Pick<MatrixPlan, 'channels' | 'halvesPerNumber'>,
): MatrixTile[] {
  const fastest = FASTEST[pass][halvesPerNumber][channels <= 64 ? 'short' : 'long'];
  const smaller = [8, 4].flatMap((subgroups) => [16, 32].map((cols) => [subgroups, 1, cols] as const));
  return [fastest, ...smaller].map(([subgroups, heights, cols]) => ({subgroups, bandRows: heights * M, cols}));
}

/** Tile shapes that are worth measuring, the plan's own first. */
export function matrixTilesToTry(own: MatrixPlan): MatrixTile[] {
  const {M, lanes} = own.matrix;
  const heights = lanes >= 2 * M ? [M, 2 * M] : [M];
  const all = [4, 8, 16].flatMap((subgroups) =>
    heights.flatMap((bandRows) => [16, 32, 64].map((cols) => ({subgroups, bandRows, cols}))),
  );
  const isOwn = ({subgroups, bandRows, cols}: MatrixTile): boolean =>
    subgroups === own.subgroups && bandRows === own.bandRows && cols === own.cols;
  const {subgroups, bandRows, cols} = own;
  return [{subgroups, bandRows, cols}, ...all.filter((tile) => !isOwn(tile))];
}

const PASSES: readonly Pass[] = ['forward', 'dq', 'dkdv'];

/**
 * The plan of a pass on subgroup matrices, or null where the pass runs on vectors: without subgroup matrices or
 * float16, for precisions with `parts` 0 (`'auto'`, `'bfloat16'`), for few queries, for long heads, and where no tile
 * of some pass fits the device.
 *
 * Either all passes of a call run on matrices or none: if the backward recomputed the weights differently from the
 * forward, the weights of a row would not add up to 1.
 */
export function matrixPlan(
  pass: Pass,
  variant: Variant,
  device: DeviceCapabilities,
  tiles?: readonly MatrixTile[],
): MatrixPlan | null {
  if (PASSES.some((one) => fittingPlan(one, variant, device) === null)) return null;
  return fittingPlan(pass, variant, device, tiles);
}

/** The first plan of a single pass that fits the device; null if none does. */
function fittingPlan(
  pass: Pass,
  variant: Variant,
  {limits, float16, matrix}: DeviceCapabilities,
  tiles?: readonly MatrixTile[],
): MatrixPlan | null {
  const {halvesPerNumber, fewQueries, D, Dv} = variant;
  if (!matrix || !float16 || halvesPerNumber === 0 || fewQueries || Math.max(D, Dv) > MOST_CHANNELS) return null;
  const channels = channelsOf(variant, matrix);
  for (const tile of tiles ?? matrixCandidates(pass, matrix, {channels, halvesPerNumber})) {
    const p = planOf(pass, {...variant, halvesPerNumber}, matrix, tile);
    if (fits(p, limits)) return p;
  }
  return null;
}

function fits(p: MatrixPlan, limits: DeviceLimits): boolean {
  return (
    // Each lane has a row, and the lanes of a row share its vec4s evenly.
    Number.isInteger(p.rowLanes) &&
    p.cols % (4 * p.rowLanes * p.roles) === 0 &&
    p.rows <= MOST_ROWS &&
    p.workgroupBytes <= limits.maxComputeWorkgroupStorageSize &&
    p.threads <= limits.maxComputeInvocationsPerWorkgroup
  );
}

const channelsOf = ({D, Dv}: Variant, {N, K}: MatrixConfig): number => roundUp(Math.max(D, Dv), 2 * Math.max(N, K, 8));

function planOf(pass: Pass, variant: MatrixVariant, matrix: MatrixConfig, tile: MatrixTile): MatrixPlan {
  const roles = pass === 'forward' ? 1 : 2;
  const rows = (tile.subgroups / roles) * tile.bandRows;
  const [blockQ, blockK] = pass === 'dkdv' ? [tile.cols, rows] : [rows, tile.cols];
  const channels = channelsOf(variant, matrix);
  const rowLanes = matrix.lanes / tile.bandRows;
  const p = {
    ...variant,
    ...queryDependent(pass, variant),
    ...tile,
    pass,
    matrix,
    roles,
    channels,
    rows,
    blockQ,
    blockK,
    rowLanes,
  } as const;
  return {
    ...p,
    threads: tile.subgroups * matrix.lanes,
    workgroupBytes: Object.values(workgroupArrays(p)).reduce((sum, bytes) => sum + roundUp(bytes, 16), 0),
  };
}

export const isMatrixPlan = (p: MatrixPlan | VectorPlan): p is MatrixPlan => 'matrix' in p;

type Sizes = Pick<MatrixPlan, 'pass' | 'channels' | 'halvesPerNumber' | 'roles' | 'rows' | 'cols' | 'rowLanes'>;

/**
 * Floats from one row of scores to the next. Each row is padded by one vec4 per lane. Matrix stores and row reads then
 * avoid bank conflicts, provided the lanes of a row read its vec4s in turn.
 */
export const scoreStride = ({cols, rowLanes}: Pick<Sizes, 'cols' | 'rowLanes'>): number => cols + 4 * rowLanes;

/** float16 numbers from one row of weights to the next. Rows are padded by 16 bytes to avoid bank conflicts. */
export const weightStride = ({cols}: Pick<Sizes, 'cols'>): number => cols + 8;

/**
 * float16 numbers from one row of a column tile to the next: all parts of its channels, padded by 16 bytes to avoid
 * bank conflicts.
 */
export const tileStride = ({halvesPerNumber, channels}: Pick<Sizes, 'halvesPerNumber' | 'channels'>): number =>
  halvesPerNumber * channels + 8;

/** Bytes of the workgroup arrays that a pass declares (src/backends/webgpu/wgsl/matrix). */
function workgroupArrays(p: Sizes): Record<string, number> {
  const weights = p.halvesPerNumber * p.rows * weightStride(p) * HALF;
  return {
    columns: 2 * p.cols * tileStride(p) * HALF,
    scores: p.roles * p.rows * scoreStride(p) * FLOAT,
    weights: (p.pass === 'dkdv' ? 2 : 1) * weights,
    rowFactors: p.pass === 'forward' ? p.rows * FLOAT : 0,
    outgrown: p.pass === 'forward' ? FLOAT : 0,
    tileMax: p.pass === 'dkdv' ? p.cols * FLOAT : 0,
    tileFactor: p.pass === 'dkdv' ? p.cols * FLOAT : 0,
    tileDelta: p.pass === 'dkdv' ? p.cols * FLOAT : 0,
    tileBits: 4 * FLOAT,
    tileWords: 4 * FLOAT,
  };
}
