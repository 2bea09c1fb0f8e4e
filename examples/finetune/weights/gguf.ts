/**
 * @file Reads .gguf files: metadata, and tensors on request. Checks every count, length and offset against the file
 * before it allocates anything. @huggingface/gguf instead reads zeros beyond the end of a truncated file. Format:
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import type {HostTensor} from '../host_tensor.js';
import {type BlockFormat, FORMATS, OTHER_FORMATS} from './dequantize.js';
import {RandomAccessFile} from './random_access.js';

export type GgufValue = number | boolean | string | number[] | boolean[] | string[];

export interface GgufTensor {
  format: BlockFormat;
  /** Outermost dimension first, as in Hugging Face's files. GGUF itself writes the innermost first. */
  shape: number[];
  /** First byte in the file. */
  start: number;
  /** Byte after the last one. */
  end: number;
}

const MAGIC = 'GGUF';
const DEFAULT_ALIGNMENT = 32;
const MOST_ALIGNMENT = 2 ** 20;
const MOST_DIMENSIONS = 4;
/** Real headers have a few megabytes: vocabulary and merges. */
const MOST_HEADER_BYTES = 2 ** 26;
/** Most items of a list. The largest vocabularies have a quarter of a million tokens. */
const MOST_ITEMS = 2 ** 22;
const WINDOW_BYTES = 2 ** 20;
const CHUNK_BLOCKS = 2 ** 14;

/** An open file: its metadata, and its tensors on request. */
export class GgufFile {
  constructor(
    private readonly file: RandomAccessFile,
    readonly metadata: ReadonlyMap<string, GgufValue>,
    readonly tensors: ReadonlyMap<string, GgufTensor>,
  ) {}

  get path(): string {
    return this.file.path;
  }

  /** One tensor as float32. */
  async read(name: string): Promise<HostTensor> {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) {
      throw new Error(`${this.path} has no tensor ${name}.`);
    }
    const {format, shape, start, end} = tensor;
    const data = new Float32Array(((end - start) / format.bytes) * format.numbers);
    const chunk = CHUNK_BLOCKS * format.bytes;
    for (let at = start, to = 0; at < end; at += chunk, to += CHUNK_BLOCKS * format.numbers) {
      const blocks = await this.file.read(at, Math.min(at + chunk, end));
      format.dequantize(blocks, data.subarray(to, to + CHUNK_BLOCKS * format.numbers));
    }
    return {shape: [...shape], data};
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** Opens a file and checks its header. Errors name the file and the problem. */
export async function openGguf(path: string): Promise<GgufFile> {
  const file = await RandomAccessFile.open(path);
  try {
    const cursor = new Cursor(file);
    const {tensorCount, valueCount} = readCounts(cursor);
    const metadata = readMetadata(cursor, valueCount);
    return new GgufFile(file, metadata, readTensors(cursor, tensorCount, alignmentOf(metadata, path)));
  } catch (error) {
    await file.close();
    throw error;
  }
}

function damaged(path: string, why: string): Error {
  return new Error(`${path} is no sound .gguf file: ${why}. Download it again.`);
}

/** Reads a header from its start, little-endian, and never beyond the end of the file. */
class Cursor {
  position = 0;
  private window: Buffer = Buffer.alloc(0);
  private windowStart = 0;
  private readonly limit: number;

  constructor(private readonly file: RandomAccessFile) {
    this.limit = Math.min(file.size, MOST_HEADER_BYTES);
  }

  get path(): string {
    return this.file.path;
  }

  get size(): number {
    return this.file.size;
  }

  /** Throws unless the file can hold `count` more items of at least `bytesEach` bytes. */
  expect(count: number, bytesEach: number, what: string): void {
    const left = this.limit - this.position;
    if (count * bytesEach > left) {
      const end = this.limit < this.file.size ? `limit of ${this.limit} bytes for a header` : 'end of the file';
      throw damaged(
        this.path,
        `at byte ${this.position} it should have ${count * bytesEach} or more bytes of ${what}, but ${left} are left to the ${end}`,
      );
    }
  }

