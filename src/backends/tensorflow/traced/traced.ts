/**
 * @file `traced`: a function of tensors as one TensorFlow operation. tfjs-node runs each operation by a call from
 * JavaScript, which takes longer than a small operation itself; a TensorFlow function runs hundreds by one call.
 */
import {
  type NamedTensorMap,
  type Tensor,
  Variable,
  dispose,
  engine,
  keep,
  mul,
  ones,
  sum,
  zerosLike,
} from '@tensorflow/tfjs-core';
import {checkOptions, describe, fail} from '../../../call/errors.js';
import {isTensor} from '../../../call/values.js';
import {type RecordedBackend, type Recording, WHO, WIRING, isRecording, record} from './recorder.js';
import {type FunctionGraph, splitGradient, wholeOf} from './split.js';

/** Options of {@link traced}. */
export interface TracedOptions {
  /** Inputs that get no gradient, such as frozen weights and tables. int32 and bool inputs never get one. */
  frozen?: readonly string[];
  /**
   * Keeps the inputs alone for the gradient, which runs `fn` again (activation checkpointing, Chen et al., arXiv
   * 1604.06174). With false it keeps what the gradient reads: less work, more memory. Default true.
   */
  recompute?: boolean;
  /** Part of the names of the TensorFlow functions, as profilers show them. Default: the name of the function. */
  name?: string;
  /**
   * Compiles by XLA, which fuses operations that go over memory alone. The first call then takes seconds longer.
   * flashMaskAttention cannot be compiled by XLA. Default false.
   */
  xla?: boolean;
  /** Runs `fn` as it is in every call, to compare or to debug. Default false. */
  eager?: boolean;
}

/** What a function that {@link traced} makes returns. */
export type TracedResults = Tensor | Tensor[];

/** A function that {@link traced} made. */
export interface Traced<R extends TracedResults> {
  (inputs: NamedTensorMap): R;
  /** Frees the TensorFlow functions. A later call makes them again. */
  dispose(): void;
}

/** A TensorFlow function. */
interface TensorFlowFunction {
  name: string;
  outputs: number;
}

/** What was made of a recording. */
interface Compiled {
  /** One, or that of the forward pass and that of its gradient. */
  functions: TensorFlowFunction[];
  /** Of a forward pass and its gradient: how many tensors are kept, and which inputs the gradient reads. */
  kept: number;
  reads: number[];
  steps: readonly string[];
  /** Whether a second recording was the same. */
  confirmed: boolean;
}

/** Most combinations of shapes for which a traced function keeps TensorFlow functions. */
const MOST_KEPT = 64;

/** Counts functions. Global, because the module may be loaded twice and TensorFlow's names are the process's. */
const COUNT = Symbol.for('tfjs-flashmask.traced');
const globals = globalThis as {[COUNT]?: number};

/** The members of the engine that run a function with its own gradient. `customGrad` allows one output only. */
interface Engine {
  state: {activeTape: unknown; gradientDepth: number};
  isTapeOn(): boolean;
  backendName: string;
  backend: unknown;
  runKernelFunc(call: {
    forwardFunc: (backend: unknown, save: (tensors: Tensor[]) => void) => Tensor[];
    backwardsFunc: (dy: TracedResults, saved: Tensor[]) => Record<string, () => Tensor>;
    inputs: NamedTensorMap;
  }): Tensor[];
}

const engineNow = (): Engine => engine() as unknown as Engine;

/**
 * A function of tensors that runs as one TensorFlow operation on tfjs-node: much less work of the host where its
 * operations are small. It computes what `fn` computes, to the last bit.
 *
 * The first two calls with inputs of the same shapes run `fn` as it is and record its operations, once more to see
 * that they are the same; later calls run the recording. Its gradient is an operation too. It can be differentiated
 * once.
 *
 * On other backends, and with a binding of tfjs-node that setup-node did not build, each call runs `fn` as it is.
 *
 * ```js
 * import {traced} from 'tfjs-flashmask/node';
 *
 * const layer = traced(({x, weight, bias}) => tf.relu(tf.add(tf.matMul(x, weight), bias)));
 * const y = layer({x, weight, bias}); // weight and bias may be variables
 * layer.dispose();
 * ```
 *
 * @param fn reads tensors of `inputs` alone, and constants that are the same in every call. Everything that changes
 *   from call to call is an input: step numbers, seeds, random numbers, rows of a mask.
 * @param options see {@link TracedOptions}.
 * @returns a function of the same inputs, with `dispose()`.
 * @throws Error when called, if `fn` reads a tensor from outside, reads values on the host, draws random numbers,
 *   assigns a variable, has a result whose shape depends on values, or runs other operations or constants the second
 *   time.
 *
 * @category tfjs-node
 */
