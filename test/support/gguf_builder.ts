/** @file Builds small .gguf files for tests, valid or not: version 3, little-endian. */

type Value = ['u32', number] | ['f32', number] | ['bool', boolean] | ['text', string] | ['list', Value[]];

export interface BuiltTensor {
  name: string;
  /** Outermost dimension first; the file stores the reverse order. */
  shape: number[];
  /** The number of the format in ggml. */
  type: number;
  bytes: Uint8Array;
}

const TYPES = {u32: 4, f32: 6, bool: 7, text: 8, list: 9};
const ALIGNMENT = 32;

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function content([type, value]: Value): Buffer {
  switch (type) {
    case 'u32':
      return u32(value);
    case 'f32': {
      const bytes = Buffer.alloc(4);
      bytes.writeFloatLE(value);
      return bytes;
    }
    case 'bool':
      return Buffer.from([value ? 1 : 0]);
    case 'text':
      return text(value);
    case 'list':
      return Buffer.concat([u32(TYPES[value[0][0]]), u64(value.length), ...value.map(content)]);
  }
}

export type Metadata = Record<string, Value>;

export const texts = (values: readonly string[]): Value => ['list', values.map((value) => ['text', value])];
export const floats = (values: readonly number[]): Value => ['list', values.map((value) => ['f32', value])];
export const whole = (values: readonly number[]): Value => ['list', values.map((value) => ['u32', value])];

/** Tensor of float32 numbers. */
export function f32(name: string, shape: number[], numbers: ArrayLike<number>): BuiltTensor {
  return {name, shape, type: 0, bytes: new Uint8Array(Float32Array.from(numbers).buffer)};
}

export function metadataBytes(metadata: Metadata): Buffer {
  const entries = Object.entries(metadata);
  return Buffer.concat(entries.map(([key, value]) => Buffer.concat([text(key), u32(TYPES[value[0]]), content(value)])));
}

/** Description of a tensor whose data begins at `offset`. */
export function describeTensor({name, shape, type}: Omit<BuiltTensor, 'bytes'>, offset: number | bigint): Buffer {
  return Buffer.concat([text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(type), u64(offset)]);
}

/** A file with any counts; `tensors` are descriptions, `data` is aligned and follows them. */
export function rawGguf(
  counts: {tensors: number | bigint; metadata: number | bigint},
  metadata: Buffer,
  tensors: Buffer,
  data: Buffer,
): Buffer {
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(counts.tensors),
    u64(counts.metadata),
    metadata,
    tensors,
  ]);
  return Buffer.concat([padded(header), data]);
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((ALIGNMENT - (bytes.length % ALIGNMENT)) % ALIGNMENT)]);
}

/** A valid file. */
export function gguf(metadata: Metadata, tensors: readonly BuiltTensor[]): Buffer {
  let offset = 0;
  const descriptions = tensors.map((tensor) => {
    const description = describeTensor(tensor, offset);
    offset += padded(tensor.bytes).length;
    return description;
  });
  return rawGguf(
    {tensors: tensors.length, metadata: Object.keys(metadata).length},
    metadataBytes(metadata),
    Buffer.concat(descriptions),
    Buffer.concat(tensors.map(({bytes}) => padded(bytes))),
  );
}
