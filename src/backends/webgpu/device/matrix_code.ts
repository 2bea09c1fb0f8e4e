/** @file Loads the code of passes on subgroup matrices, for devices that have them. */
import {copyToFloat16, float16Bytes} from '../passes/float16_copies.js';
import {loadMatrixPasses} from '../passes/loaded_matrix_passes.js';
import {loadMatrixPlan} from '../plan/loaded_matrix_plan.js';
import {matrixPlan} from '../plan/matrix_plan.js';
import {matrixDkdv, matrixDq} from '../wgsl/matrix/backward.js';
import {matrixForward} from '../wgsl/matrix/forward.js';
import {specialize} from '../wgsl/shader.js';

const SHADERS = {forward: matrixForward, dq: matrixDq, dkdv: matrixDkdv};

/** To be called before a plan is made for such a device. Once is enough. */
export function loadMatrixCode(): void {
  loadMatrixPlan(matrixPlan);
  loadMatrixPasses({shaderOf: (plan) => specialize(SHADERS[plan.pass], plan), copyToFloat16, float16Bytes});
}
