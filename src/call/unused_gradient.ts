/**
 * @file tfjs makes a tensor of zeros on the host for every output that a gradient does not come through. Copying it to a device takes as long
 * as a short attention, so kernels leave such a dLse out.
 */

/** Whether a gradient is unused: its values, if a backend still has them on the host, are zeros. */
export function isUnusedGradient(values: unknown): boolean {
  if (!(values instanceof Float32Array)) return false;
  // A loop: `every` with its callback takes ten times as long.
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return false;
  return true;
}
