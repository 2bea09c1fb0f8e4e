/**
 * @file The kernels of the layers for tfjs-node: TensorFlow ops that the Node addon registers
 * (native/tensorflow/layers.cc).
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {type LayerAttrs, type LayerKernel, layerKernel, registerLayerKernels} from '../../layers/kernel.js';
import {type Attribute, type Backend, threadCount} from './kernel.js';
import {whyNotNative} from './load.js';

/** Inputs of each op in its order, and the number of its outputs. */
const OPS: Record<LayerKernel, {inputs: readonly string[]; outputs: number}> = {
  FlashMaskRmsNorm: {inputs: ['x', 'gamma'], outputs: 2},
  FlashMaskRmsNormGrad: {inputs: ['x', 'gamma', 'inverse', 'dy'], outputs: 1},
  FlashMaskRmsNormGammaGrad: {inputs: ['x', 'inverse', 'dy'], outputs: 1},
  FlashMaskRotate: {inputs: ['x', 'cosines', 'sines'], outputs: 1},
  FlashMaskGatedUnit: {inputs: ['gate', 'up'], outputs: 1},
  FlashMaskGatedUnitGrad: {inputs: ['gate', 'up', 'dy'], outputs: 2},
  FlashMaskAdamW: {inputs: ['gradient', 'm', 'v', 'value', 'shrink', 'factors'], outputs: 3},
};

/** The attributes of an op: those that are given, by their type, and the number of threads. */
function attributesOf(attrs: LayerAttrs, {binding}: Backend): Attribute[] {
  const given = Object.entries(attrs as Record<string, boolean | number>).map(([name, value]) => ({
    name,
    type: typeof value === 'boolean' ? binding.TF_ATTR_BOOL : binding.TF_ATTR_FLOAT,
    value,
  }));
  return [...given, {name: 'threads', type: binding.TF_ATTR_INT, value: threadCount()}];
}

/** Registers the kernels. Where the addon is missing, the layers run as operations of tfjs. */
export function registerNativeLayers(): void {
  const kernels = Object.entries(OPS) as [LayerKernel, (typeof OPS)[LayerKernel]][];
  registerLayerKernels(
    kernels.map(([name, {inputs, outputs}]) => {
      const run = (given: Record<string, TensorInfo>, attrs: LayerAttrs, backend: Backend): TensorInfo[] => {
        const all = inputs.map((input) => given[input]);
        return backend.executeMultipleOutputs(name, attributesOf(attrs, backend), all, outputs);
      };
      return layerKernel<Backend>(name, 'tensorflow', run, (backend) => whyNotNative(backend) === null);
    }),
  );
}
