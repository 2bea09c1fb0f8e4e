/** @file The graph of a TensorFlow function to be. */
import {COLLECTIVES} from '../collectives.js';
import type {GraphNode} from './graph_def.js';

export interface FunctionGraph {
  /** Each after those that it reads. */
  nodes: GraphNode[];
  /** Outputs of the nodes that stand for the inputs. */
  inputs: string[];
  /** The outputs of nodes that are the results: each once, none of them an input. */
  outputs: string[];
}

const collectives = new Set<string>(Object.values(COLLECTIVES));

/** Calls of process groups. They wait for other processes, so all make them in the same order: that of recording. */
export const isCollective = ({op}: GraphNode): boolean => collectives.has(op);

/** The node of an output, which is `name:place`. */
export const nodeOf = (output: string): string => output.slice(0, output.lastIndexOf(':'));
export const placeOf = (output: string): number => Number(output.slice(output.lastIndexOf(':') + 1));
