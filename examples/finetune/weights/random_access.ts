/** @file Reads byte ranges of a file, and says so when the file ends too early. */
import {constants, readSync} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';

/** Linux reads at most 2^31 - 4096 bytes in one call. */
const MOST_BYTES = 2 ** 30;

/** A file open for reading, whose size was taken when it was opened. */
export class RandomAccessFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** Throws, naming the path, when it cannot be opened or is no regular file. */
  static async open(path: string): Promise<RandomAccessFile> {
    let handle: FileHandle;
    try {
      // Otherwise a named pipe would be waited for.
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

  /** Fills `bytes` from byte `position` on. Throws when the file ends before. */
  async readInto(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const length = Math.min(bytes.length - done, MOST_BYTES);
      const {bytesRead} = await this.handle.read(bytes, done, length, position + done);
      this.checkProgress(bytesRead, position + done);
      done += bytesRead;
    }
  }

  /** The bytes `[start, end)`; check them against `size` first, since they are allocated. */
  async read(start: number, end: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(end - start);
    await this.readInto(bytes, start);
    return bytes;
  }

  /** Like `read`, at once: for headers, whose many small parts are not worth awaiting. */
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