export function traced<R extends TracedResults>(
  fn: (inputs: NamedTensorMap) => R,
  options: TracedOptions = {},
): Traced<R> {
  const given = checkOptions(WHO, options, ['frozen', 'recompute', 'name', 'xla', 'eager']);
  const {frozen = [], recompute = true, name = fn.name, xla = false, eager = false} = given;
  const functions = new Functions(name.replace(/[^A-Za-z0-9_]/g, '_'), xla, eager);
  let single = false;
  /** `fn` of inputs in the order of their names. */
  const bodyOf =
    (names: readonly string[]) =>
    (tensors: readonly Tensor[]): Tensor[] => {
      const results = fn(Object.fromEntries(names.map((key, i) => [key, tensors[i]])));
      single = !Array.isArray(results);
      return [results].flat().map((result: unknown) => {
        if (isTensor(result)) return result;
        return fail(WHO, 'the function must return a tensor or an array of tensors', describe(result), SYNC);
      });
    };
  const call = (inputs: NamedTensorMap): R => {
    const names = namesOf(inputs);
    // Part of a recording; or tfjs itself keeps what the gradient reads.
    if (isRecording() || (!recompute && !functions.onBackend())) return fn(inputs);
    const wanted = names.filter((key) => !frozen.includes(key) && inputs[key].dtype === 'float32');
    const tensors = names.map((key) => inputs[key]);
    const places = wanted.map((key) => names.indexOf(key));
    const one = {functions, body: bodyOf(names), tensors, places, names: `${names.join()} by ${wanted.join()}`};
    const keeps = !recompute && engineNow().isTapeOn();
    const results = keeps ? keepingCall(one) : recomputingCall(one);
    return (single ? results[0] : results) as R;
  };
  return Object.assign(call, {
    dispose: () => {
      functions.dispose();
    },
  });
}

const SYNC = 'Await nothing in it.';

function namesOf(inputs: NamedTensorMap): string[] {
  const names = Object.keys(inputs).sort();
  for (const name of names) {
    if (isTensor(inputs[name])) continue;
    fail(WHO, 'inputs must be an object of tensors', `${describe(inputs[name])} as '${name}'`, 'Pass a tensor.');
  }
  return names;
}

const isVariable = (tensor: Tensor): boolean => tensor instanceof Variable;

type Body = (tensors: readonly Tensor[]) => Tensor[];

/** A call of a traced function. */
interface Call {
  functions: Functions;
  body: Body;
  /** The inputs, in the order of their names. */
  tensors: readonly Tensor[];
  /** Places of the inputs that get a gradient. */
  places: readonly number[];
  /** Names of the inputs, and of those that get a gradient. */
  names: string;
}

/** The inputs that get a gradient, by place. */
function wantedOf({tensors, places}: Call): NamedTensorMap {
  return Object.fromEntries(places.map((place) => [place, tensors[place]]));
}

/** Gradients of those inputs, as tfjs asks for them. */
function byPlace({places}: Call, gradients: readonly Tensor[]): Record<string, () => Tensor> {
  return Object.fromEntries(places.map((place, i) => [place, () => gradients[i]]));
}

const listOf = (dy: TracedResults): Tensor[] => [dy].flat();

/**
 * Puts variables back in a list of tensors: what tfjs saves of a variable is a plain tensor, for which some functions
 * compute no gradient.
 */
function withVariables(tensors: readonly Tensor[], saved: readonly Tensor[]): Tensor[] {
  const rest = [...saved];
  return tensors.map((tensor) => (isVariable(tensor) ? tensor : rest.shift()!));
}

/** Runs the body, or its recording. In a gradient the recording of the body and its gradient runs. */
function recomputingCall(call: Call): Tensor[] {
  const {functions, body, tensors, places, names} = call;
  return engineNow().runKernelFunc({
    inputs: wantedOf(call),
    forwardFunc: (_, save) => {
      save(tensors.filter((tensor) => !isVariable(tensor)));
      return functions.run(`forward ${names}`, tensors, body);
    },
    backwardsFunc: (dy, saved) => {
      const all = [...withVariables(tensors, saved), ...listOf(dy)];
      const gradients = functions.run(`backward ${names}`, all, (given) => {
        const [inputs, dys] = [given.slice(0, tensors.length), given.slice(tensors.length)];
        const found = gradientsOf(body, inputs, places, dys);
        dispose(found.value);
        return found.gradients;
      });
      return byPlace(call, gradients);
    },
  });
}

/** Runs the recording of the body, and in a gradient that of the gradient, which reads what the first one kept. */
function keepingCall(call: Call): Tensor[] {
  const {functions, tensors} = call;
  const {
    functions: [forward, backward],
    kept,
    reads,
  } = functions.withGradient(call);
  const read = reads.map((i) => tensors[i]);
  return engineNow().runKernelFunc({
    inputs: wantedOf(call),
    forwardFunc: (_, save) => {
      const results = functions.execute(forward, tensors);
      const own = results.splice(results.length - kept);
      save([...own, ...read.filter((tensor) => !isVariable(tensor))]);
      return results;
    },
    backwardsFunc: (dy, saved) => {
      const all = [...saved.slice(0, kept), ...withVariables(read, saved.slice(kept)), ...listOf(dy)];
      return byPlace(call, functions.execute(backward, all));
    },
  });
}

