/** @file Gradients of a function of tensors, by tfjs's tape, while another gradient is being recorded. */
import {type NamedTensorMap, type Tensor, engine, keep, mul, sum, zerosLike} from '@tensorflow/tfjs-core';

/** What a function that {@link traced} makes returns. */
export type TracedResults = Tensor | Tensor[];

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

export const engineNow = (): Engine => engine() as unknown as Engine;

export type Body = (tensors: readonly Tensor[]) => Tensor[];

/** A call of a traced function. */
export interface Call {
  body: Body;
  /** The inputs, in the order of their names. */
  tensors: readonly Tensor[];
  /** Places of the inputs that get a gradient. */
  places: readonly number[];
  /** Names of the inputs, and of those that get a gradient. */
  names: string;
}

/** The body's value, and its gradients by the inputs at `places`. An input that it does not read gets zeros. */
export function gradientsOf(
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
export function offTape<T>(body: () => T): T {
  const {state} = engineNow();
  const {activeTape, gradientDepth} = state;
  state.gradientDepth = 0;
  try {
    return body();
  } finally {
    Object.assign(state, {activeTape, gradientDepth});
  }
}
