/**
 * @file Detects unused gradients. For every output without a gradient, tfjs makes a tensor of zeros on the host.
 * Uploading it takes as long as a short attention call, so kernels skip such a dLse.
 */

/** Whether a gradient is unused: its values, if a backend still has them on the host, are zeros. */
export function isUnusedGradient(values: unknown): boolean {
  if (!(values instanceof Float32Array)) return false;
  // A loop, because `every` with its callback takes ten times as long.
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return false;
  return true;
}
