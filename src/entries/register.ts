/**
 * @file Registers kernels and gradients with tfjs. What is there already is skipped, so importing the library twice, or beside a second
 * copy of tfjs-core (whose registry is the same global one), changes and prints nothing.
 */
import {
  type GradConfig,
  type KernelConfig,
  getGradient,
  getKernel,
  registerGradient,
  registerKernel,
  unregisterGradient,
} from '@tensorflow/tfjs-core';

/** A gradient that only says what to import. The real one takes its place. */
export interface GradientStandIn extends GradConfig {
  isStandIn: true;
}

/** Registers the kernels that are not registered yet. */
export function registerKernels(kernels: readonly KernelConfig[]): void {
  kernels.filter(({kernelName, backendName}) => !getKernel(kernelName, backendName)).forEach(registerKernel);
}

/** Registers the gradients that are not registered yet, or only by a stand-in. */
export function registerGradients(gradients: readonly GradConfig[]): void {
  for (const config of gradients) {
    const before = getGradient(config.kernelName);
    if (before && !('isStandIn' in before)) continue;
    if (before) unregisterGradient(config.kernelName);
    registerGradient(config);
  }
}
