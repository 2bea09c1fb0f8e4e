/**
 * @file `traced`: a function of tensors as one TensorFlow operation. tfjs-node runs each operation by a call from
 * JavaScript, which takes longer than a small operation itself; a TensorFlow function runs hundreds by one call.
 */
import {type NamedTensorMap, type Tensor, dispose} from '@tensorflow/tfjs-core';
import {checkOptions, describe, fail} from '../../../call/errors.js';
import {isTensor} from '../../../call/values.js';
import {Functions, isVariable} from './functions.js';
import {type Call, type TracedResults, engineNow, gradientsOf} from './gradients.js';
import {WHO, isRecording} from './recorder.js';

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
   * Compiles by XLA, which fuses operations that go over memory alone. The first call then takes far longer, and
   * numbers differ by roundings. flashMaskAttention and calls of process groups run between compiled parts. Default
   * false.
   */
  xla?: boolean;
  /**
   * Rounds the operands and the results of matrix products to bfloat16, which GPUs multiply faster. Everything else
   * stays float32, and so do the first two calls. Default false.
   */
  bfloat16?: boolean;
  /** Runs `fn` as it is in every call, to compare or to debug. Default false. */
  eager?: boolean;
}

/** A function that {@link traced} made. */
export interface Traced<R extends TracedResults> {
  (inputs: NamedTensorMap): R;
  /** Frees the TensorFlow functions. A later call makes them again. */
  dispose(): void;
}

/**
 * A function of tensors that runs as one TensorFlow operation on tfjs-node: much less work of the host where its
 * operations are small. It computes what `fn` computes, to the last bit.
 *
 * The first two calls with inputs of the same shapes run `fn` as it is and record its operations, once more to see
 * that they are the same; later calls run the recording and return before it has run. Its gradient is an operation too.
 * It can be differentiated once.
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
  const given = checkOptions(WHO, options, ['frozen', 'recompute', 'name', 'xla', 'bfloat16', 'eager']);
  const {frozen = [], recompute = true, name = fn.name, xla = false, bfloat16 = false, eager = false} = given;
  const functions = new Functions(name.replace(/[^A-Za-z0-9_]/g, '_'), {xla, bfloat16, eager});
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
    const one = {body: bodyOf(names), tensors, places, names: `${names.join()} by ${wanted.join()}`};
    const keeps = !recompute && engineNow().isTapeOn();
    const results = keeps ? keepingCall(functions, one) : recomputingCall(functions, one);
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
function recomputingCall(functions: Functions, call: Call): Tensor[] {
  const {body, tensors, places, names} = call;
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
function keepingCall(functions: Functions, call: Call): Tensor[] {
  const {tensors} = call;
  const {
    programs: [forward, backward],
    kept,
    reads,
  } = functions.withGradient(call);
  const read = reads.map((i) => tensors[i]);
  return engineNow().runKernelFunc({
    inputs: wantedOf(call),
    forwardFunc: (_, save) => {
      const results = forward.run(tensors);
      const own = results.splice(results.length - kept);
      save([...own, ...read.filter((tensor) => !isVariable(tensor))]);
      return results;
    },
    backwardsFunc: (dy, saved) => {
      const all = [...saved.slice(0, kept), ...withVariables(read, saved.slice(kept)), ...listOf(dy)];
      return byPlace(call, backward.run(all));
    },
  });
}
