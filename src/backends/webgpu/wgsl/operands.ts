/** @file The tensors that the attention passes read and write, on vectors and on subgroup matrices alike. */
import type {ShaderPlan} from '../plan/vector_plan.js';
import {elementType, type Binding} from './header.js';

/** The prefix of a tensor's uniform strides: `${stride}Row` and so on. */
export type OperandStride = 'q' | 'k' | 'v' | 'o';

/** A tensor that a pass reads or writes by tiles. */
export interface Operand {
  /** Name of its storage binding. */
  name: string;
  /** Prefix of the uniform strides: `${stride}Row`. */
  stride: OperandStride;
  channels: number;
  /** Whether it supplies the rows or the columns of the tiles. */
  side: 'row' | 'col';
}

type Name = 'q' | 'k' | 'v' | 'dOut' | 'out' | 'dq' | 'dk' | 'dv';
type Pass = Pick<ShaderPlan, 'pass' | 'D' | 'Dv' | 'intervals'>;

/** The operands of a pass. Results lie on the rows, which a workgroup keeps. */
export function operandsOf(p: Omit<Pass, 'intervals'>): Record<Name, Operand> {
  const [query, key] = p.pass === 'dkdv' ? (['col', 'row'] as const) : (['row', 'col'] as const);
  return {
    q: operand('q', 'q', p.D, query),
    k: operand('k', 'k', p.D, key),
    v: operand('v', 'v', p.Dv, key),
    dOut: operand('dOut', 'o', p.Dv, query),
    out: operand('out', 'o', p.Dv, 'row'),
    dq: operand('dq', 'q', p.D, 'row'),
    dk: operand('dk', 'k', p.D, 'row'),
    dv: operand('dv', 'v', p.Dv, 'row'),
  };
}

function operand(name: Name, stride: OperandStride, channels: number, side: Operand['side']): Operand {
  return {name, stride, channels, side};
}

/**
 * The storage bindings of a pass: at most eight, which every device has.
 *
 * @param inputType element type of an input with so many channels.
 */
export function bindingsOf(p: Pass, inputType: (channels: number) => string): Binding[] {
  const {q, k, v, dOut, out, dq, dk, dv} = operandsOf(p);
  const backward = p.pass !== 'forward';
  const results = {forward: [out], dq: [dq], dkdv: [dk, dv]}[p.pass];
  return [
    ...[q, k, v, ...(backward ? [dOut] : [])].map(({name, channels}): Binding => ({
      name,
      type: inputType(channels),
      access: 'read',
    })),
    ...(backward ? [{name: 'rowTerms', type: 'vec4f', access: 'read'} as const] : []),
    ...(p.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    ...results.map(({name, channels}): Binding => ({name, type: elementType(channels), access: 'read_write'})),
    ...(backward ? [] : ROW_RESULTS),
  ];
}

/** What the forward pass writes per row. */
const ROW_RESULTS: readonly Binding[] = [
  {name: 'lse', type: 'f32', access: 'read_write'},
  {name: 'rowStats', type: 'vec2f', access: 'read_write'},
];
