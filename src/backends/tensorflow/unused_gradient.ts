/**
 * @file Detects unused gradients. For every output without a gradient, tfjs makes a tensor of zeros on the host.
 * Uploading it takes as long as a short attention call, so kernels skip such a dLse.
 */

/** Whether a gradient is unused: its values, if tfjs-node still has them on the host, are zeros. */
export function isUnusedGradient(values: unknown): boolean {
  if (!(values instanceof Float32Array)) return false;
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  // Each value is like the one after it, and the first is zero: so bytes are compared at once. A loop took ten times as
  // long, and longer than the kernels of a sparse mask.
  const next = values.BYTES_PER_ELEMENT;
  return values[0] === 0 && bytes.compare(bytes, next, bytes.length, 0, bytes.length - next) === 0;
}
