/**
 * @file The masks of functions on a GPU. TensorFlow keeps int32 tensors on the host, so that a function with an int32
 * input has a part there and waits for the GPU. float32 inputs stay on the GPU, and so do the plans of masks: a
 * function gets them in the place of bounds. Bounds that it computes itself get a plan inside.
 */
import {type PlanKind, planKey, planKindOf} from '../plans.js';
import {type FunctionGraph, nodeOf, placeOf} from './function_graph.js';
import {type GraphNode, placeholder, tensorValue, typeValue} from './graph_def.js';
import {fieldsOf, intField} from './protobuf.js';
import type {Binding} from './recorder.js';

/** An input of a function: one of those of the graph, or the plan of one. */
export interface FunctionInput {
  /** The place in the graph's inputs. */
  of: number;
  plan: PlanKind | null;
}

/** Inputs that are passed as they are. */
export const asTheyAre = ({inputs}: FunctionGraph): FunctionInput[] => inputs.map((_, of) => ({of, plan: null}));

const BOUNDS = 3;
const isAttention = ({op}: GraphNode): boolean => op.startsWith('FlashMaskAttention');

/** The graph with plans in the place of bounds, and what its inputs are. */
export function withPlans(graph: FunctionGraph, binding: Binding): {graph: FunctionGraph; inputs: FunctionInput[]} {
  const {TF_FLOAT, TF_INT32} = binding;
  const byName = new Map(graph.nodes.map((node) => [node.name, node]));
  const shapeOf = (output: string): number[] => byName.get(nodeOf(output))!.outputs[placeOf(output)].shape;
  const replaced = graph.inputs.filter((input) => isOfMasks(input, graph.nodes, byName, TF_INT32));
  const kept = asTheyAre(graph).filter(({of}) => !replaced.includes(graph.inputs[of]));
  const inputs = kept.map((given) => ({...given, output: graph.inputs[given.of]}));
  const plans = new Map<string, string>();
  /** Makes the plan of some bounds, once: an input of the function or a node of it. */
  const nodesOfPlan = (bounds: string, kind: PlanKind): GraphNode[] => {
    const key = `${bounds} ${planKey(kind)}`;
    if (plans.has(key)) return [];
    const name = `plan_${plans.size}`;
    plans.set(key, `${name}:0`);
    const [batch, heads, , n] = shapeOf(bounds);
    // The number of its words is the op's own.
    const shape = [batch, heads, n, -1];
    if (replaced.includes(bounds)) {
      inputs.push({of: graph.inputs.indexOf(bounds), plan: kind, output: `${name}:0`});
      return [placeholder(name, TF_FLOAT, shape)];
    }
    const queryLength = constant(`${name}_query_length`, TF_INT32, [], Int32Array.of(kind.queryLength));
    const attributes = {causal: intField(5, kind.causal)};
    const read = [bounds, `${queryLength.name}:0`];
    return [queryLength, {name, op: 'FlashMaskPlan', inputs: read, attributes, outputs: [{dtype: TF_FLOAT, shape}]}];
  };
  const nodes = graph.nodes.flatMap((node): GraphNode[] => {
    // Bounds without numbers tell their shape alone.
    if (replaced.includes(`${node.name}:0`)) {
      const {shape} = node.outputs[0];
      return shape[3] === 0 ? [constant(node.name, TF_INT32, shape, new Int32Array(0))] : [];
    }
    const kind = isAttention(node) ? kindOf(node, shapeOf) : null;
    if (kind === null) return [node];
    const made = nodesOfPlan(node.inputs[BOUNDS], kind);
    const plan = plans.get(`${node.inputs[BOUNDS]} ${planKey(kind)}`)!;
    const attributes = {...node.attributes, mask: typeValue(TF_FLOAT)};
    return [...made, {...node, attributes, inputs: node.inputs.map((input, i) => (i === BOUNDS ? plan : input))}];
  });
  return {graph: {nodes, inputs: inputs.map(({output}) => output), outputs: graph.outputs}, inputs};
}

/** Whether an input is the bounds of calls and nothing else. */
function isOfMasks(
  input: string,
  nodes: readonly GraphNode[],
  byName: ReadonlyMap<string, GraphNode>,
  int32: number,
): boolean {
  const {op, outputs} = byName.get(nodeOf(input))!;
  const readers = nodes.filter(({inputs}) => inputs.includes(input));
  const areCalls = readers.every((node) => isAttention(node) && node.inputs[BOUNDS] === input);
  return op === 'Placeholder' && outputs[0].dtype === int32 && areCalls;
}

/** What the plan of a recorded call depends on. */
function kindOf({attributes, inputs}: GraphNode, shapeOf: (output: string) => number[]): PlanKind | null {
  const [q, , , bounds] = inputs.map(shapeOf);
  const causal = fieldsOf(attributes.causal)[0].int === 1;
  const layout = new TextDecoder().decode(fieldsOf(attributes.layout)[0].bytes);
  return planKindOf({causal, layout, q, bounds});
}

function constant(name: string, dtype: number, shape: number[], values: Int32Array): GraphNode {
  const value = tensorValue(dtype, shape, new Uint8Array(values.buffer));
  return {name, op: 'Const', inputs: [], attributes: {dtype: typeValue(dtype), value}, outputs: [{dtype, shape}]};
}
