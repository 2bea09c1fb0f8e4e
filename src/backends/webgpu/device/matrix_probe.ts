/**
 * @file Finds the subgroup matrices that the passes may use on a device: the best of its configurations that computes
 * correctly.
 */
import {MAP_BLOCK} from '../../../call/constants.js';
import type {MatrixConfig} from '../plan/vector_plan.js';
import {specialize} from '../wgsl/shader.js';
import {matrixProbe, probeSizes} from '../wgsl/matrix/probe.js';

/** The features that the passes on subgroup matrices need, all of them. */
export const MATRIX_FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] as const;

/** A configuration of subgroup matrices as Chrome and Dawn list it in `GPUAdapterInfo`. */
interface SubgroupMatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

/** `GPUAdapterInfo` with the fields that are newer than its types. */
export type AdapterInfo = Partial<GPUAdapterInfo> & {subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig>};

/** The matrices that were found, or the reason why there are none. */
export type FoundMatrices = {matrix: MatrixConfig; reason: null} | {matrix: null; reason: string};

const volume = ({M, N, K}: MatrixConfig): number => (M === 16 && N === 16 && K === 16 ? Infinity : M * N * K);

/**
 * The matrix configurations that the passes can use, best first: 16 x 16 x 16, then the largest. Each side must be a
 * multiple of 8, so that it consists of whole vec4us of float16, and lanes must share rows evenly.
 */
export function usableMatrices({subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs}: AdapterInfo): MatrixConfig[] {
  const lanes = subgroupMaxSize;
  if (!lanes || subgroupMinSize !== lanes) return [];
  return [...(subgroupMatrixConfigs ?? [])]
    .filter((c) => c.componentType === 'f16' && c.resultComponentType === 'f32')
    .map(({M, N, K}) => ({M, N, K, lanes}))
    .filter(({M, N, K}) => M % 8 === 0 && lanes % M === 0 && MAP_BLOCK % N === 0 && MAP_BLOCK % K === 0)
    .filter(({N, K}) => N % 8 === 0 && K % 8 === 0)
    .sort((x, y) => volume(y) - volume(x));
}

/**
 * Tries the subgroup matrices of `device`: compiles and runs one small shader per configuration until one computes
 * correctly. Never throws.
 */
export async function findMatrices(device: GPUDevice, info: AdapterInfo): Promise<FoundMatrices> {
  const missing = MATRIX_FEATURES.find((name) => !device.features.has(name));
  if (missing) return {matrix: null, reason: `the device has no ${missing}`};
  const usable = usableMatrices(info);
  let reason = unusable(info);
  for (const matrix of usable) {
    const wrong = await whatIsWrong(device, matrix);
    if (wrong === null) return {matrix, reason: null};
    reason = `matrices of ${matrix.M} x ${matrix.N} x ${matrix.K} fail a trial: ${wrong}`;
  }
  return {matrix: null, reason};
}

function unusable({subgroupMinSize, subgroupMaxSize}: AdapterInfo): string {
  return subgroupMinSize === subgroupMaxSize
    ? 'none of its matrices multiplies float16 into float32 in multiples of 8'
    : `its subgroups have from ${subgroupMinSize} to ${subgroupMaxSize} lanes, and the number must be known`;
}

/**
 * The error that the device reports for the probe, or the first wrong element of its result; null if there is neither.
 */
async function whatIsWrong(device: GPUDevice, matrix: MatrixConfig): Promise<string | null> {
  try {
    const got = await withoutErrors(device, () => runProbe(device, matrix));
    const wrong = expected(matrix).findIndex((x, i) => got[i] !== x);
    return wrong < 0 ? null : `element ${wrong} of a product is ${got[wrong]}`;
  } catch (error) {
    return (error as Error).message.split('\n')[0];
  }
}

/**
 * Runs `body` in error scopes and throws the error that they catch. Otherwise it would reach the listeners of
 * `uncapturederror`.
 */
async function withoutErrors<T>(device: GPUDevice, body: () => Promise<T>): Promise<T> {
  const scopes = ['validation', 'internal', 'out-of-memory'] as const;
  scopes.forEach((scope) => device.pushErrorScope(scope));
  // Only the work that `body` does before its first await is inside the scopes.
  const result = body();
  const found = await Promise.all(scopes.map(() => device.popErrorScope()));
  const error = found.find((e) => e !== null);
  // The result of an invalid run may never arrive.
  if (error) throw new Error(error.message);
  return result;
}

/** Integers from -2 to 2. They are not symmetric, so that a wrong transposition changes the result. */
const element = (row: number, column: number): number => ((7 * row + 3 * column + row * column) % 5) - 2;

/** float16 of -2, -1, 0, 1 and 2. */
const HALVES = [0xc000, 0xbc00, 0, 0x3c00, 0x4000];

function halves(rows: number, side: number): Uint16Array<ArrayBuffer> {
  const half = (_: unknown, i: number): number => HALVES[element(Math.floor(i / side), i % side) + 2];
  return Uint16Array.from({length: rows * side}, half);
}

/** 3 A Bᵀ B, `[rows, side]`. */
function expected(matrix: MatrixConfig): number[] {
  const {rows, side} = probeSizes(matrix);
  const columns = Array.from({length: side}, (_, i) => i);
  const sum = (term: (i: number) => number): number => columns.reduce((total, i) => total + term(i), 0);
  return Array.from({length: rows}, (_, row) => {
    const scores = columns.map((j) => sum((c) => element(row, c) * element(j, c)));
    return columns.map((c) => 3 * sum((j) => scores[j] * element(j, c)));
  }).flat();
}

/** Runs the probe and returns its result, `[rows, side]`. It records and submits before its first await. */
async function runProbe(device: GPUDevice, matrix: MatrixConfig): Promise<Float32Array> {
  const {rows, side} = probeSizes(matrix);
  const bytes = 4 * rows * side;
  const {STORAGE, COPY_SRC, COPY_DST, MAP_READ} = GPUBufferUsage;
  const read = device.createBuffer({size: bytes, usage: MAP_READ | COPY_DST});
  const buffers = [
    upload(device, halves(rows, side)),
    upload(device, halves(side, side)),
    device.createBuffer({size: bytes, usage: STORAGE | COPY_SRC}),
  ];
  const label = 'flashMaskAttention: subgroup matrix probe';
  const pipeline = device.createComputePipeline({
    label,
    layout: 'auto',
    compute: {
      module: device.createShaderModule({label, code: specialize(matrixProbe, matrix).code}),
      entryPoint: 'main',
    },
  });
  const entries = buffers.map((buffer, binding) => ({binding, resource: {buffer}}));
  const encoder = device.createCommandEncoder({label});
  const pass = encoder.beginComputePass({label});
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({layout: pipeline.getBindGroupLayout(0), entries}));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(buffers[2], 0, read, 0, bytes);
  device.queue.submit([encoder.finish()]);
  try {
    await read.mapAsync(GPUMapMode.READ);
    return new Float32Array(read.getMappedRange().slice(0));
  } finally {
    [...buffers, read].forEach((buffer) => buffer.destroy());
  }
}

function upload(device: GPUDevice, data: Uint16Array<ArrayBuffer>): GPUBuffer {
  const buffer = device.createBuffer({
    size: data.byteLength,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(buffer, 0, data);
  return buffer;
}
