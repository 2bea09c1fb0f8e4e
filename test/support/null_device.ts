/**
 * @file Devices of Dawn's null adapter check WGSL, bindings and limits as real devices do, but execute nothing. They
 * have the limits of the weakest device that WebGPU allows.
 */
import {expect} from 'chai';
import {create, globals} from 'webgpu';
import {type Code, createPipeline} from '../../src/backends/webgpu/run/pipelines.js';

/** Kept, because Dawn frees the devices of an object with the object. */
const instances: GPU[] = [];

export async function nullDevice(...features: string[]): Promise<GPUDevice> {
  Object.assign(globalThis, globals);
  const gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
  instances.push(gpu);
  const adapter = (await gpu.requestAdapter())!;
  return adapter.requestDevice({requiredFeatures: features as GPUFeatureName[]});
}

/** The device's validation error for a shader; '' if it is valid. */
export async function problemOf(device: GPUDevice, shader: Code): Promise<string> {
  device.pushErrorScope('validation');
  createPipeline(device, shader);
  const error = await device.popErrorScope();
  return error ? error.message : '';
}

/** Expects a valid shader. Of a plan larger than the device, expects exactly the error about its workgroup memory. */
export async function expectValid(device: GPUDevice, shader: Code, workgroupBytes = 0): Promise<void> {
  const problem = await problemOf(device, shader);
  if (workgroupBytes <= device.limits.maxComputeWorkgroupStorageSize) {
    expect(problem, shader.key).to.equal('');
  } else {
    expect(problem, shader.key).to.include(`workgroup storage (${workgroupBytes} bytes) is larger`);
  }
}
