/** @file The capabilities of a device that a plan depends on. */
import {remember} from '../../../call/remember.js';
import type {DeviceCapabilities, MatrixConfig} from '../plan/vector_plan.js';
import {limitsOf} from '../run/size_limits.js';
import {tunedTilesOf} from './tuned_tiles_store.js';

const TRAITS = Symbol.for('tfjs-flashmask.traits');
const globals = globalThis as {[TRAITS]?: WeakMap<GPUDevice, DeviceCapabilities>};

/**
 * Stored globally: in Node the module that makes the device and the one with the kernels may be copies of each other.
 */
const traits = (globals[TRAITS] ??= new WeakMap());

/**
 * The device's limits and features. Subgroup matrices count only once `allowMatrices` has found that they work: the
 * feature is experimental, and its WGSL has changed between versions of Chrome.
 */
export const capabilitiesOf = (device: GPUDevice): DeviceCapabilities =>
  remember(traits, device, () => {
    const float16 = device.features.has('shader-f16');
    return {limits: limitsOf(device), float16, matrix: null, tuned: tunedTilesOf(device)};
  });

/** Lets the passes of `device` use subgroup matrices of this kind. */
export function allowMatrices(device: GPUDevice, matrix: MatrixConfig): void {
  traits.set(device, {...capabilitiesOf(device), matrix});
}
