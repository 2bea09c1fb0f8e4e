/**
 * @file The bounds of masks as inputs of functions. TensorFlow keeps int32 tensors on the host, so that a function with
 * an int32 input has a part there and waits for the GPU. float32 inputs stay on the GPU; so bounds are passed by their
 * bits, as float32.
 */
import type {DataId, Tensor} from '@tensorflow/tfjs-core';
import {type FunctionGraph, nodeOf} from './function_graph.js';
import {type GraphNode, placeholder, typeValue} from './graph_def.js';
import type {Binding, RecordedBackend} from './recorder.js';

/** The graph of a function with bounds as float32, and which of its inputs those are. */
export function withBits(graph: FunctionGraph, {TF_INT32, TF_FLOAT}: Binding): {graph: FunctionGraph; bits: boolean[]} {
  const isBounds = ({name, op, outputs}: GraphNode): boolean =>
    op === 'Placeholder' && outputs[0].dtype === TF_INT32 && readersOf(name, graph.nodes).every(isAttention);
  const bounds = new Set(graph.nodes.filter(isBounds).map(({name}) => name));
  const bits = graph.inputs.map((input) => bounds.has(nodeOf(input)));
  const nodes = graph.nodes.flatMap((node) => {
    if (!bounds.has(node.name)) return [node];
    const {name, outputs} = node;
    const attributes = {T: typeValue(TF_FLOAT), type: typeValue(TF_INT32)};
    const given = placeholder(`bits_${name}`, TF_FLOAT, outputs[0].shape);
    return [given, {name, op: 'Bitcast', inputs: [`${given.name}:0`], attributes, outputs}];
  });
  const inputs = graph.inputs.map((input, i) => (bits[i] ? `bits_${input}` : input));
  return {graph: {nodes, inputs, outputs: graph.outputs}, bits};
}

const readersOf = (name: string, nodes: readonly GraphNode[]): GraphNode[] =>
  nodes.filter(({inputs}) => inputs.some((input) => nodeOf(input) === name));

const isAttention = ({op}: GraphNode): boolean => op.startsWith('FlashMaskAttention');

/** The ids of float32 tensors on the device with the bits of int32 tensors. */
const known = new WeakMap<DataId, number>();

/** The id of a float32 tensor with the bits of an int32 tensor. It lives as long as that tensor. */
export function bitsOf(backend: RecordedBackend, {dataId}: Tensor, id: number): number {
  if (!known.has(dataId)) {
    freeWithTensors(backend);
    const {TF_ATTR_TYPE, TF_INT32, TF_FLOAT} = backend.binding;
    const types = [
      {name: 'T', type: TF_ATTR_TYPE, value: TF_INT32},
      {name: 'type', type: TF_ATTR_TYPE, value: TF_FLOAT},
    ];
    known.set(dataId, backend.binding.executeOp('Bitcast', types, [id], 1)[0].id);
  }
  return known.get(dataId)!;
}

const watched = new WeakSet<RecordedBackend>();

/** From now on, the end of a tensor of the backend frees its bits too. */
function freeWithTensors(backend: RecordedBackend): void {
  if (watched.has(backend)) return;
  watched.add(backend);
  const ends = backend.disposeData.bind(backend);
  backend.disposeData = (dataId, force) => {
    const ended = ends(dataId, force);
    if (ended && known.has(dataId)) {
      backend.binding.deleteTensor(known.get(dataId)!);
      known.delete(dataId);
    }
    return ended;
  };
}
