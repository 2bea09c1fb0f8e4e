/**
 * @file Truncates and changes files, and checks that readers then fail clearly, quickly and without large allocations.
 */
import {writeFileSync} from 'node:fs';
import {expect} from 'chai';
import * as fc from 'fast-check';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';

/** The message with which a promise rejects. Fails unless the promise rejects with a plain Error. */
export async function rejection(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => expect.fail('It should have failed.'),
    (reason: unknown) => reason,
  );
  expect((error as Error).constructor, String(error)).to.equal(Error);
  return (error as Error).message;
}

/** More than the buffers of any reader, and far less than a hostile length requests. */
const MOST_BYTES = 8 * 2 ** 20;
/** CPU time, because other processes may delay this one. */
const MOST_MS = 500;

/**
 * Reads a small valid file after truncating it at every length and after random changes of bytes, mostly those of
 * lengths. Each reading must end in a plain Error that names the file, or in tensors that fit in the file.
 */
export async function expectClearErrorOrTensors(
  path: string,
  sound: Buffer,
  read: () => Promise<HostTensor[]>,
): Promise<void> {
  const attempt = async (bytes: Uint8Array): Promise<void> => {
    writeFileSync(path, bytes);
    const before = process.memoryUsage();
    const started = process.cpuUsage();
    try {
      for (const {shape, data} of await read()) {
        expect(data.length).to.equal(shape.reduce((product, size) => product * size, 1));
        expect(data.length).to.be.at.most(2 * bytes.length);
      }
    } catch (error) {
      expect((error as Error).constructor, String((error as Error).stack)).to.equal(Error);
      expect((error as Error).message).to.include(path);
    }
    const after = process.memoryUsage();
    const {user, system} = process.cpuUsage(started);
    expect((user + system) / 1000, 'milliseconds of CPU time').to.be.below(MOST_MS);
    expect(after.arrayBuffers - before.arrayBuffers, 'array buffers').to.be.below(MOST_BYTES);
    expect(after.heapUsed - before.heapUsed, 'heap').to.be.below(MOST_BYTES);
  };
  await attempt(sound);
  const step = Math.max(1, Math.floor(sound.length / 400));
  for (let length = 0; length < sound.length; length += step) {
    await attempt(sound.subarray(0, length));
  }
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff));
  const change = fc.tuple(fc.nat(sound.length - 1), fc.array(byte, {minLength: 1, maxLength: 8}));
  await fc.assert(
    fc.asyncProperty(fc.array(change, {minLength: 1, maxLength: 3}), async (changes) => {
      const bytes = Buffer.from(sound);
      changes.forEach(([at, values]) => bytes.set(values.slice(0, bytes.length - at), at));
      await attempt(bytes);
    }),
    {seed: 1, numRuns: 1500},
  );
}
