/** @file The TensorFlow functions of one traced function: what was recorded for which shapes. */
import {type Tensor, Variable, dispose, engine, ones} from '@tensorflow/tfjs-core';
import {fail} from '../../../call/errors.js';
import {withoutLayerKernels} from '../../../layers/kernel.js';
import type {FunctionGraph} from './function_graph.js';
import {type Body, type Call, engineNow, gradientsOf, offTape} from './gradients.js';
import {Program} from './program.js';
import {type RecordedBackend, type Recording, WHO, WIRING, record} from './recorder.js';
import {splitGradient} from './split.js';

/** What was made of a recording. */
interface Compiled {
  /** One, or that of the forward pass and that of its gradient. */
  programs: Program[];
  /** Of a forward pass and its gradient: how many tensors are kept, and which inputs the gradient reads. */
  kept: number;
  reads: number[];
  steps: readonly string[];
  /** Whether a second recording was the same. */
  confirmed: boolean;
}

/** Most combinations of shapes for which a traced function keeps TensorFlow functions. */
const MOST_KEPT = 64;

export const isVariable = (tensor: Tensor): boolean => tensor instanceof Variable;

/** The TensorFlow functions of one traced function, by kind and by the shapes of their inputs. */
export class Functions {
  private readonly compiled = new Map<string, Compiled>();
  private backend: RecordedBackend | null = null;

  constructor(
    private readonly name: string,
    private readonly how: {xla: boolean; bfloat16: boolean; eager: boolean},
  ) {}

  /** Whether functions can be made on the current backend. Must be asked before each use. */
  onBackend(): boolean {
    const {backend, backendName} = engineNow();
    if (this.how.eager || backendName !== 'tensorflow' || !canRecord(backend as RecordedBackend)) return false;
    // Functions belong to the binding of a backend.
    if (this.backend?.binding !== (backend as RecordedBackend).binding) this.dispose();
    this.backend = backend as RecordedBackend;
    return true;
  }

  /** Runs a body as a function, or as it is. */
  run(kind: string, inputs: readonly Tensor[], body: Body): Tensor[] {
    if (!this.onBackend()) return body(inputs);
    const key = keyOf(kind, inputs);
    const known = this.compiled.get(key);
    if (known?.confirmed) return known.programs[0].run(inputs);
    const {outputs, recording} = this.record(inputs, () => body(inputs));
    this.learn(key, recording, () => ({programs: [this.program(kind, recording)], kept: 0, reads: []}));
    return outputs;
  }

  /** The functions of a body and of its gradient. */
  withGradient({body, tensors, places, names}: Call): Compiled {
    const key = keyOf(`both ${names}`, tensors);
    const known = this.compiled.get(key);
    if (known?.confirmed) return known;
    const shapes = offTape(() => engine().tidy(() => body(tensors).map(({shape}) => shape) as never) as number[][]);
    const dys = shapes.map((shape) => ones(shape));
    const {outputs, recording} = this.record([...tensors, ...dys], () => {
      const {value, gradients} = gradientsOf(body, tensors, places, dys);
      return [...value, ...gradients];
    });
    dispose([...outputs, ...dys]);
    return this.learn(key, recording, () => {
      const {forward, backward, kept, reads} = splitGradient(recording, shapes.length);
      return {programs: [this.program('forward', forward), this.program('backward', backward)], kept, reads};
    });
  }

  dispose(): void {
    for (const key of [...this.compiled.keys()]) this.remove(key);
  }

  /** Makes functions of a first recording, and compares a second one. */
  private learn(
    key: string,
    recording: Recording,
    make: () => Pick<Compiled, 'programs' | 'kept' | 'reads'>,
  ): Compiled {
    let known = this.compiled.get(key);
    if (known) {
      confirm(known, recording);
    } else {
      known = {...make(), steps: recording.steps, confirmed: false};
      this.compiled.set(key, known);
      if (this.compiled.size > MOST_KEPT) this.remove(this.compiled.keys().next().value!);
    }
    return known;
  }

  private record(inputs: readonly Tensor[], body: () => Tensor[]): {outputs: Tensor[]; recording: Recording} {
    const run = (): Tensor[] => (this.how.xla ? withoutLayerKernels(body) : body());
    return record(this.backend!, inputs, run);
  }

  private program(kind: string, graph: FunctionGraph): Program {
    const {binding, isUsingGpuDevice: onGpu} = this.backend!;
    const {bfloat16, xla} = this.how;
    return new Program(binding, `${this.name}_${kind.split(' ')[0]}`, graph, {xla, bfloat16, onGpu});
  }

  private remove(key: string): void {
    this.compiled.get(key)!.programs.forEach((program) => {
      program.dispose();
    });
    this.compiled.delete(key);
  }
}

/** Of what functions depend on: kinds, shapes and types of inputs, and which of them are variables. */
function keyOf(kind: string, inputs: readonly Tensor[]): string {
  const kinds = inputs.map((x) => `${isVariable(x) ? 'variable ' : ''}${x.dtype}[${x.shape.join()}]`);
  return `${kind} ${kinds.join(' ')}`;
}

/** The second recording must be the same: what differs would be frozen from then on. */
function confirm(known: Compiled, {steps}: Recording): void {
  const at = steps.findIndex((step, i) => step !== known.steps[i]);
  if (at >= 0 || steps.length !== known.steps.length) {
    const place = at >= 0 ? at : steps.length;
    const [before, now] = [known.steps[place], steps[place]].map((step) => step?.split(WIRING)[0] ?? 'nothing');
    const rule = 'the function must run the same operations on the same constants in every call';
    fail(WHO, rule, `${before} and then ${now}`, 'Pass what changes as an input.');
  }
  known.confirmed = true;
  known.steps = [];
}

let warned = false;

/** Whether the binding of a backend of tfjs-node can make functions. */
export const hasFunctions = ({binding}: {binding?: object}): boolean =>
  binding !== undefined && 'runFunction' in binding;

/** Whether the binding can make functions. tfjs-node's own cannot, which is said once. */
function canRecord(backend: RecordedBackend): boolean {
  if (hasFunctions(backend)) return true;
  if (!warned) {
    warned = true;
    console.warn(
      "traced: tfjs-node must have the binding that 'npx tfjs-flashmask setup-node --force' builds to run functions as " +
        'one operation, got its own. Until then they run operation by operation, which is slower.',
    );
  }
  return false;
}
