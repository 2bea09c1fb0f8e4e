/**
 * @file Chooses the plan of a pass on a device: on subgroup matrices or on vectors, with the plan's own tiles or those
 * that autotune found.
 */
import type {FlashMaskAttentionAttrs, Precision} from '../../../call/kernel_names.js';
import type {Problem} from '../../../call/problem.js';
import {loadedMatrixPlan} from './loaded_matrix_plan.js';
import type {MatrixPlan, MatrixTile} from './matrix_plan.js';
import {
  FEW_QUERIES,
  vectorPlan,
  type DeviceCapabilities,
  type Pass,
  type TileShape,
  type VectorPlan,
  type Variant,
} from './vector_plan.js';
import {tunedTiles} from './tuned_tiles.js';

/**
 * Number of float16 values that represent one number, per precision. 0 means that vectors multiply float32: `'auto'` is
 * as exact as float32 itself.
 */
const HALVES: Record<Precision, Variant['halvesPerNumber']> = {auto: 0, float32: 2, float16: 1, bfloat16: 0};

export const halvesPerNumberIn = (precision: Precision): Variant['halvesPerNumber'] => HALVES[precision];

/** The properties of calls that their shaders depend on, as callers name them. */
export interface CallTraits extends Omit<Variant, 'halvesPerNumber' | 'fewQueries'> {
  precision: Precision;
  /** Query rows. */
  Sq: number;
}

/** The variant of the shaders of such calls. */
export const variantFor = ({precision, Sq, ...traits}: CallTraits): Variant => ({
  ...traits,
  halvesPerNumber: halvesPerNumberIn(precision),
  fewQueries: Sq <= FEW_QUERIES,
});

/** The variant of the shaders of a call. */
export const variantOf = (p: Problem, {precision, dropout}: FlashMaskAttentionAttrs): Variant =>
  variantFor({
    ...{D: p.D, Dv: p.Dv, causal: p.causal, intervals: p.n > 0, dropout: dropout > 0},
    ...{precision, Sq: p.Sq},
  });

/** The plan of a pass on a device: on subgroup matrices where variant and device allow it, else on vectors. */
export function planOn(device: DeviceCapabilities, pass: Pass, variant: Variant): MatrixPlan | VectorPlan {
  const tuned = tunedTiles(device, pass, variant);
  // They are tiles on matrices exactly where there is a plan on matrices.
  const tiles = tuned && [tuned];
  return (
    loadedMatrixPlan(pass, variant, device, tiles as MatrixTile[] | undefined) ??
    vectorPlan(pass, variant, device.limits, tiles as TileShape[] | undefined)
  );
}
