/** @file Writes and reads .safetensors files of float32 tensors, the format that Python's `safetensors` package reads. */
import {readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import type {HostArray} from './npz.js';

export interface TensorFile {
  tensors: Map<string, HostArray>;
  /** The file's `__metadata__`: texts by name. */
  metadata: Record<string, string>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const LENGTH_BYTES = 8;

/** Writes a file in one step: whoever stops the process finds the old file or the new one, whole. */
export function writeSafetensors(path: string, {tensors, metadata}: TensorFile): void {
  const header: Record<string, Entry | Record<string, string>> = {__metadata__: metadata};
  let end = 0;
  for (const [name, {shape, data}] of tensors) {
    header[name] = {dtype: 'F32', shape: [...shape], data_offsets: [end, end + data.byteLength]};
    end += data.byteLength;
  }
  const json = Buffer.from(JSON.stringify(header));
  // Spaces up to a multiple of 8 bytes: tensors then start aligned.
  const headerLength = Math.ceil(json.length / 8) * 8;
  const file = Buffer.alloc(LENGTH_BYTES + headerLength + end, ' ');
  file.writeBigUInt64LE(BigInt(headerLength), 0);
  json.copy(file, LENGTH_BYTES);
  let at = LENGTH_BYTES + headerLength;
  for (const {data} of tensors.values()) {
    Buffer.from(data.buffer, data.byteOffset, data.byteLength).copy(file, at);
    at += data.byteLength;
  }
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, file);
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, {force: true});
  }
}

/** Reads a file of float32 tensors. Throws, naming the file, when it is damaged or holds other types. */
export function readSafetensors(path: string): TensorFile {
  const file = readFileSync(path);
  const damaged = (why: string): Error => new Error(`${path} is no complete .safetensors file: ${why}.`);
  const headerLength = file.length < LENGTH_BYTES ? Infinity : Number(file.readBigUInt64LE(0));
  const start = LENGTH_BYTES + headerLength;
  if (start > file.length) {
    throw damaged(`${file.length} bytes are less than its header`);
  }
  let header: Record<string, Entry>;
  try {
    header = JSON.parse(file.toString('utf8', LENGTH_BYTES, start)) as Record<string, Entry>;
  } catch {
    throw damaged('its header is not JSON');
  }
  const {__metadata__: metadata = {}, ...entries} = header as Record<string, Entry> & {__metadata__?: unknown};
  const tensors = new Map<string, HostArray>();
  for (const [name, entry] of Object.entries(entries as Record<string, Entry>)) {
    const [first, end] = entry.data_offsets;
    const size = entry.shape.reduce((product, length) => product * length, 1);
    if (entry.dtype !== 'F32' || end - first !== 4 * size || start + end > file.length) {
      throw damaged(`${name} should be ${size} float32 numbers, got ${entry.dtype} at ${first} to ${end}`);
    }
    // A copy: the file's tensors need not be aligned for a Float32Array view.
    tensors.set(name, {
      shape: entry.shape,
      data: new Float32Array(Uint8Array.from(file.subarray(start + first, start + end)).buffer),
    });
  }
  return {tensors, metadata: metadata as Record<string, string>};
}
