/**
 * @file Reads and writes .safetensors files: 8 bytes of header length, a JSON header, then the tensors' bytes. Reading
 * checks the whole header against the file before it allocates anything else. Format:
 * https://github.com/huggingface/safetensors#format
 */
import {type FileHandle, open, rename, rm} from 'node:fs/promises';
import {dirname} from 'node:path';
import {inspect} from 'node:util';
import type {HostTensor} from '../host_tensor.js';
import {syncFolder} from '../train/durable_files.js';
import {bfloat16ToFloat32, float16ToFloat32} from './float16.js';
import {RandomAccessFile} from './random_access.js';

/** Where a tensor lies. */
export interface TensorEntry {
  dtype: string;
  shape: number[];
  /** First byte in the file. */
  start: number;
  /** Byte after the last one. */
  end: number;
}

const LENGTH_BYTES = 8;
/** The hub's limit. The headers of real files have less than a tenth of it. */
const MOST_HEADER_BYTES = 25_000_000;
const CHUNK_BYTES = 4 * 2 ** 20;
const BYTES_OF: Readonly<Record<string, number>> = {
  ...{BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, I16: 2, U16: 2, F16: 2, BF16: 2},
  ...{I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8, C64: 8},
};

/** An open file: its header, and its tensors on request. */
export class SafetensorsFile {
  constructor(
    private readonly file: RandomAccessFile,
    readonly entries: ReadonlyMap<string, TensorEntry>,
    /** The header's `__metadata__`: texts by name. */
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  /** Reads one tensor of F32, F16 or BF16. Throws if there is none of that name or it has another type. */
  async read(name: string): Promise<HostTensor> {
    const entry = this.entries.get(name);
    if (entry === undefined) {
      throw new Error(`${this.file.path} has no tensor ${name}.`);
    }
    const {dtype, shape, start, end} = entry;
    if (!['F32', 'F16', 'BF16'].includes(dtype)) {
      throw new Error(`${this.file.path}: ${name} is of type ${dtype}. Only F32, F16 and BF16 are supported.`);
    }
    const data = new Float32Array((end - start) / BYTES_OF[dtype]);
    if (dtype === 'F32') {
      await this.file.readInto(new Uint8Array(data.buffer), start);
    } else {
      await this.readHalves(data, entry, dtype === 'F16' ? float16ToFloat32 : bfloat16ToFloat32);
    }
    return {shape: [...shape], data};
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  private async readHalves(
    data: Float32Array,
    {start, end}: TensorEntry,
    convert: (bytes: Uint8Array, out: Float32Array) => void,
  ): Promise<void> {
    for (let at = start; at < end; at += CHUNK_BYTES) {
      const bytes = await this.file.read(at, Math.min(at + CHUNK_BYTES, end));
      convert(bytes, data.subarray((at - start) / 2, (at - start + bytes.length) / 2));
    }
  }
}

/** Opens a file and checks its header. Errors name the file and the problem. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await RandomAccessFile.open(path);
  try {
    const {header, text, dataStart} = await readHeader(file);
    const metadata = parseMetadata(header.get('__metadata__'), path);
    header.delete('__metadata__');
    const entries = new Map<string, TensorEntry>();
    for (const [name, entry] of header) {
      entries.set(name, parseEntry(name, entry, {path, dataStart, size: file.size}));
    }
    const twice = repeatedKey(text);
    if (twice !== null) {
      throw damaged(path, `its header has ${twice} twice`);
    }
    checkCoverage(entries, {path, dataStart, size: file.size});
    return new SafetensorsFile(file, entries, metadata);
  } catch (error) {
    await file.close();
    throw error;
  }
}

function damaged(path: string, why: string): Error {
  return new Error(`${path} is no sound .safetensors file: ${why}. Download or write it again.`);
}

interface Header {
  header: Map<string, unknown>;
  /** The text it was parsed from. */
  text: string;
  /** Byte at which the tensors begin. */
  dataStart: number;
}

async function readHeader(file: RandomAccessFile): Promise<Header> {
  const {path, size} = file;
  if (size < LENGTH_BYTES) {
    throw damaged(path, `it has ${size} bytes, and its header's length alone takes ${LENGTH_BYTES}`);
  }
  const length = (await file.read(0, LENGTH_BYTES)).readBigUInt64LE(0);
  if (length > BigInt(size - LENGTH_BYTES)) {
    throw damaged(path, `its header should have ${length} bytes, but the file has ${size}`);
  }
  if (length > MOST_HEADER_BYTES) {
    throw damaged(path, `its header should have ${length} bytes, and at most ${MOST_HEADER_BYTES} are allowed`);
  }
  const dataStart = LENGTH_BYTES + Number(length);
  const text = (await file.read(LENGTH_BYTES, dataStart)).toString('utf8');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw damaged(path, `its header is not JSON (${(error as Error).message})`);
  }
  if (!isRecord(json)) {
    throw damaged(path, 'its header is not a JSON object');
  }
  return {header: new Map(Object.entries(json)), text, dataStart};
}

