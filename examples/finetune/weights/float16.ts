/** @file Converts float16 and bfloat16 bits to float32 numbers. */

/** The float32 number of each of the 65536 float16 bit patterns: 256 KB, and faster than computing the numbers. */
const FLOAT16 = Float32Array.from({length: 1 << 16}, (_, bits) => decodeFloat16(bits));

function decodeFloat16(bits: number): number {
  const sign = bits >> 15 === 0 ? 1 : -1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) {
    return fraction === 0 ? sign * Infinity : NaN;
  }
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** @example float16(0x3c00) // 1 */
export function float16(bits: number): number {
  return FLOAT16[bits];
}

/** Writes the numbers of little-endian float16 bytes to the start of `out`. */
export function float16ToFloat32(bytes: Uint8Array, out: Float32Array): void {
  for (let i = 0, at = 0; at + 1 < bytes.length; i++, at += 2) {
    out[i] = FLOAT16[bytes[at] | (bytes[at + 1] << 8)];
  }
}

/** Writes the numbers of little-endian bfloat16 bytes to the start of `out`. They are the upper 16 bits of float32. */
export function bfloat16ToFloat32(bytes: Uint8Array, out: Float32Array): void {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0, at = 0; at + 1 < bytes.length; i++, at += 2) {
    bits[i] = (bytes[at] << 16) | (bytes[at + 1] << 24);
  }
}
