/** @file The graph of a TensorFlow function to be. */
import type {GraphNode} from './graph_def.js';

export interface FunctionGraph {
  /** Each after those that it reads. */
  nodes: GraphNode[];
  /** Outputs of the nodes that stand for the inputs. */
  inputs: string[];
  /** The outputs of nodes that are the results: each once, none of them an input. */
  outputs: string[];
}

/** The node of an output, which is `name:place`. */
export const nodeOf = (output: string): string => output.slice(0, output.lastIndexOf(':'));
export const placeOf = (output: string): number => Number(output.slice(output.lastIndexOf(':') + 1));
