/** @file The sizes of one attention call, read once from its tensors. */
import type {FlashMaskAttentionAttrs, FlashMaskAttentionInputs, Layout} from './kernel_names.js';

/** Element strides of one `[B, S, H, D]` or `[B, H, S, D]` tensor; the channel stride is 1. */
export interface Strides {
  batch: number;
  row: number;
  head: number;
}

/** Sizes of one attention call. See the glossary in docs/design.md. */
export interface Problem {
  /** Batch size. */
  B: number;
  /** Query heads. */
  H: number;
  /** Key and value heads; H is a multiple of Hkv. */
  Hkv: number;
  /** Query length. */
  Sq: number;
  /** Key length. */
  Sk: number;
  /** Channels of a query and key head. */
  D: number;
  /** Channels of a value head. */
  Dv: number;
  layout: Layout;
  causal: boolean;
  /** Batches of the bounds: 1 (shared) or B. */
  maskB: number;
  /** Heads of the bounds: 1, Hkv or H. Query head h reads bounds head floor(h / (H / Hm)). */
  Hm: number;
  /** Bounds per key column: 0, 1, 2 or 4. */
  n: number;
}

/** Reads the sizes from shapes that the op has already checked. */
export function problemOf(inputs: FlashMaskAttentionInputs, attrs: FlashMaskAttentionAttrs): Problem {
  const {layout, causal} = attrs;
  const [row, head] = layout === 'bshd' ? [1, 2] : [2, 1];
  const {q, k, v, bounds} = inputs;
  return {
    B: q.shape[0],
    H: q.shape[head],
    Hkv: k.shape[head],
    Sq: q.shape[row],
    Sk: k.shape[row],
    D: q.shape[3],
    Dv: v.shape[3],
    layout,
    causal,
    maskB: bounds.shape[0],
    Hm: bounds.shape[1],
    n: bounds.shape[3],
  };
}

/**
 * Index, counted over batches, of the bounds head that query head h of batch b reads. Copies in other languages say
 * TWIN: src/call/problem.ts.
 */
export function maskHeadOf({maskB, Hm, H}: Problem, b: number, h: number): number {
  return (maskB === 1 ? 0 : b) * Hm + Math.floor((h * Hm) / H);
}

/** Shape of a `rows x heads x channels` tensor in the problem's layout. */
export function shapeOf(p: Problem, rows: number, heads: number, channels: number): [number, number, number, number] {
  return p.layout === 'bshd' ? [p.B, rows, heads, channels] : [p.B, heads, rows, channels];
}

/** Strides of a `rows x heads x channels` tensor in the problem's layout. */
export function stridesOf(layout: Layout, rows: number, heads: number, channels: number): Strides {
  const batch = rows * heads * channels;
  return layout === 'bshd'
    ? {batch, row: heads * channels, head: channels}
    : {batch, row: channels, head: rows * channels};
}
