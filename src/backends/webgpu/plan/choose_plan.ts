/**
 * @file Chooses the plan of a pass on a device: on subgroup matrices or on vectors, with the plan's own tiles or those
 * that autotune found.
 */
import type {Precision} from '../../../call/kernel_names.js';
import {loadedMatrixPlan} from './loaded_matrix_plan.js';
import type {MatrixPlan} from './matrix_plan.js';
import {vectorPlan, type DeviceCapabilities, type Pass, type VectorPlan, type Variant} from './vector_plan.js';
import {isMatrixTile, tunedTiles} from './tuned_tiles.js';

/**
 * Number of float16 values that represent one number, per precision. 0 means that vectors multiply float32: `'auto'` is
 * as exact as float32 itself.
 */
const PARTS: Record<Precision, Variant['halvesPerNumber']> = {auto: 0, float32: 2, float16: 1, bfloat16: 0};

export const halvesPerNumberIn = (precision: Precision): Variant['halvesPerNumber'] => PARTS[precision];

/** The plan of a pass on a device: on subgroup matrices where variant and device allow it, else on vectors. */
export function planOn(device: DeviceCapabilities, pass: Pass, variant: Variant): MatrixPlan | VectorPlan {
  const tuned = tunedTiles(device, pass, variant);
  if (tuned === undefined) return loadedMatrixPlan(pass, variant, device) ?? vectorPlan(pass, variant, device.limits);
  return isMatrixTile(tuned)
    ? loadedMatrixPlan(pass, variant, device, [tuned])!
    : vectorPlan(pass, variant, device.limits, [tuned]);
}
