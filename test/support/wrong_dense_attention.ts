/** @file Makes only the softmax of dense attention wrong, on the cpu backend. */
import * as tf from '@tensorflow/tfjs';

/** Runs `work` with a dense attention that returns other numbers. */
export async function withWrongDense<T>(work: () => Promise<T>): Promise<T> {
  const kernel = tf.getKernel('Softmax', 'cpu');
  tf.unregisterKernel('Softmax', 'cpu');
  tf.registerKernel({
    ...kernel,
    kernelFunc: (call) => {
      const result = kernel.kernelFunc(call) as tf.TensorInfo;
      if (result.shape.length === 4) {
        const values = (call.backend as unknown as {readSync(id: object): Float32Array}).readSync(result.dataId);
        values.forEach((value, i) => (values[i] = value * 10));
      }
      return result;
    },
  });
  try {
    return await work();
  } finally {
    tf.unregisterKernel('Softmax', 'cpu');
    tf.registerKernel(kernel);
  }
}
