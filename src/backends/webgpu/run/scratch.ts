/** @file The buffers that the passes of a call need besides its tensors. */
import type {WebGPUBackend} from './tfjs_backend.js';

/** Buffers by name. Slices of a call run one after the other and take the same ones: memory is that of one slice. */
export class Scratch {
  private readonly buffers = new Map<string, GPUBuffer>();

  constructor(private readonly backend: WebGPUBackend) {}

  /** The buffer of this name, of so many bytes or, as the first slice is the largest, of more. */
  buffer(name: string, bytes: number): GPUBuffer {
    let buffer = this.buffers.get(name);
    if (!buffer) {
      this.buffers.set(name, (buffer = this.backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE)));
    }
    return buffer;
  }

  /**
   * Gives all back; to be called once the passes are submitted.
   *
   * @param reuse whether the next call may want buffers of these sizes; else they are destroyed once the work is done.
   */
  release(reuse: boolean): void {
    this.buffers.forEach((buffer) => this.backend.bufferManager.releaseBuffer(buffer, reuse));
    this.buffers.clear();
  }
}
