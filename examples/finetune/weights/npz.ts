/** @file Reads NumPy's .npz archives: float16, float32 and float64 arrays, and single texts like a configuration. */
import {unzipSync} from 'fflate';
import type {HostTensor} from '../host_tensor.js';
import {float16} from './float16.js';

const MAGIC = '\x93NUMPY';

/**
 * Reads every array of an .npz file.
 *
 * @example const {arrays, texts} = readNpz(readFileSync('en.npz')); arrays.get('E')!.shape // [1024, 128]
 */
export function readNpz(bytes: Uint8Array): {arrays: Map<string, HostTensor>; texts: Map<string, string>} {
  const arrays = new Map<string, HostTensor>();
  const texts = new Map<string, string>();
  for (const [file, content] of Object.entries(unzipSync(bytes))) {
    const name = file.replace(/\.npy$/, '');
    const {descr, shape, body} = parseNpy(content, file);
    if (descr.startsWith('<U')) {
      texts.set(name, decodeUtf32(body));
    } else {
      arrays.set(name, {shape, data: decodeNumbers(descr, body, elements(shape), file)});
    }
  }
  return {arrays, texts};
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function parseNpy(content: Uint8Array, file: string): {descr: string; shape: number[]; body: Uint8Array} {
  const ascii = new TextDecoder('latin1');
  if (ascii.decode(content.subarray(0, 6)) !== MAGIC) {
    throw new Error(`${file} is not a NumPy array.`);
  }
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const [lengthBytes, headerLength] = content[6] === 1 ? [2, view.getUint16(8, true)] : [4, view.getUint32(8, true)];
  const start = 8 + lengthBytes;
  const header = ascii.decode(content.subarray(start, start + headerLength));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (descr === undefined || shape === undefined || /'fortran_order':\s*True/.test(header)) {
    throw new Error(`${file}: cannot read the header ${header.trim()}. Only row-major plain arrays are supported.`);
  }
  const sizes = shape.split(',').filter((size) => size.trim() !== '');
  return {descr, shape: sizes.map(Number), body: content.subarray(start + headerLength)};
}

function decodeNumbers(descr: string, body: Uint8Array, count: number, file: string): Float32Array {
  const bytesEach = Number(descr.slice(2));
  if (!['<f2', '<f4', '<f8'].includes(descr)) {
    throw new Error(`${file} holds ${descr}. Only little-endian float16, float32 and float64 are supported.`);
  }
  if (body.length !== count * bytesEach) {
    throw new Error(`${file} should hold ${count * bytesEach} bytes, got ${body.length}.`);
  }
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const read: Record<number, (at: number) => number> = {
    2: (at) => float16(view.getUint16(at, true)),
    4: (at) => view.getFloat32(at, true),
    8: (at) => view.getFloat64(at, true),
  };
  return Float32Array.from({length: count}, (_, i) => read[bytesEach](i * bytesEach));
}

function decodeUtf32(body: Uint8Array): string {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const codes = Array.from({length: body.length / 4}, (_, i) => view.getUint32(i * 4, true));
  return String.fromCodePoint(...codes.filter((code) => code !== 0));
}
