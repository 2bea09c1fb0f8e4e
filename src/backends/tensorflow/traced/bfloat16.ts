/**
 * @file Matrix products of bfloat16 operands, which GPUs multiply at twice the speed of float32's. Tensors of a
 * function stay float32: only a product's operands and its result are rounded, as in PyTorch's autocast.
 */
import {type FunctionGraph, nodeOf} from './function_graph.js';
import {type GraphNode, typeValue} from './graph_def.js';
import type {Binding} from './recorder.js';

/** TensorFlow's number of the type, which tfjs does not have. */
const BFLOAT16 = 14;

const PRODUCT = /^(Batch)?MatMul(V2)?$/;

/** The graph with its products in bfloat16. Those by a constant, such as sums by a vector of ones, stay as they are. */
export function withBfloat16({nodes, inputs, outputs}: FunctionGraph, {TF_FLOAT}: Binding): FunctionGraph {
  const constants = new Set<string>();
  const casts = new Map<string, GraphNode>();
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const cast = (name: string, input: string, from: number, to: number, shape: number[]): GraphNode => {
    const attributes = {SrcT: typeValue(from), DstT: typeValue(to)};
    return {name, op: 'Cast', inputs: [input], attributes, outputs: [{dtype: to, shape}]};
  };
  /** The output in bfloat16, by a node that is made once. */
  const rounded = (input: string): GraphNode[] => {
    if (casts.has(input)) return [];
    const {shape} = byName.get(nodeOf(input))!.outputs[0];
    casts.set(input, cast(`bfloat16_${casts.size}`, input, TF_FLOAT, BFLOAT16, shape));
    return [casts.get(input)!];
  };
  const changed = nodes.flatMap((node): GraphNode[] => {
    const {name, op, outputs: made} = node;
    const read = node.inputs.map(nodeOf);
    if (op !== 'Placeholder' && read.every((input) => constants.has(input))) constants.add(name);
    const isProduct = PRODUCT.test(op) && made[0].dtype === TF_FLOAT && !read.some((input) => constants.has(input));
    if (!isProduct) return [node];
    const before = node.inputs.flatMap(rounded);
    const product: GraphNode = {
      ...node,
      name: `product_${name}`,
      inputs: node.inputs.map((input) => `${casts.get(input)!.name}:0`),
      attributes: {...node.attributes, T: typeValue(BFLOAT16)},
      outputs: [{dtype: BFLOAT16, shape: made[0].shape}],
    };
    return [...before, product, cast(name, `${product.name}:0`, BFLOAT16, TF_FLOAT, made[0].shape)];
  });
  return {nodes: changed, inputs, outputs};
}
