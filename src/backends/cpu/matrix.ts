/**
 * @file Small dense products on packed tiles: the inner loops of the CPU kernels.
 *
 * A tile is row-major in a Float64Array with its rows and columns padded by zeros to multiples of 4, so that every
 * product runs in whole 4x4 register blocks. Tiles are float64 because V8 then converts nothing in the inner loop (5.3
 * GFLOP/s per core, 4.8 with Float32Array tiles). Blocks are 4x4 because they read 8 values for 16 multiply-adds (2x4
 * blocks: 4.6 GFLOP/s).
 */

/** Rounds up to whole register blocks. */
export function pad4(x: number): number {
  return (x + 3) & ~3;
}

/** Copies `rows x columns` floats into a tile of row stride `pad4(columns)`, times `factor`, and pads it with zeros. */
export function pack(
  tile: Float64Array,
  from: Float32Array,
  at: number,
  rowStride: number,
  rows: number,
  columns: number,
  factor = 1,
): void {
  const stride = pad4(columns);
  for (let r = 0; r < rows; r++) {
    const source = at + r * rowStride;
    const target = r * stride;
    for (let c = 0; c < columns; c++) tile[target + c] = from[source + c] * factor;
    for (let c = columns; c < stride; c++) tile[target + c] = 0;
  }
  tile.fill(0, rows * stride, pad4(rows) * stride);
}

/** C = A Bᵀ with A `m x k`, B `n x k`; row strides are k, k and n; all sizes are multiples of 4. */
export function productABt(c: Float64Array, a: Float64Array, b: Float64Array, m: number, n: number, k: number): void {
  // prettier-ignore
  for (let i = 0; i < m; i += 4) {
    for (let j = 0; j < n; j += 4) {
      const a0 = i * k, a1 = a0 + k, a2 = a1 + k, a3 = a2 + k;
      const b0 = j * k, b1 = b0 + k, b2 = b1 + k, b3 = b2 + k;
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (let x = 0; x < k; x++) {
        const y0 = b[b0 + x], y1 = b[b1 + x], y2 = b[b2 + x], y3 = b[b3 + x];
        let z = a[a0 + x];
        s00 += z * y0; s01 += z * y1; s02 += z * y2; s03 += z * y3;
        z = a[a1 + x];
        s10 += z * y0; s11 += z * y1; s12 += z * y2; s13 += z * y3;
        z = a[a2 + x];
        s20 += z * y0; s21 += z * y1; s22 += z * y2; s23 += z * y3;
        z = a[a3 + x];
        s30 += z * y0; s31 += z * y1; s32 += z * y2; s33 += z * y3;
      }
      let o = i * n + j;
      c[o] = s00; c[o + 1] = s01; c[o + 2] = s02; c[o + 3] = s03;
      o += n;
      c[o] = s10; c[o + 1] = s11; c[o + 2] = s12; c[o + 3] = s13;
      o += n;
      c[o] = s20; c[o + 1] = s21; c[o + 2] = s22; c[o + 3] = s23;
      o += n;
      c[o] = s30; c[o + 1] = s31; c[o + 2] = s32; c[o + 3] = s33;
    }
  }
}

/**
 * C += A B with A `m x k`, B `k x n`; C starts at `at`; row strides are n, k and n; all sizes are multiples of 4.
 *
 * @param hidden For a partial tile: 1 for each hidden pair, whose weight in A is 0. Such pairs add nothing, even if B
 *   is not finite.
 */
export function addProductAB(
  c: Float64Array,
  at: number,
  a: Float64Array,
  b: Float64Array,
  m: number,
  n: number,
  k: number,
  hidden?: Uint8Array,
): void {
  addProduct(c, at, {values: a, row: k, column: 1, hidden}, b, m, n, k);
}