/**
 * The first key that occurs twice in a JSON object of objects, with its quotes. JSON.parse would silently keep the last
 * one. In valid JSON of this form the texts at depth 1 are the keys.
 */
function repeatedKey(json: string): string | null {
  const seen = new Set<unknown>();
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === '{' || character === '[') {
      depth++;
    } else if (character === '}' || character === ']') {
      depth--;
    } else if (character === '"') {
      const start = at;
      for (at++; json[at] !== '"'; at++) {
        at += json[at] === '\\' ? 1 : 0;
      }
      if (depth === 1) {
        const text = json.slice(start, at + 1);
        const key: unknown = JSON.parse(text);
        if (seen.has(key)) {
          return text;
        }
        seen.add(key);
      }
    }
  }
  return null;
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  // Some writers without metadata write null.
  if (value === undefined || value === null) {
    return {};
  }
  if (!isRecord(value) || !Object.values(value).every((text) => typeof text === 'string')) {
    throw damaged(path, 'its __metadata__ is not an object of texts');
  }
  return value as Record<string, string>;
}

interface Place {
  path: string;
  /** Byte at which the tensors begin. */
  dataStart: number;
  size: number;
}

function parseEntry(name: string, value: unknown, {path, dataStart, size}: Place): TensorEntry {
  const bad = (why: string): Error => damaged(path, `tensor ${JSON.stringify(name)} ${why}`);
  if (!isRecord(value)) {
    throw bad('is not described by an object');
  }
  const {dtype, shape, data_offsets: offsets} = value;
  if (typeof dtype !== 'string') {
    throw bad(`has the type ${shorten(dtype)}, which should be a text`);
  }
  if (!isSizes(shape)) {
    throw bad(`has the shape ${shorten(shape)}, which should be a list of whole numbers`);
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw bad(
      `has the data_offsets ${shorten(offsets)}, which should be two whole numbers, the first not above the second`,
    );
  }
  const [begin, end] = offsets;
  // A type of tomorrow may be that of a tensor that nobody reads.
  const bytes = Object.hasOwn(BYTES_OF, dtype) ? byteLength(shape, BYTES_OF[dtype]) : end - begin;
  if (bytes !== end - begin) {
    throw bad(`of type ${dtype} and shape [${shape}] takes ${bytes} bytes, but its data_offsets span ${end - begin}`);
  }
  if (end > size - dataStart) {
    throw bad(`ends at byte ${dataStart + end}, but the file has ${size}: it is truncated`);
  }
  return {dtype, shape, start: dataStart + begin, end: dataStart + end};
}

/** Bytes of a tensor. Infinity above the largest exact integer. */
function byteLength(shape: readonly number[], bytesEach: number): number {
  if (shape.includes(0)) {
    return 0;
  }
  const bytes = shape.reduce((product, length) => product * length, bytesEach);
  return Number.isSafeInteger(bytes) ? bytes : Infinity;
}

