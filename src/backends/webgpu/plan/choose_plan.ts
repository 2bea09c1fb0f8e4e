/** @file Which kernel a pass runs on a device, with which tiles: on subgroup matrices or on vectors, as the plan prefers or autotune found. */
import type {Precision} from '../../../call/kernel_names.js';
import {matrixPlan, type MatrixPlan} from './matrix_plan.js';
import {plan, type DeviceTraits, type Pass, type PassPlan, type Variant} from './vector_plan.js';
import {isMatrixTile, tunedTiles} from './tuned_tiles.js';

/** float16 numbers that stand for a number in each precision. `'auto'` is as exact as float32 itself. */
const PARTS: Record<Precision, Variant['parts']> = {auto: 0, float32: 2, float16: 1, bfloat16: 0};

export const partsOf = (precision: Precision): Variant['parts'] => PARTS[precision];

/** The plan of a pass on a device: on subgroup matrices where variant and device allow it, else on vectors. */
export function planOn(device: DeviceTraits, pass: Pass, variant: Variant): MatrixPlan | PassPlan {
  const tuned = tunedTiles(device, pass, variant);
  if (tuned === undefined) return matrixPlan(pass, variant, device) ?? plan(pass, variant, device.limits);
  return isMatrixTile(tuned)
    ? matrixPlan(pass, variant, device, [tuned])!
    : plan(pass, variant, device.limits, [tuned]);
}
