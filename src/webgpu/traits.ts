/** @file What a device can do, as far as a plan depends on it. */
import {MATRIX_SIDE, SUBGROUP, type DeviceTraits} from '../plan.js';

/** A product of matrices that the adapter offers; not in WebGPU's types yet. */
interface MatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

interface AdapterInfo extends Partial<GPUAdapterInfo> {
  subgroupMatrixConfigs?: readonly MatrixConfig[];
}

const FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];

const known = new WeakMap<GPUDevice, DeviceTraits>();

/** The device's limits, and whether it has the subgroup matrices that the matrix passes are written for. */
export function traitsOf(device: GPUDevice): DeviceTraits {
  let traits = known.get(device);
  if (!traits) known.set(device, (traits = {limits: device.limits, matrices: hasMatrices(device)}));
  return traits;
}

function hasMatrices(device: GPUDevice): boolean {
  const info = (device as {adapterInfo?: AdapterInfo}).adapterInfo;
  if (!info || !FEATURES.every((name) => device.features.has(name))) return false;
  if (info.subgroupMinSize !== SUBGROUP || info.subgroupMaxSize !== SUBGROUP) return false;
  return [...(info.subgroupMatrixConfigs ?? [])].some(
    ({componentType, resultComponentType, M, N, K}) =>
      componentType === 'f16' && resultComponentType === 'f32' && [M, N, K].every((side) => side === MATRIX_SIDE),
  );
}
