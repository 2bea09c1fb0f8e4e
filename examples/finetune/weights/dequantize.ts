/**
 * @file Converts the number formats of ggml, blocks of small integers with float16 scales, to float32. Layouts as in
 * ggml's ggml-common.h and ggml-quants.c (https://github.com/ggml-org/ggml).
 */
import {bfloat16ToFloat32, float16, float16ToFloat32} from './float16.js';

/** A readable format. Its tensors are rows of whole blocks. */
export interface BlockFormat {
  name: string;
  /** Numbers per block. */
  numbers: number;
  /** Bytes per block. */
  bytes: number;
  /** Writes the numbers of whole blocks to `out`, from its start. */
  dequantize: (blocks: Uint8Array, out: Float32Array) => void;
}

/** Formats by ggml's type number. */
export const FORMATS: ReadonlyMap<number, BlockFormat> = new Map([
  [0, {name: 'F32', numbers: 1, bytes: 4, dequantize: copyFloats}],
  [1, {name: 'F16', numbers: 1, bytes: 2, dequantize: float16ToFloat32}],
  [2, {name: 'Q4_0', numbers: 32, bytes: 18, dequantize: dequantizeQ4_0}],
  [3, {name: 'Q4_1', numbers: 32, bytes: 20, dequantize: dequantizeQ4_1}],
  [6, {name: 'Q5_0', numbers: 32, bytes: 22, dequantize: dequantizeQ5_0}],
  [7, {name: 'Q5_1', numbers: 32, bytes: 24, dequantize: dequantizeQ5_1}],
  [8, {name: 'Q8_0', numbers: 32, bytes: 34, dequantize: dequantizeQ8_0}],
  [12, {name: 'Q4_K', numbers: 256, bytes: 144, dequantize: dequantizeQ4_K}],
  [14, {name: 'Q6_K', numbers: 256, bytes: 210, dequantize: dequantizeQ6_K}],
  [30, {name: 'BF16', numbers: 1, bytes: 2, dequantize: bfloat16ToFloat32}],
]);

/** Names of other formats, for messages. */
export const OTHER_FORMATS: ReadonlyMap<number, string> = new Map([
  ...(['Q8_1', 'Q2_K', 'Q3_K'].map((name, i) => [9 + i, name]) as [number, string][]),
  [13, 'Q5_K'],
  [15, 'Q8_K'],
  ...(['IQ2_XXS', 'IQ2_XS', 'IQ3_XXS', 'IQ1_S', 'IQ4_NL', 'IQ3_S', 'IQ2_S', 'IQ4_XS', 'I8', 'I16', 'I32', 'I64'].map(
    (name, i) => [16 + i, name],
  ) as [number, string][]),
  [28, 'F64'],
  [29, 'IQ1_M'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
  [39, 'MXFP4'],
]);

function copyFloats(bytes: Uint8Array, out: Float32Array): void {
  new Uint8Array(out.buffer, out.byteOffset, bytes.length).set(bytes);
}

function float16At(bytes: Uint8Array, at: number): number {
  return float16(bytes[at] | (bytes[at + 1] << 8));
}

/**
 * Block: scale d; 16 bytes: their low 4 bits are the first 16 numbers q, their high 4 bits the others. x = d (q - 8).
 */
function dequantizeQ4_0(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 18, to += 32) {
    const d = float16At(blocks, at);
    for (let i = 0; i < 16; i++) {
      const pair = blocks[at + 2 + i];
      out[to + i] = d * ((pair & 15) - 8);
      out[to + 16 + i] = d * ((pair >> 4) - 8);
    }
  }
}

/** Block: scale d, minimum m; 16 bytes as in Q4_0. x = d q + m. */
function dequantizeQ4_1(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 20, to += 32) {
    const d = float16At(blocks, at);
    const m = float16At(blocks, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = blocks[at + 4 + i];
      out[to + i] = d * (pair & 15) + m;
      out[to + 16 + i] = d * (pair >> 4) + m;
    }
  }
}

