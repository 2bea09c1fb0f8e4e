/**
 * @file Registers kernels and gradients with tfjs. Existing registrations are skipped. So importing the library twice,
 * or next to a second copy of tfjs-core (which shares the global registry), changes and prints nothing.
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

/** A gradient that only throws an error saying what to import. The real gradient replaces it. */
export interface GradientStandIn extends GradConfig {
  isStandIn: true;
}

/** Registers the kernels that are not registered yet. */
export function registerKernels(kernels: readonly KernelConfig[]): void {
  kernels.filter(({kernelName, backendName}) => !getKernel(kernelName, backendName)).forEach(registerKernel);
}

/** Registers the gradients that are not registered yet, and those that have only a stand-in. */
export function registerGradients(gradients: readonly GradConfig[]): void {
  for (const config of gradients) {
    const before = getGradient(config.kernelName);
    if (before && !('isStandIn' in before)) continue;
    if (before) unregisterGradient(config.kernelName);
    registerGradient(config);
  }
}
