/** @file The gradient of tf.einsum, which tfjs 4.22 lacks (its issue 8277). */
import {
  type GradConfig,
  type NamedAttrMap,
  type Tensor,
  broadcastTo,
  einsum,
  reshape,
  sum,
} from '@tensorflow/tfjs-core';

/**
 * Gradient of Einsum for one or two operands without repeated labels, which is all that tfjs's einsum takes. It is made
 * of einsums, so it has a gradient too.
 */
export const gradientOfEinsum: GradConfig = {
  kernelName: 'Einsum',
  saveAllInputs: true,
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], attrs: NamedAttrMap): Record<string, () => Tensor> => {
    const [terms, out] = (attrs.equation as string).replaceAll(/\s/g, '').split('->');
    const labels = terms.split(',');
    const gradientOf = (i: number): Tensor => {
      const other = labels.length > 1 ? {labels: labels[1 - i], x: saved[1 - i]} : null;
      return operandGradient({labels: labels[i], x: saved[i]}, other, {labels: out, x: dy as Tensor});
    };
    return Object.fromEntries(labels.map((_, i) => [i, () => gradientOf(i)]));
  },
};

/** A tensor and the labels of its axes. */
interface Operand {
  labels: string;
  x: Tensor;
}

function operandGradient(own: Operand, other: Operand | null, dy: Operand): Tensor {
  // What only the other operand has was summed before the product.
  const rest = other && sumOut(other, (label) => own.labels.includes(label) || dy.labels.includes(label));
  const seen = (label: string): boolean => dy.labels.includes(label) || (rest?.labels.includes(label) ?? false);
  const kept = Array.from(own.labels).filter(seen).join('');
  const gradient = rest
    ? einsum(`${dy.labels},${rest.labels}->${kept}`, dy.x, rest.x)
    : einsum(`${dy.labels}->${kept}`, dy.x);
  // What only this operand has was summed, so its gradient is the same everywhere.
  const shape = own.x.shape.map((size, axis) => (seen(own.labels[axis]) ? size : 1));
  return broadcastTo(reshape(gradient, shape), own.x.shape);
}

function sumOut({labels, x}: Operand, keeps: (label: string) => boolean): Operand {
  const axes = Array.from(labels).flatMap((label, axis) => (keeps(label) ? [] : [axis]));
  return {labels: Array.from(labels).filter(keeps).join(''), x: axes.length > 0 ? sum(x, axes) : x};
}