/** Block: scale d; 4 bytes: bit i is the fifth bit of q of number i; 16 bytes as in Q4_0. x = d (q - 16). */
function dequantizeQ5_0(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 22, to += 32) {
    const d = float16At(blocks, at);
    for (let i = 0; i < 32; i++) {
      out[to + i] = d * (fiveBits(blocks, at + 2, i) - 16);
    }
  }
}

/** Block: scale d, minimum m; the numbers q as in Q5_0. x = d q + m. */
function dequantizeQ5_1(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 24, to += 32) {
    const d = float16At(blocks, at);
    const m = float16At(blocks, at + 2);
    for (let i = 0; i < 32; i++) {
      out[to + i] = d * fiveBits(blocks, at + 4, i) + m;
    }
  }
}

/** Number `i` of 32, from 4 bytes of high bits and 16 bytes of low ones. */
function fiveBits(bytes: Uint8Array, at: number, i: number): number {
  const high = (bytes[at + (i >> 3)] >> (i & 7)) & 1;
  const pair = bytes[at + 4 + (i & 15)];
  return (high << 4) | (i < 16 ? pair & 15 : pair >> 4);
}

/** Block: scale d; 32 signed bytes q. x = d q. */
function dequantizeQ8_0(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 34, to += 32) {
    const d = float16At(blocks, at);
    for (let i = 0; i < 32; i++) {
      out[to + i] = d * signed(blocks[at + 2 + i]);
    }
  }
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

/**
 * Block: scales d and m; 12 bytes of 6-bit scales s and minima t for 8 sub-blocks; 128 bytes, 32 per two sub-blocks:
 * the low 4 bits are the numbers q of the first, the high 4 bits those of the second. x = d s q - m t.
 */
function dequantizeQ4_K(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 144, to += 256) {
    const d = float16At(blocks, at);
    const m = float16At(blocks, at + 2);
    for (let sub = 0; sub < 8; sub++) {
      const [s, t] = scaleAndMinimum(blocks, at + 4, sub);
      const scale = d * s;
      const least = m * t;
      const pairs = at + 16 + 32 * (sub >> 1);
      const shift = 4 * (sub & 1);
      for (let i = 0; i < 32; i++) {
        out[to + 32 * sub + i] = scale * ((blocks[pairs + i] >> shift) & 15) - least;
      }
    }
  }
}

/**
 * Scale and minimum of a sub-block of Q4_K, from 12 bytes. The first four scales are the low 6 bits of bytes 0 to 3,
 * the first four minima those of bytes 4 to 7. For the other sub-blocks, bytes 8 to 11 hold the low 4 bits: the scale's
 * in their lower half, the minimum's in their upper half. The high 2 bits are the top bits of bytes 0 to 3 and 4 to 7.
 */
function scaleAndMinimum(bytes: Uint8Array, at: number, sub: number): [number, number] {
  if (sub < 4) {
    return [bytes[at + sub] & 63, bytes[at + 4 + sub] & 63];
  }
  const low = bytes[at + 4 + sub];
  return [(low & 15) | ((bytes[at + sub - 4] >> 6) << 4), (low >> 4) | ((bytes[at + sub] >> 6) << 4)];
}

/**
 * Block: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales s, scale d. x = d s (q - 32), 16 numbers
 * per scale. Each half block of 128 numbers takes 64 and 32 bytes. Its quarter g has its low bits in the bytes from 32
 * (g mod 2) on, in their lower 4 bits for g < 2. Its high bits are bits 2g and 2g + 1 of the 32 bytes.
 */
function dequantizeQ6_K(blocks: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; at < blocks.length; at += 210, to += 256) {
    const d = float16At(blocks, at + 208);
    for (let group = 0; group < 8; group++) {
      const half = group >> 2;
      const quarter = group & 3;
      const low = at + 64 * half + 32 * (quarter & 1);
      const lowShift = 4 * (quarter >> 1);
      const high = at + 128 + 32 * half;
      const scales = at + 192 + 2 * group;
      for (let i = 0; i < 32; i++) {
        const q = ((blocks[low + i] >> lowShift) & 15) | (((blocks[high + i] >> (2 * quarter)) & 3) << 4);
        out[to + 32 * group + i] = d * signed(blocks[scales + (i >> 4)]) * (q - 32);
      }
    }
  }
}
