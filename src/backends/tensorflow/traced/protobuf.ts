/**
 * @file Writes and reads the few kinds of fields of which TensorFlow's graphs are made, in protobuf's wire format
 * (protobuf.dev/programming-guides/encoding). A message is the concatenation of its fields.
 */

const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED64 = 1;
const FIXED32 = 5;

/** An integer as groups of seven bits, the lowest first. Negative ones take ten bytes, as 64-bit numbers. */
function varint(value: number | bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    const more = rest > 127n;
    bytes.push(Number(rest & 127n) | (more ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

const tag = (field: number, wireType: number): Uint8Array => varint(field * 8 + wireType);

/** Concatenates fields to a message. */
export function message(...fields: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(fields.reduce((sum, {length}) => sum + length, 0));
  let at = 0;
  for (const field of fields) {
    all.set(field, at);
    at += field.length;
  }
  return all;
}

/** A field with an integer, an enumeration or a truth value. */
export const intField = (field: number, value: number | bigint | boolean): Uint8Array =>
  message(tag(field, VARINT), varint(BigInt(value)));

/** A field with a float32. */
export const floatField = (field: number, value: number): Uint8Array =>
  message(tag(field, FIXED32), new Uint8Array(Float32Array.of(value).buffer));

/** A field with bytes, or with a message. */
export const bytesField = (field: number, bytes: Uint8Array): Uint8Array =>
  message(tag(field, LENGTH_DELIMITED), varint(bytes.length), bytes);

/** A field with a text. */
export const textField = (field: number, text: string): Uint8Array => bytesField(field, new TextEncoder().encode(text));

/** A field that was read: its bytes, or its integer. */
export interface Field {
  field: number;
  bytes: Uint8Array;
  int: number;
}

/** The fields of a message, in order. */
export function fieldsOf(bytes: Uint8Array): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = next();
    const wireType = key & 7;
    const int = wireType === VARINT || wireType === LENGTH_DELIMITED ? next() : 0;
    const length = {[LENGTH_DELIMITED]: int, [FIXED32]: 4, [FIXED64]: 8}[wireType] ?? 0;
    fields.push({field: key >>> 3, bytes: bytes.subarray(at, at + length), int});
    at += length;
  }
  return fields;
}