/** Checks that the tensors fill the file: every byte belongs to exactly one tensor. */
function checkCoverage(entries: ReadonlyMap<string, TensorEntry>, {path, dataStart, size}: Place): void {
  const inOrder = [...entries].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  let at = dataStart;
  for (const [name, {start, end}] of inOrder) {
    if (start !== at) {
      const relation = start < at ? 'overlaps the tensor before it' : `leaves ${start - at} bytes before it unused`;
      throw damaged(path, `tensor ${JSON.stringify(name)} ${relation}`);
    }
    at = end;
  }
  if (at !== size) {
    throw damaged(path, `its tensors end at byte ${at}, but the file has ${size}`);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function shorten(value: unknown): string {
  return inspect(value, {breakLength: Infinity}).slice(0, 60);
}

/** Tensors by name, in memory or made one by one. */
export type Tensors = Iterable<readonly [string, HostTensor]> | AsyncIterable<readonly [string, HostTensor]>;

/** The shapes of tensors in memory, for `writeSafetensors`. */
export function shapesOf(tensors: Iterable<readonly [string, HostTensor]>): Map<string, number[]> {
  return new Map(Array.from(tensors, ([name, {shape}]) => [name, shape]));
}

/**
 * Writes float32 tensors in one step: if the process stops, the file is the old or the new one, complete. Memory needs
 * only one tensor at a time, and the tensors may come in any order.
 *
 * @param shapes Name and shape of every tensor. They make the header, which comes first in the file.
 * @param metadata Texts for `__metadata__`. Python's transformers needs `format`.
 * @throws if the tensors are not exactly those of `shapes`, or if the file system fails. Then `path` is unchanged.
 * @example await writeSafetensors(path, shapesOf(tensors), tensors);
 */
export async function writeSafetensors(
  path: string,
  shapes: ReadonlyMap<string, readonly number[]>,
  tensors: Tensors,
  metadata: Readonly<Record<string, string>> = {format: 'pt'},
): Promise<void> {
  const {header, starts} = layOut(shapes, metadata);
  const temporary = `${path}.${process.pid}.tmp`;
  const handle = await open(temporary, 'w');
  try {
    try {
      await writeAll(handle, header, 0);
      await writeTensors(handle, tensors, {shapes, starts, path});
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } finally {
    await rm(temporary, {force: true});
  }
}

function layOut(
  shapes: ReadonlyMap<string, readonly number[]>,
  metadata: Readonly<Record<string, string>>,
): {header: Buffer; starts: Map<string, number>} {
  const entries: [string, unknown][] = [['__metadata__', metadata]];
  const offsets = new Map<string, number>();
  let end = 0;
  // Sort by name, as the safetensors package sorts tensors of one type.
  for (const [name, shape] of [...shapes].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const begin = end;
    end += byteLength(shape, BYTES_OF.F32);
    entries.push([name, {dtype: 'F32', shape, data_offsets: [begin, end]}]);
    offsets.set(name, begin);
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  // Pad with spaces to a multiple of 8 bytes, so that the tensors start aligned.
  const header = Buffer.alloc(LENGTH_BYTES + Math.ceil(json.length / 8) * 8, ' ');
  header.writeBigUInt64LE(BigInt(header.length - LENGTH_BYTES), 0);
  json.copy(header, LENGTH_BYTES);
  return {header, starts: new Map(Array.from(offsets, ([name, offset]) => [name, header.length + offset]))};
}

async function writeTensors(
  handle: FileHandle,
  tensors: Tensors,
  wanted: {shapes: ReadonlyMap<string, readonly number[]>; starts: ReadonlyMap<string, number>; path: string},
): Promise<void> {
  const missing = new Set(wanted.shapes.keys());
  for await (const [name, {shape, data}] of tensors) {
    const expected = missing.delete(name) ? wanted.shapes.get(name) : undefined;
    if (shape.join() !== expected?.join() || 4 * data.length !== byteLength(shape, BYTES_OF.F32)) {
      const announced = expected === undefined ? 'no such tensor' : `one of [${expected}]`;
      throw new Error(
        `${wanted.path}: got ${name} of shape [${shape}] with ${data.length} numbers, where ${announced} was still to come.`,
      );
    }
    await writeAll(handle, new Uint8Array(data.buffer, data.byteOffset, data.byteLength), wanted.starts.get(name)!);
  }
  if (missing.size > 0) {
    throw new Error(`${wanted.path}: no numbers came for ${[...missing].join(', ')}.`);
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const {bytesWritten} = await handle.write(bytes, done, Math.min(bytes.length - done, 2 ** 30), position + done);
    done += bytesWritten;
  }
}
