/** @file Keeps the uniforms of tfjs's programs on the device. */
import type {WebGPUBackend} from '../../run/tfjs_backend.js';
import type {BufferPool} from './buffer_pool.js';
import {rememberFew} from './remember_few.js';

/** Most uniform buffers that stay, of about 100 bytes each. */
const MOST = 8192;

type Uniforms = Parameters<WebGPUBackend['makeUniforms']>[0];

/** One buffer for all uniforms of the same values. */
export function keepUniforms(backend: WebGPUBackend, pool: BufferPool): void {
  // Commands may use a buffer that is forgotten. It is freed with the last of them.
  const bindings = new Map<string, GPUBufferBinding>();
  const make = backend.makeUniforms.bind(backend);
  backend.makeUniforms = (uniforms) =>
    rememberFew(bindings, MOST, keyOf(uniforms), () => {
      const binding = make(uniforms);
      // tfjs would give it back to the pool after the submission.
      (backend as unknown as {uniformPendingDisposal: GPUBuffer[]}).uniformPendingDisposal.pop();
      pool.forget(binding.buffer);
      return binding;
    });
}

function keyOf(uniforms: Uniforms): string {
  let key = '';
  for (const {type, data} of uniforms) {
    key += type[0];
    // 1 / x tells -0 from 0.
    for (const x of data) key += x === 0 && 1 / x < 0 ? '-0,' : `${x},`;
  }
  return key;
}
