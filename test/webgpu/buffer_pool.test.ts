/** @file Which buffer the pool gives out, and what it counts. */
import {expect} from 'chai';
import {BufferPool} from '../../src/backends/webgpu/device/reuse/buffer_pool.js';

const STORAGE = 0x80;
const UNIFORM = 0x40;

/** A device whose buffers are numbered, and the numbers of those destroyed. */
function poolOf() {
  let made = 0;
  const destroyed: number[] = [];
  const createBuffer = () => {
    const number = made++;
    return {number, destroy: () => destroyed.push(number)};
  };
  const pool = new BufferPool({createBuffer} as unknown as GPUDevice);
  return {pool, destroyed, numberOf: (buffer: GPUBuffer) => (buffer as unknown as {number: number}).number};
}

describe('buffer pool', () => {
  it('gives out the free buffer that was made first, in whatever order buffers come back', () => {
    const {pool, numberOf} = poolOf();
    const buffers = [0, 1, 2, 3, 4].map(() => pool.acquireBuffer(16, STORAGE));
    for (const i of [3, 0, 4, 1]) pool.releaseBuffer(buffers[i]);
    expect([0, 1, 2, 3, 4].map(() => numberOf(pool.acquireBuffer(16, STORAGE)))).to.deep.equal([0, 1, 3, 4, 5]);
  });

  it('keeps sizes and usages apart, and gives out no used buffer where a new one is asked for', () => {
    const {pool, numberOf} = poolOf();
    pool.releaseBuffer(pool.acquireBuffer(16, STORAGE));
    expect(numberOf(pool.acquireBuffer(32, STORAGE))).to.equal(1);
    expect(numberOf(pool.acquireBuffer(16, UNIFORM))).to.equal(2);
    expect(numberOf(pool.acquireBuffer(16, STORAGE, true, false))).to.equal(3);
    expect(numberOf(pool.acquireBuffer(16, STORAGE))).to.equal(0);
  });

  it('counts the bytes in use and all bytes', () => {
    const {pool, destroyed} = poolOf();
    const bytes = (): number[] => [pool.numBytesUsed, pool.numBytesAllocated];
    const [first, second, third] = [16, 16, 8].map((size) => pool.acquireBuffer(size, STORAGE));
    expect(bytes()).to.deep.equal([40, 40]);
    pool.releaseBuffer(first);
    expect(bytes()).to.deep.equal([24, 40]);
    pool.releaseBuffer(second, false);
    expect(bytes()).to.deep.equal([8, 24]);
    expect(destroyed).to.deep.equal([1]);
    pool.forget(third);
    expect(bytes()).to.deep.equal([0, 16]);
  });

  it('destroys free and used buffers with the backend, and takes none back afterwards', () => {
    const {pool, destroyed} = poolOf();
    const [free, used] = [16, 16].map((size) => pool.acquireBuffer(size, STORAGE));
    pool.releaseBuffer(free);
    pool.dispose();
    expect(destroyed).to.deep.equal([0, 1]);
    pool.releaseBuffer(used);
    expect([pool.numBytesUsed, pool.numBytesAllocated]).to.deep.equal([0, 0]);
  });
});
