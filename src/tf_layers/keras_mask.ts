/**
 * @file Which inputs of a layer have one of Keras's padding masks. tfjs hands a layer of a model the mask of its first
 * input. If that has none it hands on the mask of an earlier layer, which may belong to other tokens. So the graph says
 * whether to take it.
 */
import type {SymbolicTensor, layers} from '@tensorflow/tfjs-layers';
import {fail} from '../call/errors.js';

type Layer = layers.Layer;

/** Layers that make a mask: `embedding` does with `maskZero`, which it stores as `supportsMasking`. */
const MAKERS = ['Embedding', 'Masking'];

/** Whether a tensor of a model comes with a padding mask, by the rules of tfjs's own layers. */
function hasMask({sourceLayer, inputs}: SymbolicTensor): boolean {
  if (!sourceLayer.supportsMasking || inputs.length === 0) return false;
  const name = sourceLayer.getClassName();
  if (MAKERS.includes(name)) return true;
  if (name === 'Concatenate') return inputs.some(hasMask);
  return name !== 'Dot' && hasMask(inputs[0]);
}

/**
 * Whether the input of this index has a padding mask where a model calls the layer; undefined if no model does.
 *
 * @throws Error if the layer is called with a mask in one place and without in another.
 */
export function inputHasMask({inboundNodes, name}: Layer, index: number): boolean | undefined {
  const nodes = inboundNodes as unknown as {inputTensors: SymbolicTensor[]}[];
  const found = new Set(nodes.map(({inputTensors}) => index < inputTensors.length && hasMask(inputTensors[index])));
  if (found.size > 1) {
    const rule = 'a shared layer must have a padding mask wherever a model calls it, or nowhere';
    fail(name, rule, 'some calls with and some without', 'Use a layer each, with the same weights, or give bounds.');
  }
  return found.values().next().value;
}
