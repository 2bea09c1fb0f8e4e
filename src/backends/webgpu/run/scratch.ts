/** @file The buffers that the passes of a call need besides its tensors. */
import {remember} from '../../../call/remember.js';
import type {WebGPUBackend} from './tfjs_backend.js';

/**
 * Buffers by name. The slices of a call run one after the other and share these buffers, so memory is that of one
 * slice.
 */
export class Scratch {
  private readonly buffers = new Map<string, GPUBuffer>();

  constructor(private readonly backend: WebGPUBackend) {}

  /** The buffer of this name, with at least `bytes` bytes: the first slice, which is the largest, allocates it. */
  buffer(name: string, bytes: number): GPUBuffer {
    return remember(this.buffers, name, () => this.backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE));
  }

  /**
   * Releases all buffers. Call it after the passes are submitted.
   *
   * @param reuse Whether the next call may reuse buffers of these sizes. Otherwise they are destroyed once the work is
   *   done.
   */
  release(reuse: boolean): void {
    this.buffers.forEach((buffer) => this.backend.bufferManager.releaseBuffer(buffer, reuse));
    this.buffers.clear();
  }
}
