/**
 * @file Reads files out of a zip archive (a Python wheel) on the disk, one at a time and without holding any in memory.
 */
import {createReadStream, createWriteStream, mkdirSync} from 'node:fs';
import type {FileHandle} from 'node:fs/promises';
import {open} from 'node:fs/promises';
import {dirname} from 'node:path';
import {PassThrough, Transform} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import * as zlib from 'node:zlib';

export interface ZipEntry {
  name: string;
  /** 0: stored, 8: deflated. */
  method: number;
  crc: number;
  packedSize: number;
  size: number;
  /** Offset of its local header. */
  offset: number;
}

const END_SIGNATURE = 0x06054b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
/** Size of the smallest end record, and of the longest one, with a comment. */
const END_SIZE = 22;
const LONGEST_END = END_SIZE + 0xffff;
const CENTRAL_SIZE = 46;
const LOCAL_SIZE = 30;
/** Marks a number that is stored in a zip64 field. Only files over 4 GiB need one, and no wheel has such files. */
const ZIP64 = 0xffffffff;
const STORED = 0;
const DEFLATED = 8;

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const {buffer, bytesRead} = await file.read(Buffer.alloc(length), 0, length, position);
  if (bytesRead < length) {
    throw new Error('truncated archive');
  }
  return buffer;
}

/** The list of files at the archive's end. */
async function readCentral(file: FileHandle): Promise<Buffer> {
  const {size} = await file.stat();
  const length = Math.min(size, LONGEST_END);
  const end = await readAt(file, size - length, length);
  for (let at = length - END_SIZE; at >= 0; at--) {
    if (end.readUInt32LE(at) === END_SIGNATURE) {
      const centralSize = end.readUInt32LE(at + 12);
      const start = end.readUInt32LE(at + 16);
      if (start + centralSize > size) {
        throw new Error('truncated archive');
      }
      return readAt(file, start, centralSize);
    }
  }
  throw new Error('no zip archive, or a truncated one');
}

function parseCentral(central: Buffer): ZipEntry[] {
  const entries: ZipEntry[] = [];
  for (let at = 0; at + CENTRAL_SIZE <= central.length;) {
    if (central.readUInt32LE(at) !== CENTRAL_SIGNATURE) {
      throw new Error('damaged list of files');
    }
    const nameLength = central.readUInt16LE(at + 28);
    const entry = {
      name: central.toString('utf8', at + CENTRAL_SIZE, at + CENTRAL_SIZE + nameLength),
      method: central.readUInt16LE(at + 10),
      crc: central.readUInt32LE(at + 16),
      packedSize: central.readUInt32LE(at + 20),
      size: central.readUInt32LE(at + 24),
      offset: central.readUInt32LE(at + 42),
    };
    if ([entry.packedSize, entry.size, entry.offset].includes(ZIP64)) {
      throw new Error(`${entry.name} is over 4 GiB`);
    }
    entries.push(entry);
    at += CENTRAL_SIZE + nameLength + central.readUInt16LE(at + 30) + central.readUInt16LE(at + 32);
  }
  return entries;
}

/** The files of a zip archive. Throws if it is damaged. */
export async function zipEntries(archive: string): Promise<ZipEntry[]> {
  const file = await open(archive);
  try {
    const entries = parseCentral(await readCentral(file));
    return entries.filter(({name}) => !name.endsWith('/'));
  } finally {
    await file.close();
  }
}

async function startOfData(archive: string, {offset, name}: ZipEntry): Promise<number> {
  const file = await open(archive);
  try {
    const header = await readAt(file, offset, LOCAL_SIZE);
    if (header.readUInt32LE(0) !== LOCAL_SIGNATURE) {
      throw new Error(`damaged header of ${name}`);
    }
    return offset + LOCAL_SIZE + header.readUInt16LE(26) + header.readUInt16LE(28);
  } finally {
    await file.close();
  }
}

/** Passes the unpacked bytes on, counts them and, if this Node can, computes their checksum. */
class Checked extends Transform {
  size = 0;
  crc = 0;

  constructor(private readonly onBytes?: (bytes: number) => void) {
    super();
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error: null, chunk: Buffer) => void): void {
    this.size += chunk.length;
    this.crc = hasCrc32 ? zlib.crc32(chunk, this.crc) : 0;
    this.onBytes?.(chunk.length);
    done(null, chunk);
  }
}

/** Node 20.15 and 22.2 added it. */
const hasCrc32 = typeof zlib.crc32 === 'function';

/** Writes one file of an archive to `path` and makes its folders. Throws if its data is damaged. */
export async function unzip(
  archive: string,
  entry: ZipEntry,
  path: string,
  onBytes?: (bytes: number) => void,
): Promise<void> {
  if (entry.method !== STORED && entry.method !== DEFLATED) {
    throw new Error(`${entry.name} is packed by method ${entry.method}`);
  }
  mkdirSync(dirname(path), {recursive: true});
  const start = await startOfData(archive, entry);
  const checked = new Checked(onBytes);
  // An empty range cannot be read, because `end` is inclusive.
  const packed = entry.packedSize
    ? createReadStream(archive, {start, end: start + entry.packedSize - 1, highWaterMark: 1 << 20})
    : new PassThrough().end();
  const unpack = entry.method === DEFLATED ? zlib.createInflateRaw({chunkSize: 1 << 20}) : new PassThrough();
  await pipeline(packed, unpack, checked, createWriteStream(path, {mode: 0o755}));
  if (checked.size !== entry.size || (hasCrc32 && checked.crc !== entry.crc)) {
    throw new Error(`${entry.name} is damaged`);
  }
}
