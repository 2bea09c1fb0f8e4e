/** @file The devices of the fine-tuning tests, with the matrix product that the application uses on each. */
import {useSoftwareMatMul} from '../../examples/finetune/software_matmul.js';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import {type Device, devices} from './devices.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
/** tensorflow where it is set up, because it is faster; else cpu. */
export const FASTEST_BACKEND = tensorflow.skip === undefined ? 'tensorflow' : 'cpu';

/** Makes it work for the commands that a file of tests runs in its process. */
export async function setUpFastestBackend(): Promise<void> {
  if (FASTEST_BACKEND === 'tensorflow') await tensorflow.setup();
}

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
