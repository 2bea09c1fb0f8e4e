/**
 * @file `traced`: a function of tensors as one TensorFlow operation. tfjs-node runs each operation by a call from
 * JavaScript, which takes longer than a small operation itself; a TensorFlow function runs hundreds by one call.
 */
import {type NamedTensorMap, type Tensor, Variable, engine, mul, sum, zerosLike} from '@tensorflow/tfjs-core';
import {checkOptions, describe, fail} from '../../../call/errors.js';
import {isTensor} from '../../../call/values.js';
import {type RecordedBackend, type Recording, WHO, isRecording, record} from './recorder.js';

/** Options of {@link traced}. */
export interface TracedOptions {
  /** Inputs that get no gradient, such as frozen weights and tables. int32 and bool inputs never get one. */
  frozen?: readonly string[];
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

/** What a traced function returns. */
type Results = Tensor | Tensor[];

/** A function that {@link traced} made. */
export interface Traced<R extends Results> {
  (inputs: NamedTensorMap): R;
  /** Frees the TensorFlow functions. A later call makes them again. */
  dispose(): void;
}

/** A TensorFlow function, or an eager run that is not yet one. */
interface Compiled {
  name: string;
  outputs: number;
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
  state: {activeTape: unknown};
  backendName: string;
  backend: unknown;
  runKernelFunc(call: {
    forwardFunc: (backend: unknown, save: (tensors: Tensor[]) => void) => Tensor[];
    backwardsFunc: (dy: Results, saved: Tensor[]) => Record<string, () => Tensor>;
    inputs: NamedTensorMap;
  }): Tensor[];
}

const engineNow = (): Engine => engine() as unknown as Engine;

/**
 * A function of tensors that runs as one TensorFlow operation on tfjs-node: an order of magnitude less work of the host
 * where its operations are small. It computes what `fn` computes, to the last bit.
 *
 * The first two calls with inputs of the same shapes run `fn` as it is and record its operations, once more to see that
 * they are the same; later calls run the recording. For a gradient it keeps its inputs alone, and runs `fn` again in the
 * backward pass (activation checkpointing, Chen et al., arXiv 1604.06174). It can be differentiated once.
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
 * @param fn reads tensors of `inputs` alone, and constants that are the same in every call. Everything that changes from
 *   call to call is an input: step numbers, seeds, random numbers, rows of a mask.
 * @param options see {@link TracedOptions}.
 * @returns a function of the same inputs, with `dispose()`.
 * @throws Error when called, if `fn` reads a tensor from outside, reads values on the host, draws random numbers,
 *   assigns a variable, has a result whose shape depends on values, or runs other operations or constants the second
 *   time.
 *
 * @category tfjs-node
 */
export function traced<R extends Results>(fn: (inputs: NamedTensorMap) => R, options: TracedOptions = {}): Traced<R> {
  const given = checkOptions(WHO, options, ['frozen', 'name', 'xla', 'eager']);
  const {frozen = [], name = fn.name, xla = false, eager = false} = given;
  const functions = new Functions(name.replace(/[^A-Za-z0-9_]/g, '_'), xla, eager);
  let single = false;
  /** `fn` of inputs in the order of their names. */
  const bodyOf =
    (names: readonly string[]) =>
    (tensors: readonly Tensor[]): Tensor[] => {
      const results = fn(Object.fromEntries(names.map((key, i) => [key, tensors[i]])));
      single = !Array.isArray(results);
      const all = [results].flat() as Tensor[];
      const wrong = all.find((result) => !isTensor(result));
      if (wrong !== undefined)
        fail(WHO, 'the function must return a tensor or an array of tensors', describe(wrong), SYNC);
      return all;
    };
  const call = (inputs: NamedTensorMap): R => {
    const names = namesOf(inputs);
    if (isRecording()) return fn(inputs);
    const results = callWithGradient(functions, bodyOf(names), inputs, {names, frozen});
    return (single ? results[0] : results) as R;
  };
  return Object.assign(call, {dispose: () => functions.dispose()});
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

/** Runs the body, or its recording. In a gradient, the recording of the body's gradient runs. */
function callWithGradient(
  functions: Functions,
  body: Body,
  inputs: NamedTensorMap,
  {names, frozen}: {names: readonly string[]; frozen: readonly string[]},
): Tensor[] {
  const tensors = names.map((name) => inputs[name]);
  const wanted = names.filter((name) => !frozen.includes(name) && inputs[name].dtype === 'float32');
  const places = wanted.map((name) => names.indexOf(name));
  return engineNow().runKernelFunc({
    inputs: Object.fromEntries(wanted.map((name) => [name, inputs[name]])),
    forwardFunc: (_, save) => {
      save(tensors.filter((tensor) => !isVariable(tensor)));
      return functions.run(`forward ${names.join()}`, tensors, body);
    },
    backwardsFunc: (dy, saved) => {
      const dys = Array.isArray(dy) ? dy : [dy];
      const rest = [...saved];
      // What tfjs saves of a variable is a plain tensor, for which some functions compute no gradient.
      const again = tensors.map((tensor) => (isVariable(tensor) ? tensor : rest.shift()!));
      const gradients = functions.run(`backward ${names.join()} by ${wanted.join()}`, [...again, ...dys], (all) =>
        gradientsOf(body, all.slice(0, names.length), places, all.slice(names.length)),
      );
      return Object.fromEntries(wanted.map((name, i) => [name, () => gradients[i]]));
    },
  });
}

/** Gradients of the body by the inputs at `places`. An input that the body does not read gets zeros. */
function gradientsOf(
  body: Body,
  inputs: readonly Tensor[],
  places: readonly number[],
  dys: readonly Tensor[],
): Tensor[] {
  const {state} = engineNow();
  // tfjs has one tape and clears it after a gradient outside of a forward pass. An outer tape is still in use here.
  const outer = state.activeTape;
  try {
    const wanted = places.map((place) => inputs[place]);
    const one = dys.length === 1;
    const target = (): Tensor => {
      const results = body(inputs);
      if (one) return results[0];
      return results.map((result, i) => sum(mul(result, dys[i]))).reduce((a, b) => a.add(b));
    };
    const {value, grads} = engine().gradients(target, wanted, one ? dys[0] : undefined, true);
    value.dispose();
    return grads.map((gradient, i) => gradient ?? zerosLike(wanted[i]));
  } finally {
    state.activeTape = outer;
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

  run(kind: string, inputs: readonly Tensor[], body: Body): Tensor[] {
    const {backend, backendName} = engineNow();
    if (this.eager || backendName !== 'tensorflow' || !canRecord(backend as RecordedBackend)) return body(inputs);
    this.useBackend(backend as RecordedBackend);
    const kinds = inputs.map((x) => `${isVariable(x) ? 'variable ' : ''}${x.dtype}[${x.shape.join()}]`);
    const key = `${kind} ${kinds.join(' ')}`;
    const known = this.compiled.get(key);
    if (known?.confirmed) return this.backend!.executeMultipleOutputs(known.name, [], [...inputs], known.outputs);
    const {outputs, recording} = record(this.backend!, inputs, () => body(inputs));
    if (known) {
      confirm(known, recording);
    } else {
      this.add(key, kind, recording);
    }
    return outputs;
  }

  dispose(): void {
    for (const key of [...this.compiled.keys()]) this.remove(key);
  }

  /** Functions belong to the binding of a backend. */
  private useBackend(backend: RecordedBackend): void {
    if (this.backend?.binding !== backend.binding) this.dispose();
    this.backend = backend;
  }

  private add(key: string, kind: string, {graph, inputs, outputs, steps}: Recording): void {
    globals[COUNT] = (globals[COUNT] ?? 0) + 1;
    const name = `tfjs_flashmask_${this.name}_${kind.split(' ')[0]}_${globals[COUNT]}`;
    this.backend!.binding.addFunction!(name, graph, inputs, outputs, this.xla);
    this.compiled.set(key, {name, outputs: outputs.length, steps, confirmed: false});
    if (this.compiled.size > MOST_KEPT) this.remove(this.compiled.keys().next().value!);
  }

  private remove(key: string): void {
    this.backend!.binding.removeFunction!(this.compiled.get(key)!.name);
    this.compiled.delete(key);
  }
}

/** The second recording must be the same: what differs would be frozen from then on. */
function confirm(known: Compiled, {steps}: Recording): void {
  const at = steps.findIndex((step, i) => step !== known.steps[i]);
  if (at >= 0 || steps.length !== known.steps.length) {
    const place = at >= 0 ? at : steps.length;
    const [before, now] = [known.steps[place], steps[place]].map((step) => step ?? 'nothing');
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