/** The body's value, and its gradients by the inputs at `places`. An input that it does not read gets zeros. */
function gradientsOf(
  body: Body,
  inputs: readonly Tensor[],
  places: readonly number[],
  dys: readonly Tensor[],
): {value: Tensor[]; gradients: Tensor[]} {
  const wanted = places.map((place) => inputs[place]);
  const orZeros = (gradients: readonly (Tensor | null)[]): Tensor[] =>
    gradients.map((gradient, i) => gradient ?? zerosLike(wanted[i]));
  return offTape(() => {
    if (dys.length === 1) {
      const {value, grads} = engine().gradients(() => body(inputs)[0], wanted, dys[0], true);
      return {value: [value], gradients: orZeros(grads)};
    }
    let results: Tensor[] = [];
    const target = (): Tensor => {
      results = body(inputs).map((result) => keep(result));
      return results.map((result, i) => sum(mul(result, dys[i]))).reduce((a, b) => a.add(b));
    };
    const {value, grads} = engine().gradients(target, wanted, undefined, true);
    value.dispose();
    return {value: results, gradients: orZeros(grads)};
  });
}

/**
 * Runs `body` outside of the gradient that is being recorded. tfjs has one tape and clears it after a gradient outside
 * of a forward pass.
 */
function offTape<T>(body: () => T): T {
  const {state} = engineNow();
  const {activeTape, gradientDepth} = state;
  state.gradientDepth = 0;
  try {
    return body();
  } finally {
    Object.assign(state, {activeTape, gradientDepth});
  }
}

/** The TensorFlow functions of one traced function, by kind and by the shapes of their inputs. */
class Functions {
  private readonly compiled = new Map<string, Compiled>();
  private backend: RecordedBackend | null = null;

  constructor(
    private readonly name: string,
    private readonly xla: boolean,
    private readonly eager: boolean,
  ) {}

  /** Whether functions can be made on the current backend. Must be asked before each use. */
  onBackend(): boolean {
    const {backend, backendName} = engineNow();
    if (this.eager || backendName !== 'tensorflow' || !canRecord(backend as RecordedBackend)) return false;
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
    if (known?.confirmed) return this.execute(known.functions[0], inputs);
    const {outputs, recording} = record(this.backend!, inputs, () => body(inputs));
    this.learn(key, recording, () => ({functions: [this.add(kind, wholeOf(recording))], kept: 0, reads: []}));
    return outputs;
  }

  /** The functions of a body and of its gradient. */
  withGradient({body, tensors, places, names}: Call): Compiled {
    const key = keyOf(`both ${names}`, tensors);
    const known = this.compiled.get(key);
    if (known?.confirmed) return known;
    const shapes = offTape(() => engine().tidy(() => body(tensors).map(({shape}) => shape) as never) as number[][]);
    const dys = shapes.map((shape) => ones(shape));
    const {outputs, recording} = record(this.backend!, [...tensors, ...dys], () => {
      const {value, gradients} = gradientsOf(body, tensors, places, dys);
      return [...value, ...gradients];
    });
    dispose([...outputs, ...dys]);
    return this.learn(key, recording, () => {
      const {forward, backward, kept, reads} = splitGradient(recording, shapes.length);
      return {functions: [this.add('forward', forward), this.add('backward', backward)], kept, reads};
    });
  }

  execute({name, outputs}: TensorFlowFunction, inputs: readonly Tensor[]): Tensor[] {
    return this.backend!.executeMultipleOutputs(name, [], [...inputs], outputs);
  }

  dispose(): void {
    for (const key of [...this.compiled.keys()]) this.remove(key);
  }

  /** Makes functions of a first recording, and compares a second one. */
  private learn(
    key: string,
    recording: Recording,
    make: () => Pick<Compiled, 'functions' | 'kept' | 'reads'>,
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

  private add(kind: string, {graph, inputs, outputs}: FunctionGraph): TensorFlowFunction {
    globals[COUNT] = (globals[COUNT] ?? 0) + 1;
    const name = `tfjs_flashmask_${this.name}_${kind.split(' ')[0]}_${globals[COUNT]}`;
    this.backend!.binding.addFunction!(name, graph, inputs, outputs, this.xla);
    return {name, outputs: outputs.length};
  }

  private remove(key: string): void {
    for (const {name} of this.compiled.get(key)!.functions) this.backend!.binding.removeFunction!(name);
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

/** Whether the binding can make functions. tfjs-node's own cannot, which is said once. */
function canRecord({binding}: RecordedBackend): boolean {
  if (binding.addFunction) return true;
  if (!warned) {
    warned = true;
    console.warn(
      "traced: tfjs-node must have the binding that 'npx tfjs-flashmask setup-node --force' builds to run functions as " +
        'one operation, got its own. Until then they run operation by operation, which is slower.',
    );
  }
  return false;
}
