/**
 * @file Dawn's null adapter: its devices check WGSL, bindings and limits as real ones do, and execute nothing. They have the limits of
 * the weakest device that WebGPU allows.
 */
import {expect} from 'chai';
import {create, globals} from 'webgpu';
import {type Code, createPipeline} from '../../src/backends/webgpu/run/pipelines.js';

/** Dawn frees its devices with these objects. */
const instances: GPU[] = [];

export async function nullDevice(...features: string[]): Promise<GPUDevice> {
  Object.assign(globalThis, globals);
  const gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
  instances.push(gpu);
  const adapter = (await gpu.requestAdapter())!;
  return adapter.requestDevice({requiredFeatures: features as GPUFeatureName[]});
}

/** What the device finds wrong with a shader; '' if nothing. */
export async function problemOf(device: GPUDevice, shader: Code): Promise<string> {
  device.pushErrorScope('validation');
  createPipeline(device, shader);
  const error = await device.popErrorScope();
  return error ? error.message : '';
}

/** Of plans larger than the device everything but their size is checked, and that by the bytes. */
export async function expectValid(device: GPUDevice, shader: Code, workgroupBytes = 0): Promise<void> {
  const problem = await problemOf(device, shader);
  if (workgroupBytes <= device.limits.maxComputeWorkgroupStorageSize) {
    expect(problem, shader.key).to.equal('');
  } else {
    expect(problem, shader.key).to.include(`workgroup storage (${workgroupBytes} bytes) is larger`);
  }
}
