/** @file Gives what runs a plan on subgroup matrices. src/backends/webgpu/device/matrix_code.ts loads it. */
import type {MatrixPlan} from '../plan/matrix_plan.js';
import type {ShaderVariant} from '../wgsl/shader.js';
import type {halves, halvesBytes} from './float16_copies.js';

export interface MatrixPasses {
  shaderOf(plan: MatrixPlan): ShaderVariant;
  halves: typeof halves;
  halvesBytes: typeof halvesBytes;
}

let loaded: MatrixPasses | undefined;

export const loadMatrixPasses = (passes: MatrixPasses): void => void (loaded = passes);

/** There is no plan on matrices without them. */
export const matrixPasses = (): MatrixPasses => loaded!;
