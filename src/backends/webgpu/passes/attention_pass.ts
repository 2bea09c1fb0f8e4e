/** @file The passes that compute attention and its gradients, forward, dq and dkdv: from a plan, of either kind, to a run of it. */
import {keysOf, workgroupsOf, type Cut} from '../plan/decoding.js';
import {isMatrixPlan, type MatrixPlan} from '../plan/matrix_plan.js';
import type {PassPlan} from '../plan/vector_plan.js';
import type {Problem} from '../../../call/problem.js';
import type {BufferRange, PassRun} from '../run/dispatch.js';
import {backwardBindings, dkdvShader, dqShader} from '../wgsl/vector/backward.js';
import {forwardBindings, forwardShader} from '../wgsl/vector/forward.js';
import type {Binding, UniformValues} from '../wgsl/header.js';
import {matrixDkdvShader, matrixDqShader} from '../wgsl/matrix/backward.js';
import {matrixForwardShader} from '../wgsl/matrix/forward.js';
import {matrixBindings} from '../wgsl/matrix/steps.js';

/** On vectors or on subgroup matrices. */
export type AttentionPlan = PassPlan | MatrixPlan;

const SHADERS = {forward: forwardShader, dq: dqShader, dkdv: dkdvShader};
const MATRIX_SHADERS = {forward: matrixForwardShader, dq: matrixDqShader, dkdv: matrixDkdvShader};

export const shaderOf = (pass: AttentionPlan): string =>
  isMatrixPlan(pass) ? MATRIX_SHADERS[pass.pass](pass) : SHADERS[pass.pass](pass);

/** Storage bindings, in binding order after the uniforms. */
export function bindingsOf(pass: AttentionPlan): Binding[] {
  if (isMatrixPlan(pass)) return matrixBindings(pass);
  return pass.pass === 'forward' ? forwardBindings(pass) : backwardBindings(pass);
}

/**
 * A run of a pass on all heads of `p`.
 *
 * @param uniforms those of `p`; the cut of few queries among them.
 * @param buffers one for each of `bindingsOf(pass)`; a pass on matrices reads float16 copies (halves.ts).
 */
export function attentionRun(
  p: Problem,
  pass: AttentionPlan,
  uniforms: UniformValues,
  buffers: readonly BufferRange[],
): PassRun {
  return {
    key: pass.key,
    code: () => shaderOf(pass),
    bindings: bindingsOf(pass),
    buffers,
    uniforms,
    itemsPerWorkgroup: 1,
    ...workOf(p, pass, uniforms),
  };
}

/** Products of D and of Dv channels that a pass computes for each pair. */
const PRODUCTS = {forward: [1, 1], dq: [2, 1], dkdv: [2, 2]} as const;

/** Workgroups of a pass, and an upper bound of what each computes. */
function workOf(p: Problem, pass: AttentionPlan, cut: Cut): Pick<PassRun, 'items' | 'flopsPerWorkgroup'> {
  const [ofD, ofDv] = PRODUCTS[pass.pass];
  const flopsPerPair = 2 * (ofD * p.D + ofDv * p.Dv);
  return pass.pass === 'dkdv'
    ? {
        items: p.B * p.Hkv * Math.ceil(p.Sk / pass.blockK),
        flopsPerWorkgroup: pass.blockK * p.Sq * (p.H / p.Hkv) * flopsPerPair,
      }
    : {
        items: workgroupsOf(p, pass, cut),
        flopsPerWorkgroup: pass.blockQ * keysOf(p, pass, cut) * flopsPerPair,
      };
}
