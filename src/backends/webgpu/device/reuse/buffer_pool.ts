/**
 * @file The buffers of a backend, in place of tfjs's pool. It gives out the free buffer that was made first. A training
 * step that asks in the order of the step before then gets the same buffers, and their bind groups exist. tfjs gives
 * out the buffer that was released last, so that buffers change their places from step to step.
 */
import {remember} from '../../../../call/remember.js';

/** What the pool keeps of a buffer. Sizes and usages are read once: each read is a call into the driver. */
interface Entry {
  /** In the order of creation. */
  number: number;
  size: number;
  /** The free buffers of this size and usage, the last of them made first. */
  free: GPUBuffer[];
}

/** Has the members of tfjs-backend-webgpu's `BufferManager` that are used outside of it. */
export class BufferPool {
  /** Bytes of buffers that tensors and kernels hold. */
  numBytesUsed = 0;
  /** Bytes of these and of free buffers. */
  numBytesAllocated = 0;
  private readonly entries = new Map<GPUBuffer, Entry>();
  private readonly free = new Map<GPUBufferUsageFlags, Map<number, GPUBuffer[]>>();
  private made = 0;

  constructor(private readonly device: GPUDevice) {}

  /** @param reuse Whether the buffer may be one that was released. */
  acquireBuffer(size: number, usage: GPUBufferUsageFlags, mappedAtCreation = false, reuse = true): GPUBuffer {
    const bySize = remember(this.free, usage, () => new Map<number, GPUBuffer[]>());
    const free = remember(bySize, size, () => []);
    this.numBytesUsed += size;
    return (reuse ? free.pop() : undefined) ?? this.make(size, usage, mappedAtCreation, free);
  }

  private make(size: number, usage: GPUBufferUsageFlags, mappedAtCreation: boolean, free: GPUBuffer[]): GPUBuffer {
    const buffer = this.device.createBuffer({size, usage, mappedAtCreation});
    this.entries.set(buffer, {number: this.made++, size, free});
    this.numBytesAllocated += size;
    return buffer;
  }

  /**
   * Gives a buffer back.
   *
   * @param reuse False to destroy it.
   */
  releaseBuffer(buffer: GPUBuffer, reuse = true): void {
    const entry = this.entries.get(buffer);
    // dispose() has destroyed it.
    if (!entry) return;
    this.numBytesUsed -= entry.size;
    if (reuse) this.insert(buffer, entry);
    else {
      this.numBytesAllocated -= entry.size;
      this.entries.delete(buffer);
      buffer.destroy();
    }
  }

  /** Among buffers with descending numbers. */
  private insert(buffer: GPUBuffer, {number, free}: Entry): void {
    let i = free.length;
    for (; i > 0 && this.entries.get(free[i - 1])!.number < number; i--) free[i] = free[i - 1];
    free[i] = buffer;
  }

  /** Takes a buffer that was given out off the books. Its user keeps it. */
  forget(buffer: GPUBuffer): void {
    const {size} = this.entries.get(buffer)!;
    this.entries.delete(buffer);
    this.numBytesUsed -= size;
    this.numBytesAllocated -= size;
  }

  dispose(): void {
    for (const buffer of this.entries.keys()) buffer.destroy();
    this.entries.clear();
    this.free.clear();
    this.numBytesUsed = this.numBytesAllocated = 0;
  }
}
