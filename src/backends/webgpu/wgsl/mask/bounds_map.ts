/**
 * @file The bounds map pass (paper section 4.2). It fills the mask buffer (src/backends/webgpu/wgsl/mask/tiles.ts) from
 * the mask's bounds: minima and maxima of the bounds per block of keys, and the four bounds of each column, whatever
 * the form of the mask.
 */
import {MAP_BLOCK} from '../../../../call/constants.js';
import type {Shader} from '../shader.js';

/** Form of a mask's bounds. */
export interface BoundsForm {
  causal: boolean;
  /** Bounds per column: 1, 2 or 4. */
  n: number;
}

/** (LTS, LTE, UTS, UTE) of the column whose bounds start at `at`. TWIN: src/mask/bounds/intervals.ts */
function canonical({causal, n}: BoundsForm): string {
  const open = 'vec4i(bounds[at], 2147483647, ';
  if (n === 4) return 'vec4i(bounds[at], bounds[at + 1u], bounds[at + 2u], bounds[at + 3u])';
  if (causal && n === 1) return `${open}0, 0)`;
  if (causal && n === 2) return 'vec4i(bounds[at], bounds[at + 1u], 0, 0)';
  if (!causal && n === 2) return `${open}-2147483647 - 1, bounds[at + 1u])`;
  throw new Error(`flashMaskAttention: bounds with causal ${causal} take n of ${causal ? '1, 2' : '2, 4'}, got ${n}.`);
}

/** One thread per block of MAP_BLOCK keys of a mask head. */
export const boundsMap: Shader<BoundsForm> = {
  name: 'bounds_map',
  fields: {causal: true, n: true},
  bindings: () => [
    {name: 'bounds', type: 'i32', access: 'read'},
    {name: 'mask', type: 'vec4i', access: 'read_write'},
  ],
  threads: () => 64,
  item: 'thread',
  declarations: () => '',
  body: (form) => `
let maskHead = item / u.mapBlocks;
let first = (item % u.mapBlocks) * ${MAP_BLOCK}u;
let columns = 2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk;
var least = vec4i(2147483647);
var most = vec4i(-2147483647 - 1);
for (var j = first; j < min(first + ${MAP_BLOCK}u, u.Sk); j++) {
  let at = (maskHead * u.Sk + j) * ${form.n}u;
  let column = ${canonical(form)};
  least = min(least, column);
  most = max(most, column);
  mask[columns + j] = column;
}
mask[2u * item] = vec4i(least.x, most.x, least.y, most.y);
mask[2u * item + 1u] = vec4i(least.z, most.z, least.w, most.w);`,
};
