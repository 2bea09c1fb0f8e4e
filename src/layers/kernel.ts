/**
 * @file Kernels of the layers. A backend may have one for a layer; else the layer runs as several operations of tfjs. A
 * kernel reads and writes memory once where those operations do it up to ten times, and is one call of the host.
 */
import {
  type KernelConfig,
  type NamedTensorMap,
  type Tensor,
  type TensorInfo,
  engine,
  getKernel,
  registerKernel,
} from '@tensorflow/tfjs-core';

/**
 * The layers' kernels. All tensors are float32; N is the number of tokens, C that of channels.
 *
 * - `FlashMaskRmsNorm`: `x [N, C]`, `gamma [C]`, attribute `epsilon`; gives `[N, C]` and `inverse [N, 1]`, the factor
 *   of each row.
 * - `FlashMaskRmsNormGrad`: `x`, `gamma`, `inverse [N, 1]`, `dy [N, C]`; gives `dx [N, C]`.
 * - `FlashMaskRmsNormGammaGrad`: `x`, `inverse`, `dy`; gives `dgamma [C]`, the same in each run.
 * - `FlashMaskRotate`: `x [N, heads · D]`, `cosines [N, 1, D]`, `sines [N, 1, D]`, attribute `back`: rotates the other
 *   way; gives `[N, heads · D]`.
 * - `FlashMaskGatedUnit`: `gate [N, C]`, `up [N, C]`; gives `[N, C]`.
 * - `FlashMaskGatedUnitGrad`: `gate`, `up`, `dy`; gives `dgate` and `dup`.
 * - `FlashMaskAdamW`: `gradient`, `m`, `v` and `value` of one shape, `shrink []`, `factors [3]`, attributes `beta1`,
 *   `beta2` and `decays`; gives the new `m`, `v` and `value` (adamw.ts).
 */
export type LayerKernel =
  | 'FlashMaskRmsNorm'
  | 'FlashMaskRmsNormGrad'
  | 'FlashMaskRmsNormGammaGrad'
  | 'FlashMaskRotate'
  | 'FlashMaskGatedUnit'
  | 'FlashMaskGatedUnitGrad'
  | 'FlashMaskAdamW';

export interface LayerAttrs {
  epsilon?: number;
  back?: boolean;
  beta1?: number;
  beta2?: number;
  decays?: boolean;
}

/** A registered kernel of a layer. */
export interface LayerKernelConfig extends KernelConfig {
  /** Whether the backend can run it now. */
  runsOn(backend: unknown): boolean;
}

/** What a backend computes of a layer's tensors, and whether it can. */
export function layerKernel<Backend>(
  kernelName: LayerKernel,
  backendName: string,
  run: (inputs: Record<string, TensorInfo>, attrs: LayerAttrs, backend: Backend) => TensorInfo[],
  runsOn: (backend: Backend) => boolean = () => true,
): LayerKernelConfig {
  return {
    kernelName,
    backendName,
    kernelFunc: ({inputs, attrs, backend}) =>
      run(inputs as Record<string, TensorInfo>, (attrs ?? {}) as LayerAttrs, backend as Backend),
    runsOn: (backend) => runsOn(backend as Backend),
  };
}

/** Registers kernels. Those of another copy of this library stay. */
export function registerLayerKernels(kernels: readonly LayerKernelConfig[]): void {
  kernels.filter(({kernelName, backendName}) => !getKernel(kernelName, backendName)).forEach(registerKernel);
}

let composing = false;

/** Runs `body` without kernels of layers: a compiler fuses operations of tfjs, but does not know our kernels. */
export function withoutLayerKernels<T>(body: () => T): T {
  const before = composing;
  composing = true;
  try {
    return body();
  } finally {
    composing = before;
  }
}

/** The results of a layer's kernel; of `composed` where the backend has none. */
export function runLayer(
  name: LayerKernel,
  inputs: NamedTensorMap,
  attrs: LayerAttrs,
  composed: () => Tensor[],
): Tensor[] {
  const {backendName, backend} = engine() as unknown as {backendName: string; backend: unknown};
  const kernel = getKernel(name, backendName) as LayerKernelConfig | undefined;
  if (composing || !kernel?.runsOn(backend)) return composed();
  return [engine().runKernel<Tensor | Tensor[]>(name, inputs, {...attrs})].flat();
}
