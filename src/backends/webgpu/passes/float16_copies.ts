/** @file The float16 copies of a call's tensors that the passes on subgroup matrices read. */
import type {MatrixPlan} from '../plan/matrix_plan.js';
import {roundUp} from '../../../call/numbers.js';
import type {Problem} from '../../../call/problem.js';
import type {BufferRange, PassRun} from '../run/dispatch.js';
import type {Scratch} from '../run/scratch.js';
import {specialize} from '../wgsl/shader.js';
import {
  float16Copies,
  COPY_THREADS,
  magnitude,
  PADDED_ROWS,
  rowUnits,
  SEGMENTS,
  workgroupsPerHead,
  type Copied,
  type CopiesVariant,
} from '../wgsl/matrix/float16_copies.js';
import type {UniformValues} from '../wgsl/header.js';

/** The fields of a plan that its copies depend on. Passes whose plans agree in them read the same copies. */
type CopyShape = Pick<MatrixPlan, 'channels' | 'halvesPerNumber' | 'pass' | 'causal' | 'intervals'>;

/** Sizes of a tensor in a call or a slice, and bytes of its copy. */
function copySizes(p: Problem, shape: CopyShape, name: Copied): {rows: number; heads: number; bytes: number} {
  const [rows, heads] = name === 'k' || name === 'v' ? [p.Sk, p.B * p.Hkv] : [p.Sq, p.B * p.H];
  const units = rowUnits({padded: shape.channels, halvesPerNumber: shape.halvesPerNumber});
  return {rows, heads, bytes: 16 * (heads * roundUp(rows, PADDED_ROWS) * units + p.B * p.Hkv)};
}

/**
 * Groups of tensors that are copied together. q, k and v are one group in every pass, so that all passes share its
 * shaders.
 */
const groupsOf = ({pass}: CopyShape): Copied[][] =>
  pass === 'forward' ? [['q', 'k', 'v']] : [['q', 'k', 'v'], ['dOut']];

/** Bytes of the copies per key head, by their names in errors. */
export function float16Bytes(p: Problem, pass: CopyShape): Record<string, number> {
  const ofKeyHead = {...p, B: 1, H: p.H / p.Hkv, Hkv: 1};
  return Object.fromEntries(
    groupsOf(pass)
      .flat()
      .map((name) => [`the float16 copy of ${name}`, copySizes(ofKeyHead, pass, name).bytes]),
  );
}

/**
 * Pushes the passes that copy q, k, v and, for a backward pass, dOut.
 *
 * @param bound Buffer ranges of these tensors.
 * @param mask The mask buffer, if the mask has intervals.
 * @returns the copies by the same names.
 */
export function copyToFloat16(
  p: Problem,
  pass: CopyShape,
  uniforms: UniformValues,
  bound: Partial<Record<Copied, BufferRange>>,
  mask: readonly GPUBuffer[],
  scratch: Scratch,
  passes: PassRun[],
): Record<Copied, BufferRange> {
  const copies: Partial<Record<Copied, BufferRange>> = {};
  // All measures come before all conversions: a pass waits for the one before it only if it reads its results.
  const measures: PassRun[] = [];
  const conversions: PassRun[] = [];
  for (const names of groupsOf(pass)) {
    const {channels: padded, halvesPerNumber, causal, intervals} = pass;
    const variant: CopiesVariant = {names, D: p.D, Dv: p.Dv, padded, halvesPerNumber, causal, intervals};
    const sizes = names.map((name) => copySizes(p, pass, name));
    const segments = SEGMENTS * sizes.reduce((sum, {heads}) => sum + heads, 0);
    const sources = names.map((name) => bound[name]!);
    const magnitudes = scratch.buffer(`magnitudes of ${names.join()}`, 4 * segments);
    names.forEach((name, t) => (copies[name] = scratch.buffer(`float16 copy of ${name}`, sizes[t].bytes)));
    measures.push({
      shader: specialize(magnitude, variant),
      uniforms,
      buffers: [...sources, ...mask, magnitudes],
      items: segments,
      flopsPerWorkgroup: Math.ceil((Math.max(...sizes.map(({rows}) => rows)) * pass.channels) / SEGMENTS),
    });
    conversions.push({
      shader: specialize(float16Copies, variant),
      uniforms,
      buffers: [...sources, magnitudes, ...names.map((name) => copies[name]!)],
      items: sizes.reduce((sum, {rows, heads}) => sum + heads * workgroupsPerHead(variant, rows), 0),
      flopsPerWorkgroup: 8 * COPY_THREADS,
    });
  }
  passes.push(...measures, ...conversions);
  return copies as Record<Copied, BufferRange>;
}
