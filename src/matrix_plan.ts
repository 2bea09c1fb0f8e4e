/**
 * @file The plan of a WebGPU pass on subgroup matrices (tensor cores and their like): a pure function like `plan`, of the same calls.
 *
 * Every subgroup of a workgroup keeps a *band* of rows and walks over the blocks of columns with the others, which share those blocks
 * in workgroup memory. Matrices are opaque: scores go through workgroup memory to become weights, each lane a part of a row of its band.
 */
import type {Precision} from './kernel_names.js';
import {
  plan,
  roundUp,
  type DeviceTraits,
  type MatrixConfig,
  type Pass,
  type PassPlan,
  type PassShape,
  type Variant,
} from './plan.js';

/** Sides of a tile: `subgroups` bands of `bandRows` rows by `cols` columns. */
export interface MatrixTile {
  subgroups: number;
  /** A multiple of M, and a divisor of the lanes of a subgroup. */
  bandRows: number;
  /** A multiple of N, K and MAP_BLOCK. */
  cols: number;
}

export interface MatrixPlan extends Variant, MatrixTile, PassShape {
  matrix: MatrixConfig;
  /** float16 numbers that stand for a number: 1, or 2 (a high and a low half) where products are to be as good as float32's. */
  parts: 1 | 2;
  /** Lanes that share a row of a band. */
  rowLanes: number;
}

/** Channels beyond which the accumulators of a band no longer fit its registers. */
const MOST_CHANNELS = 128;

const FLOAT = 4;
const HALF = 2;

/** Channels of a head in its float16 copy: whole matrices. */
export const paddedChannels = (channels: number, {N, K}: MatrixConfig): number => roundUp(channels, Math.max(N, K, 8));

/** Tile shapes to try, best first. */
export function matrixCandidates(
  pass: Pass,
  {matrix: {M, lanes}, D, Dv, parts}: Pick<MatrixPlan, 'matrix' | 'D' | 'Dv' | 'parts'>,
): MatrixTile[] {
  const deep = Math.max(D, Dv) > 64;
  const twice = !deep && parts === 1 && 2 * M <= lanes ? 2 : 1;
  const subgroups = pass === 'dkdv' ? [4] : [8, 4];
  return subgroups.map((count) => ({subgroups: count, bandRows: twice * M, cols: 32}));
}

/**
 * The plan of a pass on subgroup matrices, or null where vectors do it: without such matrices or float16, in `'auto'`, for a few queries,
 * for long heads, and where no tile fits the device.
 */
export function matrixPlan(
  pass: Pass,
  variant: Variant,
  parts: 1 | 2,
  {limits, float16, matrix}: DeviceTraits,
  tiles?: MatrixTile[],
): MatrixPlan | null {
  const {fewQueries, D, Dv} = variant;
  if (!matrix || !float16 || fewQueries || Math.max(D, Dv) > MOST_CHANNELS) return null;
  const of = (tile: MatrixTile): MatrixPlan => planOf(pass, variant, parts, matrix, tile);
  const plans = (tiles ?? matrixCandidates(pass, {...variant, matrix, parts})).map(of);
  const fits = (p: MatrixPlan): boolean =>
    p.workgroupBytes <= limits.maxComputeWorkgroupStorageSize && p.threads <= limits.maxComputeInvocationsPerWorkgroup;
  return plans.find(fits) ?? null;
}

function planOf(pass: Pass, variant: Variant, parts: 1 | 2, matrix: MatrixConfig, tile: MatrixTile): MatrixPlan {
  const rows = tile.subgroups * tile.bandRows;
  const [blockQ, blockK] = pass === 'dkdv' ? [tile.cols, rows] : [rows, tile.cols];
  const p = {...variant, ...tile, pass, matrix, parts, rows, blockQ, blockK, rowLanes: matrix.lanes / tile.bandRows};
  return {
    ...p,
    threads: tile.subgroups * matrix.lanes,
    workgroupBytes: Object.values(workgroupArrays(p)).reduce((sum, bytes) => sum + roundUp(bytes, 16), 0),
    key: keyOf(p),
  };
}

/** The plan of a pass on a device: on subgroup matrices where a precision and a device allow it, else on vectors. */
export function planOn(
  device: DeviceTraits,
  pass: Pass,
  variant: Variant,
  precision: Precision,
): MatrixPlan | PassPlan {
  const parts = precision === 'float16' ? 1 : 2;
  const onMatrices = precision === 'auto' ? null : matrixPlan(pass, variant, parts, device);
  return onMatrices ?? plan(pass, variant, device.limits);
}

export const isMatrixPlan = (p: MatrixPlan | PassPlan): p is MatrixPlan => 'matrix' in p;

type Sizes = Pick<MatrixPlan, 'pass' | 'D' | 'Dv' | 'parts' | 'matrix' | 'rows' | 'cols' | 'rowLanes'>;

/**
 * Floats from one row of scores to the next. One vec4 a lane of a row more than the columns: stores of matrices and reads of rows are
 * then both free of bank conflicts, if the lanes of a row take its vec4s in turn.
 */
export const scoreStride = ({cols, rowLanes}: Pick<Sizes, 'cols' | 'rowLanes'>): number => cols + 4 * rowLanes;

/** Halves from one row of weights to the next; 16 bytes more than the columns, against bank conflicts. */
export const weightStride = ({cols}: Pick<Sizes, 'cols'>): number => cols + 8;

/** Halves from one row of a column tile to the next: all parts of its channels, and 16 bytes against bank conflicts. */
export const tileStride = ({parts, matrix}: Pick<Sizes, 'parts' | 'matrix'>, channels: number): number =>
  parts * paddedChannels(channels, matrix) + 8;

/** Bytes of the workgroup arrays that a pass declares (src/webgpu/wgsl/matrix_*.ts). */
export function workgroupArrays(p: Sizes): Record<string, number> {
  const tile = (channels: number): number => p.cols * tileStride(p, channels) * HALF;
  const scores = p.rows * scoreStride(p) * FLOAT;
  const weights = p.parts * p.rows * weightStride(p) * HALF;
  const twoProducts = p.pass === 'forward' ? 1 : 2;
  return {
    firstTile: tile(p.D),
    secondTile: tile(p.Dv),
    scores: twoProducts * scores,
    weights: (p.pass === 'dkdv' ? 2 : 1) * weights,
    rowValues: p.pass === 'forward' ? p.rows * FLOAT : 0,
    outgrown: p.pass === 'forward' ? FLOAT : 0,
    colStats: p.pass === 'dkdv' ? 2 * p.cols * FLOAT : 0,
    tileBits: 4 * FLOAT,
    tileWords: 4 * FLOAT,
  };
}

function keyOf(p: Omit<MatrixPlan, 'threads' | 'workgroupBytes' | 'key'>): string {
  const {M, N, K, lanes} = p.matrix;
  const flags = [p.causal && 'causal', p.intervals && 'intervals', p.dropout && 'dropout'];
  const sizes = [
    `d${p.D}x${p.Dv}`,
    `t${p.rows}x${p.cols}`,
    `b${p.bandRows}`,
    `m${M}x${N}x${K}x${lanes}`,
    `parts${p.parts}`,
  ];
  return ['matrix', p.pass, ...sizes, ...flags].filter(Boolean).join('_');
}
