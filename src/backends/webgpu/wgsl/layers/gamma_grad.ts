/**
 * @file RMSNorm's gradient by gamma (src/layers/rms_norm.ts): sums over rows, in an order that does not depend on the
 * run. Many rows are added up in two passes of the same shader: the first makes a few rows of them, `chunks`.
 */
import {type Binding, elementType} from '../header.js';
import type {Shader} from '../shader.js';
import {elementsOf} from '../vector/combine.js';
import {LAYER_UNIFORMS} from './layer.js';

export interface GammaGradVariant {
  channels: number;
  /** Adds up the rows of `x` alone, else those of `dy · x · inverse`. */
  again: boolean;
}

/** Columns of a workgroup, in elements, and the rows that it adds up at the same time. */
const COLUMNS = 32;
const LANES = 8;

/** Rows that a workgroup should have, at least. */
const ROWS_PER_CHUNK = 8 * LANES;
/** Enough to fill a large GPU, and few for the second pass. */
const MOST_CHUNKS = 128;

/** Rows that the first pass makes of so many. */
export const chunksOf = (rows: number): number => Math.min(MOST_CHUNKS, Math.ceil(rows / ROWS_PER_CHUNK));

/** Workgroups of a chunk. */
export const workgroupsPerChunk = (channels: number): number => Math.ceil(elementsOf(channels) / COLUMNS);

/** One workgroup per block of columns and chunk. A chunk has every `chunks`-th group of LANES rows. */
export const gammaGrad: Shader<GammaGradVariant> = {
  name: 'gamma_grad',
  fields: {channels: true, again: true},
  bindings: ({channels, again}): Binding[] => {
    const type = elementType(channels);
    const factors = [
      {name: 'inverse', type: 'f32', access: 'read'},
      {name: 'dy', type, access: 'read'},
    ] as const;
    return [{name: 'x', type, access: 'read'}, ...(again ? [] : factors), {name: 'sums', type, access: 'read_write'}];
  },
  threads: () => COLUMNS * LANES,
  item: 'workgroup',
  uniforms: LAYER_UNIFORMS,
  declarations: ({channels}) => `
const ELEMENTS = ${elementsOf(channels)}u;
const BLOCKS = ${workgroupsPerChunk(channels)}u;
const COLUMNS = ${COLUMNS}u;
const LANES = ${LANES}u;
var<workgroup> laneSums: array<${elementType(channels)}, COLUMNS * LANES>;
`,
  body: ({channels, again}) => `
let column = item % BLOCKS * COLUMNS + lid % COLUMNS;
let chunk = item / BLOCKS;
let chunks = u.workEnd / BLOCKS;
let lane = lid / COLUMNS;
let rows = arrayLength(&x) / ELEMENTS;
var sum = ${elementType(channels)}();
if (column < ELEMENTS) {
  for (var row = chunk * LANES + lane; row < rows; row += chunks * LANES) {
    let at = row * ELEMENTS + column;
    sum += ${again ? 'x[at]' : 'dy[at] * (x[at] * inverse[row])'};
  }
}
laneSums[lid] = sum;
for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
  workgroupBarrier();
  if (lane < reach) { laneSums[lid] += laneSums[lid + reach * COLUMNS]; }
}
if (lane == 0u && column < ELEMENTS) { sums[chunk * ELEMENTS + column] = laneSums[lid]; }`,
};