  /** The next bytes. The buffer is valid until the next call. */
  take(bytes: number, what: string): Buffer {
    this.expect(bytes, 1, what);
    const start = this.position;
    if (start + bytes > this.windowStart + this.window.length) {
      this.window = this.file.readSync(start, Math.min(start + Math.max(bytes, WINDOW_BYTES), this.limit));
      this.windowStart = start;
    }
    this.position += bytes;
    return this.window.subarray(start - this.windowStart, this.position - this.windowStart);
  }

  uint32(what: string): number {
    return this.take(4, what).readUInt32LE();
  }

  /** A 64-bit length, count or offset. Above 2^53 it may be inexact, but every check refuses such a number. */
  size64(what: string): number {
    return Number(this.take(8, what).readBigUInt64LE());
  }

  text(what: string): string {
    return this.take(this.size64(what), what).toString('utf8');
  }
}

function readCounts(cursor: Cursor): {tensorCount: number; valueCount: number} {
  if (cursor.take(4, 'its first word').toString('latin1') !== MAGIC) {
    throw damaged(cursor.path, `it does not begin with ${MAGIC}`);
  }
  const version = cursor.uint32('its version');
  if (version !== 2 && version !== 3) {
    const byteOrder = version % 65536 === 0 && version !== 0 ? ' (big-endian?)' : '';
    throw new Error(
      `${cursor.path} is of GGUF version ${version}${byteOrder}. Only little-endian versions 2 and 3 are supported.`,
    );
  }
  const tensorCount = cursor.size64('the number of its tensors');
  const valueCount = cursor.size64('the number of its metadata');
  // The least sizes: an empty name, and a value of one byte or a tensor without dimensions.
  cursor.expect(valueCount, 13, 'metadata');
  cursor.expect(tensorCount, 24, 'tensor descriptions');
  return {tensorCount, valueCount};
}

interface Scalar {
  bytes: number;
  read: (bytes: Buffer) => number | boolean;
}

/** GGUF's types of values except texts (8) and lists (9). */
const SCALARS: ReadonlyMap<number, Scalar> = new Map<number, Scalar>([
  [0, {bytes: 1, read: (bytes) => bytes.readUInt8()}],
  [1, {bytes: 1, read: (bytes) => bytes.readInt8()}],
  [2, {bytes: 2, read: (bytes) => bytes.readUInt16LE()}],
  [3, {bytes: 2, read: (bytes) => bytes.readInt16LE()}],
  [4, {bytes: 4, read: (bytes) => bytes.readUInt32LE()}],
  [5, {bytes: 4, read: (bytes) => bytes.readInt32LE()}],
  [6, {bytes: 4, read: (bytes) => bytes.readFloatLE()}],
  [7, {bytes: 1, read: (bytes) => bytes.readUInt8() !== 0}],
  [10, {bytes: 8, read: (bytes) => Number(bytes.readBigUInt64LE())}],
  [11, {bytes: 8, read: (bytes) => Number(bytes.readBigInt64LE())}],
  [12, {bytes: 8, read: (bytes) => bytes.readDoubleLE()}],
]);
const TEXT = 8;
const LIST = 9;

function readMetadata(cursor: Cursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.text('a metadata key');
    const name = JSON.stringify(key.slice(0, 80));
    if (metadata.has(key)) {
      throw damaged(cursor.path, `it has the metadata ${name} twice`);
    }
    const type = cursor.uint32(`the type of ${name}`);
    metadata.set(key, type === LIST ? readList(cursor, name) : readScalar(cursor, type, name));
  }
  return metadata;
}

function readScalar(cursor: Cursor, type: number, name: string): number | boolean | string {
  const scalar = SCALARS.get(type);
  if (scalar !== undefined) {
    return scalar.read(cursor.take(scalar.bytes, name));
  }
  if (type !== TEXT) {
    throw damaged(cursor.path, `its metadata ${name} is of the unknown type ${type}`);
  }
  return cursor.text(name);
}

