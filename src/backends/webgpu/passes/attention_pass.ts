/** @file Turns a plan of forward, dq or dkdv, on vectors or on subgroup matrices, into a run of the pass. */
import {keysOf, workgroupsOf, type KeySplit} from '../plan/decoding.js';
import {isMatrixPlan, type MatrixPlan} from '../plan/matrix_plan.js';
import type {VectorPlan} from '../plan/vector_plan.js';
import type {Problem} from '../../../call/problem.js';
import type {BufferRange, PassRun} from '../run/dispatch.js';
import {matrixPasses} from './loaded_matrix_passes.js';
import type {UniformValues} from '../wgsl/header.js';
import {specialize, type ShaderVariant} from '../wgsl/shader.js';
import {dkdv, dq} from '../wgsl/vector/backward.js';
import {forward} from '../wgsl/vector/forward.js';

/** A plan on vectors or on subgroup matrices. */
export type PassPlan = VectorPlan | MatrixPlan;

const SHADERS = {forward, dq, dkdv};

export const shaderOf = (pass: PassPlan): ShaderVariant =>
  isMatrixPlan(pass) ? matrixPasses().shaderOf(pass) : specialize(SHADERS[pass.pass], pass);

/**
 * A run of a pass on all heads of `p`.
 *
 * @param uniforms Uniforms of `p`, including its head folding and key splits.
 * @param buffers One buffer per binding of the shader. A pass on matrices reads float16 copies (float16_copies.ts).
 */
export function attentionRun(
  p: Problem,
  pass: PassPlan,
  uniforms: UniformValues,
  buffers: readonly BufferRange[],
): PassRun {
  return {
    shader: shaderOf(pass),
    buffers,
    uniforms,
    ...workOf(p, pass, uniforms),
  };
}

/** Number of products over D and over Dv channels that a pass computes per query-key pair. */
const PRODUCTS = {forward: [1, 1], dq: [2, 1], dkdv: [2, 2]} as const;

/** Number of workgroups of a pass, and an upper bound on the operations of each. */
function workOf(p: Problem, pass: PassPlan, keySplit: KeySplit): Pick<PassRun, 'items' | 'flopsPerWorkgroup'> {
  const [ofD, ofDv] = PRODUCTS[pass.pass];
  const flopsPerPair = 2 * (ofD * p.D + ofDv * p.Dv);
  return pass.pass === 'dkdv'
    ? {
        items: p.B * p.Hkv * Math.ceil(p.Sk / pass.blockK),
        flopsPerWorkgroup: pass.blockK * p.Sq * (p.H / p.Hkv) * flopsPerPair,
      }
    : {
        items: workgroupsOf(p, pass, keySplit),
        flopsPerWorkgroup: pass.blockQ * keysOf(p, pass, keySplit) * flopsPerPair,
      };
}
