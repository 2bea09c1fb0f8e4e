/** @file A tensor on the host, as files hold it. */

/** Row-major float32 numbers of a shape. */
export interface HostTensor {
  shape: number[];
  data: Float32Array;
}
