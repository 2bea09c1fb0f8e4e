/** @file Reads files out of a zip archive (a Python wheel) on the disk, without holding any in memory. */
import {createWriteStream} from 'node:fs';
import {dirname} from 'node:path';
import {pipeline} from 'node:stream/promises';
import * as zlib from 'node:zlib';
import {makeFolder} from '../node_webgpu/make_folder.js';
import yauzl, {type Entry, type ZipFile} from 'yauzl';

/**
 * Opens an archive, runs `work` with its files, and closes it.
 *
 * @throws Error if the archive is damaged, or has a path that leads out of a folder.
 */
export async function withZip<T>(
  archive: string,
  work: (entries: Entry[], zip: ZipFile) => Promise<T> | T,
): Promise<T> {
  const zip = await yauzl.openPromise(archive, {autoClose: false});
  try {
    const entries: Entry[] = [];
    for await (const entry of zip.eachEntry()) if (!entry.fileName.endsWith('/')) entries.push(entry);
    return await work(entries, zip);
  } finally {
    zip.close();
  }
}

/** Node 20.15 and 22.2 added it. yauzl compares sizes, but not checksums. */
const hasCrc32 = typeof zlib.crc32 === 'function';

/** Writes one file of an archive to `path` and makes its folders. Throws if its data is damaged. */
export async function unzip(
  zip: ZipFile,
  entry: Entry,
  path: string,
  onBytes?: (bytes: number) => void,
): Promise<void> {
  makeFolder(dirname(path), 0o755);
  let crc = 0;
  const check = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      if (hasCrc32) crc = zlib.crc32(chunk, crc);
      onBytes?.(chunk.length);
      yield chunk;
    }
  };
  await pipeline(await zip.openReadStreamPromise(entry), check, createWriteStream(path, {mode: 0o755}));
  if (hasCrc32 && crc !== entry.crc32) throw new Error(`${entry.fileName} is damaged`);
}