/** C += Aᵀ B with A `k x m`, B `k x n`, as in `addProductAB`; row strides are n, m and n. */
export function addProductAtB(
  c: Float64Array,
  at: number,
  a: Float64Array,
  b: Float64Array,
  m: number,
  n: number,
  k: number,
  hidden?: Uint8Array,
): void {
  addProduct(c, at, {values: a, row: 1, column: m, hidden}, b, m, n, k);
}

/** Weights of pairs: element (i, x) is at `i * row + x * column`. */
interface Pairs {
  values: Float64Array;
  row: number;
  column: number;
  hidden?: Uint8Array;
}

/**
 * C += A B. A weight of 0 does not hide a number that is not finite (0 · NaN is NaN). So for a partial tile such
 * numbers are taken out of B before the product, and then added one by one to the rows that see them. They are rare,
 * and a tile without them only pays for the search.
 */
function addProduct(c: Float64Array, at: number, a: Pairs, b: Float64Array, m: number, n: number, k: number): void {
  const apart = a.hidden ? takeNotFinite(b, k * n) : NONE;
  addFiniteProduct(c, at, a.values, a.row, a.column, b, m, n, k);
  for (const one of apart) {
    addNotFinite(c, at, a, m, n, one);
    b[one.at] = one.value;
  }
}

/** A number that is not finite, and its index in the tile. */
interface NotFinite {
  at: number;
  value: number;
}

const NONE: readonly NotFinite[] = [];

/** Replaces numbers that are not finite by 0, and returns them. */
function takeNotFinite(tile: Float64Array, size: number): NotFinite[] {
  const taken: NotFinite[] = [];
  for (let at = 0; at < size; at++) {
    const value = tile[at];
    if (value - value === 0) continue;
    taken.push({at, value});
    tile[at] = 0;
  }
  return taken;
}

/** Adds one number of B that is not finite, with its weights, to the rows of C that see it. */
function addNotFinite(
  c: Float64Array,
  at: number,
  a: Pairs,
  m: number,
  n: number,
  {at: place, value}: NotFinite,
): void {
  const x = Math.floor(place / n);
  const column = place % n;
  for (let i = 0; i < m; i++) {
    const pair = i * a.row + x * a.column;
    if (!a.hidden![pair]) c[at + i * n + column] += a.values[pair] * value;
  }
}

/** C += A B where element (i, x) of A is at `i * aRow + x * aColumn`. */
function addFiniteProduct(
  c: Float64Array,
  at: number,
  a: Float64Array,
  aRow: number,
  aColumn: number,
  b: Float64Array,
  m: number,
  n: number,
  k: number,
): void {
  // prettier-ignore
  for (let i = 0; i < m; i += 4) {
    for (let j = 0; j < n; j += 4) {
      let p0 = i * aRow, p1 = p0 + aRow, p2 = p1 + aRow, p3 = p2 + aRow, p = j;
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (let x = 0; x < k; x++) {
        const y0 = b[p], y1 = b[p + 1], y2 = b[p + 2], y3 = b[p + 3];
        p += n;
        let z = a[p0];
        s00 += z * y0; s01 += z * y1; s02 += z * y2; s03 += z * y3;
        z = a[p1];
        s10 += z * y0; s11 += z * y1; s12 += z * y2; s13 += z * y3;
        z = a[p2];
        s20 += z * y0; s21 += z * y1; s22 += z * y2; s23 += z * y3;
        z = a[p3];
        s30 += z * y0; s31 += z * y1; s32 += z * y2; s33 += z * y3;
        p0 += aColumn; p1 += aColumn; p2 += aColumn; p3 += aColumn;
      }
      let o = at + i * n + j;
      c[o] += s00; c[o + 1] += s01; c[o + 2] += s02; c[o + 3] += s03;
      o += n;
      c[o] += s10; c[o + 1] += s11; c[o + 2] += s12; c[o + 3] += s13;
      o += n;
      c[o] += s20; c[o + 1] += s21; c[o + 2] += s22; c[o + 3] += s23;
      o += n;
      c[o] += s30; c[o + 1] += s31; c[o + 2] += s32; c[o + 3] += s33;
    }
  }
}
