/** @file Loads the code of passes on subgroup matrices, for devices that have them. */
import {remember} from '../../../call/remember.js';
import {copyToFloat16, float16Bytes} from '../passes/float16_copies.js';
import {loadMatrixPasses} from '../passes/loaded_matrix_passes.js';
import {loadMatrixPlan} from '../plan/loaded_matrix_plan.js';
import {type MatrixPlan, matrixPlan, matrixTilesToTry} from '../plan/matrix_plan.js';
import {tuningKey} from '../plan/tuned_tiles.js';
import type {DeviceCapabilities} from '../plan/vector_plan.js';
import {matrixDkdv, matrixDq} from '../wgsl/matrix/backward.js';
import {matrixForward} from '../wgsl/matrix/forward.js';
import {specialize} from '../wgsl/shader.js';

const SHADERS = {forward: matrixForward, dq: matrixDq, dkdv: matrixDkdv};

/** Plans by device and `tuningKey`: each call asks for them. */
const plans = new WeakMap<DeviceCapabilities, Map<string, MatrixPlan | null>>();

const rememberedPlan: typeof matrixPlan = (pass, variant, device, tiles) => {
  if (tiles) return matrixPlan(pass, variant, device, tiles);
  const known = remember(plans, device, () => new Map<string, MatrixPlan | null>());
  return remember(known, tuningKey(pass, variant), () => matrixPlan(pass, variant, device));
};

/** To be called before a plan is made for such a device. Once is enough. */
export function loadMatrixCode(): void {
  loadMatrixPlan(rememberedPlan, matrixTilesToTry);
  loadMatrixPasses({shaderOf: (plan) => specialize(SHADERS[plan.pass], plan), copyToFloat16, float16Bytes});
}