function readList(cursor: Cursor, name: string): GgufValue {
  const type = cursor.uint32(name);
  const count = cursor.size64(name);
  if (type === LIST) {
    throw new Error(`${cursor.path}: the metadata ${name} is a list of lists, which is not supported.`);
  }
  if (count > MOST_ITEMS) {
    throw damaged(cursor.path, `its metadata ${name} has ${count} items, and ${MOST_ITEMS} are allowed`);
  }
  // A text takes at least the bytes of its length.
  cursor.expect(count, SCALARS.get(type)?.bytes ?? 8, name);
  const values: unknown[] = [];
  for (let i = 0; i < count; i++) {
    values.push(readScalar(cursor, type, name));
  }
  return values as GgufValue;
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, path: string): number {
  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== 'number' || !(alignment >= 8 && alignment <= MOST_ALIGNMENT) || alignment % 8 !== 0) {
    throw damaged(
      path,
      `its general.alignment is ${alignment}, which should be a multiple of 8 up to ${MOST_ALIGNMENT}`,
    );
  }
  return alignment;
}

function readTensors(cursor: Cursor, count: number, alignment: number): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    const name = cursor.text('a tensor name');
    if (tensors.has(name)) {
      throw damaged(cursor.path, `it has the tensor ${JSON.stringify(name)} twice`);
    }
    tensors.set(name, readTensor(cursor, name, alignment));
  }
  // Offsets count from the end of the descriptions, which is known only now.
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  for (const tensor of tensors.values()) {
    tensor.start += dataStart;
    tensor.end += dataStart;
  }
  checkPlaces(tensors, cursor);
  return tensors;
}

function readTensor(cursor: Cursor, name: string, alignment: number): GgufTensor {
  const bad = (why: string): Error => damaged(cursor.path, `its tensor ${JSON.stringify(name)} ${why}`);
  const dimensions = cursor.uint32(name);
  if (dimensions < 1 || dimensions > MOST_DIMENSIONS) {
    throw bad(`has ${dimensions} dimensions, which should be 1 to ${MOST_DIMENSIONS}`);
  }
  const shape = Array.from({length: dimensions}, () => cursor.size64(name)).reverse();
  const numbers = shape.reduce((product, length) => product * length, 1);
  if (shape.includes(0) || !Number.isSafeInteger(numbers)) {
    throw bad(`has the shape [${shape}], whose lengths should be above 0 and their product below 2^53`);
  }
  const type = cursor.uint32(name);
  const format = FORMATS.get(type);
  if (format === undefined) {
    const names = Array.from(FORMATS.values(), (known) => known.name).join(', ');
    throw new Error(
      `${cursor.path}: the tensor ${JSON.stringify(name)} is of type ${OTHER_FORMATS.get(type) ?? type}. Supported are ${names}.`,
    );
  }
  if (shape.at(-1)! % format.numbers !== 0) {
    throw bad(`of type ${format.name} and shape [${shape}] has rows that are no multiple of ${format.numbers}`);
  }
  const start = cursor.size64(name);
  if (start % alignment !== 0) {
    throw bad(`begins at offset ${start}, which should be a multiple of ${alignment}`);
  }
  return {format, shape, start, end: start + (numbers / format.numbers) * format.bytes};
}

/** Checks that no tensor extends beyond the file or into another tensor. */
function checkPlaces(tensors: ReadonlyMap<string, GgufTensor>, {path, size}: Cursor): void {
  let before = 0;
  for (const [name, {start, end}] of [...tensors].sort(([, a], [, b]) => a.start - b.start)) {
    if (end > size) {
      throw damaged(
        path,
        `its tensor ${JSON.stringify(name)} ends at byte ${end}, but the file has ${size}: it is truncated`,
      );
    }
    if (start < before) {
      throw damaged(path, `its tensor ${JSON.stringify(name)} overlaps the one before it`);
    }
    before = end;
  }
}
