/**
 * @file Cuts the graph of a function into segments, so that XLA compiles what it can: it has no kernels of
 * flashMaskAttention and of process groups, which run between compiled segments.
 */
import {type FunctionGraph, isCollective, nodeOf, placeOf} from './function_graph.js';
import {type GraphNode, placeholder} from './graph_def.js';

/** A part of a graph that runs as one function. Its inputs are stand-ins of `reads`. */
export interface Segment extends FunctionGraph {
  /** Whether XLA compiles it. */
  xla: boolean;
  /** Outputs of the whole graph, in the order of `inputs`. */
  reads: string[];
}

/** Operations without a kernel for XLA. */
const isOwn = (node: GraphNode): boolean => node.op.startsWith('FlashMaskAttention') || isCollective(node);

/**
 * The segments of a graph, in the order in which they run: odd stages hold what XLA cannot compile. A node runs as
 * early as it can, and calls of process groups not before those that were recorded before them.
 */
export function segmentsOf(graph: FunctionGraph): Segment[] {
  const stages = stagesOf(graph);
  const count = Math.max(0, ...stages.values()) + 1;
  const cut = Array.from({length: count}, (_, stage) => segmentAt(stage, stages, graph));
  return cut.filter(({outputs}) => outputs.length > 0);
}

/** The stages of nodes by name. Constants have none: each segment has its own. */
function stagesOf({nodes, inputs, outputs}: FunctionGraph): Map<string, number> {
  const given = new Set(inputs.map(nodeOf));
  const results = new Set(outputs.map(nodeOf));
  const stages = new Map<string, number>();
  let collective = 0;
  for (const node of nodes) {
    if (given.has(node.name) || (isConstant(node, stages, given) && !results.has(node.name))) continue;
    const earlier = node.inputs.map((input) => stages.get(nodeOf(input)) ?? 0);
    const stage = Math.max(isCollective(node) ? collective : 0, ...earlier);
    const odd = stage % 2 === 1;
    stages.set(node.name, odd === isOwn(node) ? stage : stage + 1);
    if (isCollective(node)) collective = stages.get(node.name)!;
  }
  return stages;
}

const isConstant = ({inputs}: GraphNode, stages: ReadonlyMap<string, number>, given: ReadonlySet<string>): boolean =>
  inputs.every((input) => !stages.has(nodeOf(input)) && !given.has(nodeOf(input)));

function segmentAt(
  stage: number,
  stages: ReadonlyMap<string, number>,
  {nodes, inputs, outputs}: FunctionGraph,
): Segment {
  const given = new Set(inputs.map(nodeOf));
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const at = (name: string): number | undefined => stages.get(name);
  const own = nodes.filter(({name}) => at(name) === stage);
  const fromOutside = (output: string): boolean =>
    given.has(nodeOf(output)) || (stages.has(nodeOf(output)) && at(nodeOf(output)) !== stage);
  const reads = [...new Set(own.flatMap((node) => node.inputs))].filter(fromOutside);
  const stands = reads.map((output, i) => {
    const {dtype, shape} = byName.get(nodeOf(output))!.outputs[placeOf(output)];
    return placeholder(`s${i}`, dtype, shape);
  });
  const standIn = new Map(reads.map((output, i) => [output, `s${i}:0`]));
  const read = new Set([...nodes.filter(({name}) => at(name) !== stage).flatMap((node) => node.inputs), ...outputs]);
  return {
    nodes: [
      ...stands,
      ...constantsOf(own, stages, given, byName),
      ...own.map((node) => ({...node, inputs: node.inputs.map((input) => standIn.get(input) ?? input)})),
    ],
    inputs: [...standIn.values()],
    outputs: own.flatMap(({name, outputs: made}) => made.map((_, i) => `${name}:${i}`)).filter((x) => read.has(x)),
    xla: stage % 2 === 0,
    reads,
  };
}

/** The constants that nodes read, and those of which they are computed, in order. */
function constantsOf(
  nodes: readonly GraphNode[],
  stages: ReadonlyMap<string, number>,
  given: ReadonlySet<string>,
  byName: ReadonlyMap<string, GraphNode>,
): GraphNode[] {
  const found = new Set<GraphNode>();
  const visit = (output: string): void => {
    const name = nodeOf(output);
    if (stages.has(name) || given.has(name)) return;
    const node = byName.get(name)!;
    node.inputs.forEach(visit);
    found.add(node);
  };
  nodes.forEach((node) => {
    node.inputs.forEach(visit);
  });
  return [...found];
}
