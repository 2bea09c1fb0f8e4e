/** @file A graph as TensorFlow functions that run one after another: one, or more if XLA compiles it in part. */
import type {Tensor} from '@tensorflow/tfjs-core';
import {planOf} from '../plans.js';
import {withBfloat16} from './bfloat16.js';
import {type FunctionGraph, isCollective, nodeOf, placeOf} from './function_graph.js';
import {engineNow} from './gradients.js';
import {graphDef} from './graph_def.js';
import {countFunctions} from './progress.js';
import type {Binding, RecordedBackend} from './recorder.js';
import {type Segment, segmentsOf} from './segments.js';
import {type FunctionInput, asTheyAre, withPlans} from './with_plans.js';

/** Counts functions. Global, because the module may be loaded twice and TensorFlow's names are the process's. */
const COUNT = Symbol.for('tfjs-flashmask.traced');
const globals = globalThis as {[COUNT]?: number};

/** A part of the graph. Tensors have the names of the graph's outputs. */
interface Part {
  segment: Segment;
  /** The inputs of its function, of what it reads. */
  inputs: readonly FunctionInput[];
  makes: readonly {output: string; dtype: number; shape: number[]}[];
  /** The tensors that no later part needs, and that are no results. */
  last: readonly string[];
  /** The name of its function; null if TensorFlow has none. */
  name: string | null;
}

export class Program {
  private readonly parts: Part[];
  private disposed = false;

  /**
   * @param name Begins the names of the functions.
   * @param how Whether XLA compiles them, whether products are of bfloat16, and whether they run on a GPU.
   */
  constructor(
    private readonly binding: Binding,
    private readonly name: string,
    private readonly graph: FunctionGraph,
    {xla, bfloat16, onGpu}: {xla: boolean; bfloat16: boolean; onGpu: boolean},
  ) {
    const floats = xla ? segmentsOf(graph) : [{...graph, reads: graph.inputs, xla}];
    // Each by itself: between functions there are tensors of tfjs, which has no bfloat16.
    const segments = bfloat16 ? floats.map((segment) => ({...segment, ...withBfloat16(segment, binding)})) : floats;
    const made = new Map(graph.nodes.map((node) => [node.name, node.outputs]));
    const kept = new Set([...graph.inputs, ...graph.outputs]);
    this.parts = segments.map((given, at) => {
      const {graph: own, inputs} = onGpu ? withPlans(given, binding) : {graph: given, inputs: asTheyAre(given)};
      const {reads, outputs} = given;
      const later = new Set(segments.slice(at + 1).flatMap((next) => next.reads));
      return {
        segment: {...given, ...own},
        inputs,
        makes: outputs.map((output) => ({output, ...made.get(nodeOf(output))![placeOf(output)]})),
        last: [...reads, ...outputs].filter((output) => !kept.has(output) && !later.has(output)),
        name: null,
      };
    });
    countFunctions({known: this.parts.length});
  }

  /** Runs the functions, and makes those that TensorFlow does not have. */
  run(tensors: readonly Tensor[]): Tensor[] {
    const values = new Map(this.graph.inputs.map((name, i) => [name, tensors[i]]));
    for (const part of this.parts) {
      const compiles = part.name === null;
      part.name ??= this.add(part.segment);
      this.runPart(part, part.name, values);
      // TensorFlow compiles a function in its first call. An error of it belongs to this call.
      if (compiles) {
        this.binding.waitForFunctions!();
        countFunctions({made: 1, known: this.disposed ? 1 : 0});
      }
    }
    // A gradient may run after the traced function was disposed.
    if (this.disposed) this.dispose();
    return this.graph.outputs.map((output) => values.get(output)!);
  }

  private runPart({segment, inputs, makes, last}: Part, name: string, values: Map<string, Tensor>): void {
    // tf.engine().reset() makes a new backend, with the same binding.
    const backend = engineNow().backend as RecordedBackend;
    const read = segment.reads.map((output) => values.get(output)!);
    const given = backend.getInputTensorIds(read);
    const ids = inputs.map(({of, plan}) =>
      plan === null ? given[of] : planOf(backend, read[of].dataId, given[of], plan),
    );
    const made = backend.binding.runFunction!(name, ids, makes.length);
    makes.forEach(({output, dtype, shape}, i) => {
      values.set(output, backend.createOutputTensor({id: made[i], dtype, shape}));
    });
    last.forEach((output) => {
      values.get(output)!.dispose();
    });
  }

  private add({nodes, inputs, outputs, xla}: Segment): string {
    globals[COUNT] = (globals[COUNT] ?? 0) + 1;
    const name = `tfjs_flashmask_${this.name}_${globals[COUNT]}`;
    this.binding.addFunction!(name, graphDef(nodes, isCollective), inputs, outputs, xla);
    return name;
  }

  /** Frees the functions. A later run makes them again, and frees them. */
  dispose(): void {
    const made = this.parts.filter(({name}) => name !== null);
    countFunctions({made: -made.length, known: -(this.disposed ? made : this.parts).length});
    this.disposed = true;
    for (const part of made) {
      this.binding.removeFunction!(part.name!);
      part.name = null;
    }
  }
}
