/**
 * @file A matrix product for WebGPU adapters that run on a CPU (SwiftShader). It replaces tfjs's own in this process.
 *
 * tfjs's shader shares tiles through workgroup memory. A CPU must emulate that with a context switch per barrier. Here
 * each thread keeps an 8 x 8 tile in registers and reads straight from the buffers, which is several times faster. Both
 * attentions of a comparison use it. On a GPU tfjs's own is faster, so it stays there.
 */
import * as tf from '@tensorflow/tfjs';

const TILE = 8;
const THREADS = 64;

interface MatMulBackend extends tf.KernelBackend {
  runWebGPUProgram(
    program: object,
    inputs: tf.TensorInfo[],
    dtype: tf.DataType,
    uniforms: {type: string; data: number[]}[],
  ): tf.TensorInfo;
}

/**
 * Replaces the webgpu kernel of `tf.matMul`. Call it after the backend is ready, and only on a software adapter.
 *
 * @returns a function that restores tfjs's own kernel
 */
export function useSoftwareMatMul(): () => void {
  const own = tf.getKernel('BatchMatMul', 'webgpu');
  tf.unregisterKernel('BatchMatMul', 'webgpu');
  tf.registerKernel({
    kernelName: 'BatchMatMul',
    backendName: 'webgpu',
    kernelFunc: ({inputs, backend, attrs}) => {
      const {a, b} = inputs as {a: tf.TensorInfo; b: tf.TensorInfo};
      const {transposeA, transposeB} = attrs as unknown as {transposeA: boolean; transposeB: boolean};
      return matMul(backend as MatMulBackend, a, b, transposeA, transposeB);
    },
  });
  return () => {
    tf.unregisterKernel('BatchMatMul', 'webgpu');
    tf.registerKernel(own);
  };
}

function matMul(
  backend: MatMulBackend,
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  transposeA: boolean,
  transposeB: boolean,
): tf.TensorInfo {
  const [rowsA, columnsA] = a.shape.slice(-2);
  const [rowsB, columnsB] = b.shape.slice(-2);
  const [M, K] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const N = transposeB ? rowsB : columnsB;
  const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const batch = tf.util.sizeFromShape(batchShape);
  const batchesOf = (x: tf.TensorInfo): number => tf.util.sizeFromShape(x.shape.slice(0, -2));
  for (const x of [a, b]) {
    // One matrix for the whole batch, or one for each: attention and linear layers need no more.
    tf.util.assert([1, batch].includes(batchesOf(x)), () => `matMul cannot broadcast a batch of [${x.shape.join()}].`);
  }
  const uniforms = [
    [M, N, K, batchesOf(a) === 1 ? 0 : rowsA * columnsA, batchesOf(b) === 1 ? 0 : rowsB * columnsB],
    transposeA ? [1, columnsA] : [columnsA, 1],
    transposeB ? [1, columnsB] : [columnsB, 1],
  ].flat();
  const program = new RegisterTileProgram([...batchShape, M, N], batch * Math.ceil(M / TILE) * Math.ceil(N / TILE));
  return backend.runWebGPUProgram(
    program,
    [a, b],
    'float32',
    uniforms.map((value) => ({type: 'int32', data: [value]})),
  );
}

/** A tfjs WebGPU program: each thread makes an 8 x 8 tile. Sizes are uniforms, so it compiles once per rank. */
class RegisterTileProgram {
  readonly variableNames = ['A', 'B'];
  readonly uniforms =
    'M : i32, N : i32, K : i32, batchA : i32, batchB : i32, rowA : i32, innerA : i32, innerB : i32, columnB : i32,';
  readonly workgroupSize = [THREADS, 1, 1];
  readonly shaderKey = 'registerTileMatMul';
  readonly dispatchLayout: {x: number[]};
  readonly dispatch: [number, number, number];

  constructor(
    readonly outputShape: number[],
    tiles: number,
  ) {
    this.dispatchLayout = {x: outputShape.map((_, axis) => axis)};
    this.dispatch = [Math.ceil(tiles / THREADS), 1, 1];
  }

  getUserCode(): string {
    const each = (line: (i: number) => string): string => Array.from({length: TILE}, (_, i) => line(i)).join('\n');
    const both = (line: (r: number, c: number) => string): string => each((r) => each((c) => line(r, c)));
    return `
      fn main(index : i32) {
        let tilesX = (uniforms.N + ${TILE - 1}) / ${TILE};
        let tilesY = (uniforms.M + ${TILE - 1}) / ${TILE};
        let column = (index % tilesX) * ${TILE};
        let row = (index / tilesX) % tilesY * ${TILE};
        let matrix = index / (tilesX * tilesY);
        let end = (matrix + 1) * uniforms.M * uniforms.N;
        if (end > i32(arrayLength(&result))) { return; }
        // Threads over the edge read the last row and column, and store nothing.
        ${each((r) => `var a${r} = matrix * uniforms.batchA + min(row + ${r}, uniforms.M - 1) * uniforms.rowA;`)}
        ${each((c) => `var b${c} = matrix * uniforms.batchB + min(column + ${c}, uniforms.N - 1) * uniforms.columnB;`)}
        ${both((r, c) => `var sum${r}_${c} = 0.0;`)}
        for (var k = 0; k < uniforms.K; k++) {
          // tfjs leaves whole numbers that were cast to float32 as they are.
          ${each((r) => `let x${r} = f32(A[a${r}]); a${r} += uniforms.innerA;`)}
          ${each((c) => `let y${c} = f32(B[b${c}]); b${c} += uniforms.innerB;`)}
          ${both((r, c) => `sum${r}_${c} = fma(x${r}, y${c}, sum${r}_${c});`)}
        }
        let start = end - uniforms.M * uniforms.N;
        ${both(
          (r, c) => `if (row + ${r} < uniforms.M && column + ${c} < uniforms.N) {
            result[start + (row + ${r}) * uniforms.N + column + ${c}] = sum${r}_${c};
          }`,
        )}
      }`;
  }
}
