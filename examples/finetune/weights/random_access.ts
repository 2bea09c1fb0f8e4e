/** @file Reads byte ranges of a file and reports a file that ends too early. */
import {constants, readSync} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';

/** Linux reads at most 2^31 - 4096 bytes in one call. */
const MOST_BYTES = 2 ** 30;

/** A file open for reading. Its size was taken when it was opened. */
export class RandomAccessFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** Throws if the file cannot be opened or is not a regular file, and names the path. */
  static async open(path: string): Promise<RandomAccessFile> {
    let handle: FileHandle;
    try {
      // Without O_NONBLOCK a named pipe would block.
      handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (error) {
      throw new Error(`Cannot read ${path} (${(error as NodeJS.ErrnoException).code}). Give the path of a file.`);
    }
    const stat = await handle.stat();
    if (!stat.isFile()) {
      await handle.close();
      throw new Error(`${path} is no file.`);
    }
    return new RandomAccessFile(path, stat.size, handle);
  }

  /** Fills `bytes` from byte `position` on. Throws if the file ends earlier. */
  async readInto(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const length = Math.min(bytes.length - done, MOST_BYTES);
      const {bytesRead} = await this.handle.read(bytes, done, length, position + done);
      this.checkProgress(bytesRead, position + done);
      done += bytesRead;
    }
  }

  /** The bytes `[start, end)`. Check them against `size` first, because they are allocated. */
  async read(start: number, end: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(end - start);
    await this.readInto(bytes, start);
    return bytes;
  }

  /** Like `read`, but synchronous: for headers, whose many small parts are not worth awaiting. */
  readSync(start: number, end: number): Buffer {
    const bytes = Buffer.allocUnsafeSlow(end - start);
    for (let done = 0; done < bytes.length;) {
      const bytesRead = readSync(this.handle.fd, bytes, done, bytes.length - done, start + done);
      this.checkProgress(bytesRead, start + done);
      done += bytesRead;
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.handle.close();
  }

  private checkProgress(bytesRead: number, position: number): void {
    if (bytesRead === 0) {
      throw new Error(`${this.path} ends at byte ${position}, while it is being read. Is it being replaced?`);
    }
  }
}
