/** @file What this browser says of its GPU, without tfjs. */
import {isSoftwareAdapter} from '../../src/backends/webgpu/device/software_adapter.js';

export interface Adapter {
  name: string;
  /** Whether a CPU does the work. */
  software: boolean;
  float16: boolean;
  /** Whether the browser shows subgroup matrices, which are behind a flag. */
  matrices: boolean;
}

/** Null where there is no WebGPU. */
export async function findAdapter(): Promise<Adapter | null> {
  const gpu = (navigator as {gpu?: GPU}).gpu;
  const adapter = await gpu?.requestAdapter({powerPreference: 'high-performance'}).catch(() => null);
  if (!adapter) return null;
  const {description, device, vendor, architecture} = adapter.info;
  const name = description || device || [vendor, architecture].filter(Boolean).join(' ') || 'a GPU without a name';
  return {
    name,
    software: isSoftwareAdapter(adapter.info),
    float16: adapter.features.has('shader-f16'),
    matrices: [...adapter.features].some((feature) => feature.includes('subgroup-matrix')),
  };
}
