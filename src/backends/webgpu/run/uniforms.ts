/** @file Uniform values of a call: the sizes, strides and factors that all of its passes share. */
import {NO_SPLIT} from '../plan/decoding.js';
import {MAP_BLOCK} from '../../../call/constants.js';
import {dropoutOf} from '../../../call/dropout.js';
import {stridesOf, type Problem} from '../../../call/problem.js';
import type {FlashMaskAttentionAttrs} from '../../../call/kernel_names.js';
import {elementType, type UniformValues} from '../wgsl/header.js';
import type {OperandStride} from '../wgsl/operands.js';

/**
 * All fields except those of a dispatch, a slice and a copy, which dispatch.ts, slices.ts and slice_views.ts fill in.
 */
export function uniformsOf(p: Problem, attrs: FlashMaskAttentionAttrs): UniformValues {
  const dropout = dropoutOf(attrs.dropout, attrs.seed);
  return {
    B: p.B,
    H: p.H,
    Hkv: p.Hkv,
    Sq: p.Sq,
    Sk: p.Sk,
    groupSize: p.H / p.Hkv,
    maskGroup: p.H / p.Hm,
    maskBatchStride: p.maskB === 1 ? 0 : p.Hm,
    maskHeads: p.maskB * p.Hm,
    mapBlocks: Math.ceil(p.Sk / MAP_BLOCK),
    causalOffset: p.Sk - p.Sq,
    ...NO_SPLIT,
    ...strides('q', p, p.Sq, p.H, p.D),
    ...strides('k', p, p.Sk, p.Hkv, p.D),
    ...strides('v', p, p.Sk, p.Hkv, p.Dv),
    ...strides('o', p, p.Sq, p.H, p.Dv),
    scale: attrs.scale,
    scaleLog2: attrs.scale * Math.LOG2E,
    negativeInfinity: -Infinity,
    seedLow: dropout.key0,
    seedHigh: dropout.key1,
    dropThreshold: dropout.threshold,
    keepScale: dropout.keepScale,
  };
}

/** The uniform strides of a tensor. */
type StridesOf<S extends OperandStride> = Record<`${S}Batch` | `${S}Row` | `${S}Head`, number>;

function strides<S extends OperandStride>(
  name: S,
  {layout}: Problem,
  rows: number,
  heads: number,
  channels: number,
): StridesOf<S> {
  const {batch, row, head} = stridesOf(layout, rows, heads, channels);
  const unit = elementType(channels) === 'vec4f' ? 4 : 1;
  return {[`${name}Batch`]: batch / unit, [`${name}Row`]: row / unit, [`${name}Head`]: head / unit} as StridesOf<S>;
}
