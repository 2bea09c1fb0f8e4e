/**
 * @file Dawn's null adapter: its devices check WGSL, bindings and limits as real ones do, and execute nothing. They have the limits of
 * the weakest device that WebGPU allows.
 */
import {expect} from 'chai';
import {create, globals} from 'webgpu';
import {createPipeline} from '../../src/backends/webgpu/run/dispatch.js';
import type {Binding} from '../../src/backends/webgpu/wgsl/header.js';

export interface Shader {
  key: string;
  code: string;
  bindings: readonly Binding[];
  /** What the plan says that it takes of workgroup memory. */
  workgroupBytes: number;
}

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
export async function problemOf(device: GPUDevice, {key, code, bindings}: Shader): Promise<string> {
  device.pushErrorScope('validation');
  createPipeline(device, key, code, bindings);
  const error = await device.popErrorScope();
  return error ? error.message : '';
}

/** Of plans larger than the device everything but their size is checked, and that by the bytes. */
export async function expectValid(device: GPUDevice, shader: Shader): Promise<void> {
  const problem = await problemOf(device, shader);
  if (shader.workgroupBytes <= device.limits.maxComputeWorkgroupStorageSize) {
    expect(problem, shader.key).to.equal('');
  } else {
    expect(problem, shader.key).to.include(`workgroup storage (${shader.workgroupBytes} bytes) is larger`);
  }
}

/** Shaders by key. */
export class Shaders extends Map<string, Shader> {
  /** Equal keys must mean equal code: the key is all that the pipeline cache sees. */
  add(shader: Shader): void {
    const known = this.get(shader.key);
    if (known) expect(shader.code, `the code of two plans with the key ${shader.key}`).to.equal(known.code);
    this.set(shader.key, shader);
  }
}
