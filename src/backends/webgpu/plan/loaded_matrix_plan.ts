/**
 * @file Gives `matrixPlan` and the tiles to try if their code is loaded. Only devices of `createWebGPUBackend` have
 * subgroup matrices: other pages need not load that code. src/backends/webgpu/device/matrix_code.ts loads it.
 */
import type {matrixPlan, matrixTilesToTry} from './matrix_plan.js';

let loaded: typeof matrixPlan = () => null;
let loadedTiles: typeof matrixTilesToTry;

/** Makes passes of calls to come run on matrices, where a device has them. */
export function loadMatrixPlan(plan: typeof matrixPlan, tilesToTry: typeof matrixTilesToTry): void {
  loaded = plan;
  loadedTiles = tilesToTry;
}

/** The plan of a pass on subgroup matrices, or null where vectors do it. */
export const loadedMatrixPlan: typeof matrixPlan = (...args) => loaded(...args);

/** The tiles to try in place of those of a plan on matrices. */
export const loadedMatrixTiles: typeof matrixTilesToTry = (plan) => loadedTiles(plan);
