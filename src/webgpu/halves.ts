/** @file The float16 copies of a call's tensors that the passes on subgroup matrices read. */
import type {MatrixPlan} from '../matrix_plan.js';
import {roundUp} from '../plan.js';
import type {Problem} from '../problem.js';
import type {BufferRange, PassRun} from './dispatch.js';
import type {Scratch} from './scratch.js';
import {
  HALVES_THREADS,
  halvesBindings,
  halvesKey,
  halvesShader,
  magnitudeBindings,
  magnitudeKey,
  magnitudeShader,
  PADDED_ROWS,
  rowUnits,
  SEGMENTS,
  workgroupsPerHead,
  type HalvesVariant,
} from './wgsl/halves.js';
import type {UniformValues} from './wgsl/header.js';

/** The tensors that are copied: dOut in the backward only. */
type Copied = 'q' | 'k' | 'v' | 'dOut';

/** What copies depend on of a plan: passes whose plans have these alike read the same ones. */
type CopyShape = Pick<MatrixPlan, 'channels' | 'parts' | 'pass'>;

/** A tensor's copy: what its shader depends on, and its size in a call or a slice. */
interface Copy {
  variant: HalvesVariant;
  rows: number;
  heads: number;
  bytes: number;
}

function copyOf(p: Problem, {channels: padded, parts}: CopyShape, name: Copied): Copy {
  const stride = name === 'dOut' ? 'o' : name;
  const ofKeys = name === 'k' || name === 'v';
  const channels = name === 'q' || name === 'k' ? p.D : p.Dv;
  const variant: HalvesVariant = {stride, channels, padded, parts};
  const [rows, heads] = ofKeys ? [p.Sk, p.B * p.Hkv] : [p.Sq, p.B * p.H];
  return {
    variant,
    rows,
    heads,
    bytes: 16 * (heads * roundUp(rows, PADDED_ROWS) * rowUnits(variant) + p.B * p.Hkv),
  };
}

const copiedBy = ({pass}: CopyShape): Copied[] => (pass === 'forward' ? ['q', 'k', 'v'] : ['q', 'k', 'v', 'dOut']);

/** Bytes of the copies for each key head, by a name for errors. */
export function halvesBytes(p: Problem, pass: CopyShape): Record<string, number> {
  const ofKeyHead = {...p, B: 1, H: p.H / p.Hkv, Hkv: 1};
  return Object.fromEntries(
    copiedBy(pass).map((name) => [`the float16 copy of ${name}`, copyOf(ofKeyHead, pass, name).bytes]),
  );
}

/**
 * Pushes the passes that copy q, k, v and, for a backward pass, dOut.
 *
 * @param bound where these tensors are.
 * @returns the copies by the same names.
 */
export function halves(
  p: Problem,
  pass: CopyShape,
  uniforms: UniformValues,
  bound: Partial<Record<Copied, BufferRange>>,
  scratch: Scratch,
  passes: PassRun[],
): Record<Copied, BufferRange> {
  // All of the first kind before those of the second: a pass waits for the one before it only if it reads what that wrote.
  const measures: PassRun[] = [];
  const conversions: PassRun[] = [];
  const copies = copiedBy(pass).map((name) => {
    const {variant, rows, heads, bytes} = copyOf(p, pass, name);
    const source = bound[name]!;
    const magnitudes = scratch.buffer(`magnitudes of ${name}`, 4 * heads * SEGMENTS);
    const copy = scratch.buffer(`float16 copy of ${name}`, bytes);
    const common = {uniforms, itemsPerWorkgroup: 1};
    measures.push({
      ...common,
      key: magnitudeKey(variant),
      code: () => magnitudeShader(variant),
      bindings: magnitudeBindings(variant),
      buffers: [source, magnitudes],
      items: heads * SEGMENTS,
      flopsPerWorkgroup: Math.ceil((rows * variant.channels) / SEGMENTS),
    });
    conversions.push({
      ...common,
      key: halvesKey(variant),
      code: () => halvesShader(variant),
      bindings: halvesBindings(variant),
      buffers: [source, magnitudes, copy],
      items: heads * workgroupsPerHead(variant, rows),
      flopsPerWorkgroup: 8 * HALVES_THREADS,
    });
    return [name, copy] as const;
  });
  passes.push(...measures, ...conversions);
  return Object.fromEntries(copies) as Record<Copied, BufferRange>;
}
