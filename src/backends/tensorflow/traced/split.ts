/**
 * @file Cuts a recording in two: a forward pass, and its gradient, which reads what the forward pass keeps for it.
 */
import {type GraphNode, placeholder} from './graph_def.js';
import {type FunctionGraph, nodeOf, placeOf} from './function_graph.js';

/** A forward pass and its gradient. */
export interface SplitRecording {
  /** Its outputs are the results, and then what is kept. */
  forward: FunctionGraph;
  /** Its inputs are what is kept, then the inputs of the recording at `reads`, then the gradients of the results. */
  backward: FunctionGraph;
  kept: number;
  reads: number[];
}

/** The nodes that `outputs` need, in order, together with the placeholders of `inputs`. */
function neededFor(outputs: readonly string[], inputs: readonly string[], nodes: readonly GraphNode[]): GraphNode[] {
  const needed = new Set([...outputs, ...inputs].map(nodeOf));
  for (const node of [...nodes].reverse()) {
    if (needed.has(node.name)) node.inputs.forEach((input) => needed.add(nodeOf(input)));
  }
  return nodes.filter(({name}) => needed.has(name));
}

/** Names of the nodes that depend on some outputs. */
function dependants(nodes: readonly GraphNode[], on: readonly string[]): Set<string> {
  const found = new Set(on.map(nodeOf));
  for (const {name, inputs} of nodes) if (inputs.some((input) => found.has(nodeOf(input)))) found.add(name);
  return found;
}

/**
 * Splits a recording of results and their gradients.
 *
 * @param recording its last inputs are the gradients of the results; its first outputs are the results.
 * @param results the number of results.
 */
export function splitGradient({nodes, inputs, outputs}: FunctionGraph, results: number): SplitRecording {
  const given = inputs.slice(0, inputs.length - results);
  const dys = inputs.slice(given.length);
  const gradients = outputs.slice(results);
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const late = dependants(nodes, dys);
  // A gradient that depends on no dy, such as zeros, is computed in the backward pass too.
  gradients.forEach((output) => late.add(nodeOf(output)));
  const backward = neededFor(gradients, dys, nodes).filter(({name}) => late.has(name));
  const read = [...new Set(backward.flatMap((node) => node.inputs))].filter((output) => !late.has(nodeOf(output)));
  const constants = read.filter((output) => byName.get(nodeOf(output))!.op === 'Const');
  const reads = given.map((_, i) => i).filter((i) => read.includes(given[i]));
  const kept = read.filter((output) => !constants.includes(output) && !given.includes(output));
  const stands = [...kept, ...reads.map((i) => given[i])].map((output, i) => {
    const {outputs: of} = byName.get(nodeOf(output))!;
    const {dtype, shape} = of[placeOf(output)];
    return {output, node: placeholder(`k${i}`, dtype, shape)};
  });
  const standIn = new Map(stands.map(({output, node}) => [output, `${node.name}:0`]));
  const moved = backward.map((node) => ({...node, inputs: node.inputs.map((input) => standIn.get(input) ?? input)}));
  const own = [...stands.map(({node}) => node), ...constants.map((output) => byName.get(nodeOf(output))!)];
  return {
    forward: {
      nodes: neededFor([...outputs.slice(0, results), ...kept], given, nodes),
      inputs: given,
      outputs: [...outputs.slice(0, results), ...kept],
    },
    backward: {
      nodes: [...own, ...moved],
      inputs: [...stands.map(({node}) => `${node.name}:0`), ...dys],
      outputs: gradients,
    },
    kept: kept.length,
    reads,
  };
}
