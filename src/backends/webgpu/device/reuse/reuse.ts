/**
 * @file Spares the host work in tfjs's own operations, on backends that this library makes. A model passes the same
 * numbers and shapes in every step: those stay on the device. Each step gets the same buffers in the same order, so
 * that its bind groups are those of the step before. And tfjs submits after 15 operations: here after more.
 */
import {env} from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '../../run/tfjs_backend.js';
import {keepBindGroups} from './bind_groups.js';
import {BufferPool} from './buffer_pool.js';
import {keepNumbers} from './numbers.js';
import {keepUniforms} from './uniforms.js';

const BATCH_FLAG = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';
const TFJS_BATCH = 15;
/** With fewer the host submits too often, with many more the GPU waits for the host to record. */
const BATCH = 128;

/** Applies to a backend that has just been made. */
export function reuseUploads(backend: WebGPUBackend): void {
  const pool = new BufferPool(backend.device);
  backend.bufferManager = pool;
  releaseAtOnce(backend);
  keepNumbers(backend);
  keepUniforms(backend, pool);
  keepBindGroups(backend.device);
  // A value that differs from tfjs's default is the user's.
  if (env().getNumber(BATCH_FLAG) === TFJS_BATCH) env().set(BATCH_FLAG, BATCH);
}

/**
 * tfjs holds the buffers of a disposed tensor until the commands that use it are submitted. Commands run in the order
 * in which they are recorded, so a later one may use the buffer before that. Uploads into used buffers are commands
 * too.
 */
function releaseAtOnce(backend: WebGPUBackend): void {
  const none = {add: () => none, has: () => false, delete: () => false};
  // tfjs replaces it with each submission.
  Object.defineProperty(backend, 'commandQueueOwnedIds', {get: () => none, set: () => {}, configurable: true});
}
