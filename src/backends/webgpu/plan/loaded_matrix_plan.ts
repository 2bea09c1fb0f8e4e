/**
 * @file Gives `matrixPlan` if its code is loaded. Only devices of `createWebGPUBackend` have subgroup matrices: other
 * pages need not load that code. src/backends/webgpu/device/matrix_code.ts loads it.
 */
import type {matrixPlan} from './matrix_plan.js';

let loaded: typeof matrixPlan = () => null;

/** Makes passes of calls to come run on matrices, where a device has them. */
export const loadMatrixPlan = (plan: typeof matrixPlan): void => void (loaded = plan);

/** The plan of a pass on subgroup matrices, or null where vectors do it. */
export const loadedMatrixPlan: typeof matrixPlan = (...args) => loaded(...args);
