/** @file The devices of the fine-tuning tests, with the matrix product that the application uses on each. */
import {useSoftwareMatMul} from '../../examples/finetune/software_matmul.js';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import type {Device} from './devices.js';

/**
 * Inside a device's tests: software adapters use the application's own matrix product, which is several times faster.
 */
export function useFinetuneMatMul({name}: Device): void {
  let restore = (): void => {};
  before(async () => {
    if (name === 'webgpu' && (await useWebGPU({quiet: true})).software) restore = useSoftwareMatMul();
  });
  after(() => restore());
}
