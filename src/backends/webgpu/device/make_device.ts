/**
 * @file Makes the devices of backends: one with what tfjs itself requests, and one with everything that this library
 * can use.
 */
import {askLoss} from './loss.js';
import {type AdapterInfo, MATRIX_FEATURES, findMatrices} from './matrix_probe.js';
import {type Wishes, requestDevice} from './request_device.js';
import {allowMatrices} from './capabilities.js';
import {loadMatrixCode} from './matrix_code.js';

/**
 * The features and limits that tfjs's own backend requests if the adapter offers them. The most dispensable come first.
 */
const STOCK_WISHES: Wishes = {
  features: ['timestamp-query', 'bgra8unorm-storage'],
  limits: [
    'maxComputeInvocationsPerWorkgroup',
    'maxComputeWorkgroupSizeX',
    'maxComputeWorkgroupStorageSize',
    'maxComputeWorkgroupsPerDimension',
    'maxStorageBufferBindingSize',
    'maxBufferSize',
  ],
};

const FULL_WISHES: Wishes = {
  features: ['chromium-experimental-subgroup-matrix', 'subgroups', 'shader-f16', ...STOCK_WISHES.features],
  limits: [
    'maxComputeWorkgroupSizeY',
    'maxComputeWorkgroupSizeZ',
    'maxUniformBufferBindingSize',
    'maxStorageBuffersPerShaderStage',
    ...STOCK_WISHES.limits,
  ],
};

/** The features and limits to request for a backend's device, and whether to try its subgroup matrices. */
export interface Kind {
  wishes: Wishes;
  matrices: boolean;
}

export const STOCK: Kind = {wishes: STOCK_WISHES, matrices: false};
export const FULL: Kind = {wishes: FULL_WISHES, matrices: true};

/** The caller's choice of a device. */
export interface DeviceChoice {
  powerPreference?: GPUPowerPreference;
  /** The caller's adapter to request the device from. */
  adapter?: GPUAdapter;
  /** The caller's device, used as it is. */
  device?: GPUDevice;
}

/** A device and the information of its adapter. */
export interface Made {
  device: GPUDevice;
  info: GPUAdapterInfo | undefined;
}

/** The navigator's WebGPU, or an error that says how to get one. */
export function gpu(): GPU {
  const found = typeof navigator === 'undefined' ? undefined : (navigator as {gpu?: GPU}).gpu;
  if (!found) {
    throw new Error(
      'tfjs-flashmask: navigator.gpu must exist, got none. Use a browser with WebGPU on an https or localhost ' +
        'page; in Node call `await useWebGPU()` of tfjs-flashmask/node-webgpu first.',
    );
  }
  return found;
}

async function requestAdapter(powerPreference: GPUPowerPreference): Promise<GPUAdapter> {
  const adapter = await gpu().requestAdapter({powerPreference});
  if (!adapter) {
    throw new Error(
      'tfjs-flashmask: a WebGPU adapter is needed, got none. Update the GPU driver, or allow WebGPU on this ' +
        'machine in the browser (chrome://gpu says what is off); one that gives none after crashes of the GPU has to be restarted.',
    );
  }
  return adapter;
}

/** Requests the device, and warns of the features and limits that its adapter refused. */
async function grantedDevice(adapter: GPUAdapter, wishes: Wishes): Promise<GPUDevice> {
  const {device, refused} = await requestDevice(adapter, wishes);
  if (refused.length > 0) {
    console.warn(
      `tfjs-flashmask: the WebGPU adapter offers ${refused.join(', ')} and gives a device only without: going on so.`,
    );
  }
  return device;
}

/** Lets the passes use the device's subgroup matrices if it has the feature and they compute correctly. */
async function tryMatrices(device: GPUDevice, info: AdapterInfo): Promise<void> {
  if (!MATRIX_FEATURES.every((name) => device.features.has(name))) {
    return;
  }
  const {matrix, reason} = await findMatrices(device, info);
  if (matrix) {
    loadMatrixCode();
    allowMatrices(device, matrix);
  } else {
    console.warn(`tfjs-flashmask: no subgroup matrices on this WebGPU device: ${reason}.`);
  }
}

/** Makes a device, or takes the caller's, and checks that it is not lost. */
export async function makeDevice({wishes, matrices}: Kind, choice: DeviceChoice): Promise<Made> {
  const {powerPreference = 'high-performance'} = choice;
  const adapter = choice.device ? choice.adapter : (choice.adapter ?? (await requestAdapter(powerPreference)));
  const device = choice.device ?? (await grantedDevice(adapter!, wishes));
  const info = adapter?.info ?? (device as {adapterInfo?: GPUAdapterInfo}).adapterInfo;
  const lost = await askLoss(device);
  if (lost !== null) {
    throw new Error(
      `createWebGPUBackend: the device must work, got one that is lost (${lost}). Call it again, without an adapter or a ` +
        'device of yours or with new ones.',
    );
  }
  if (matrices) await tryMatrices(device, info ?? {});
  return {device, info};
}
