/** @file Gives what runs a plan on subgroup matrices. src/backends/webgpu/device/matrix_code.ts loads it. */
import type {MatrixPlan} from '../plan/matrix_plan.js';
import type {ShaderVariant} from '../wgsl/shader.js';
import type {copyToFloat16, float16Bytes} from './float16_copies.js';

export interface MatrixPasses {
  shaderOf(plan: MatrixPlan): ShaderVariant;
  copyToFloat16: typeof copyToFloat16;
  float16Bytes: typeof float16Bytes;
}

let loaded: MatrixPasses | undefined;

export const loadMatrixPasses = (passes: MatrixPasses): void => void (loaded = passes);

/** There is no plan on matrices without them. */
export const matrixPasses = (): MatrixPasses => loaded!;
