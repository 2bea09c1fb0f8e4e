/**
 * @file The one tolerance rule of the tests. Against the float64 oracle, the largest and the root-mean-square error of a kernel may
 * each be at most twice those of dense attention on the same device and inputs, plus a tiny absolute term: a few rounding steps of
 * the sum of absolute values that the element adds up, so that it scales with the inputs. Infinities, and zeros to which nothing
 * is added (empty rows, unseen columns), are compared exactly; a NaN never passes. Where products read fewer bits than float32's,
 * so do those of dense attention; their largest error may come from a single rounding, and those of few elements from few, so the
 * term then has a step for the largest, and more the fewer there are. Many elements share the roundings of a single query or key: what counts
 * is the smallest of the results.
 */
import {type AttentionResult, type OracleResult, resultNames} from './oracle.js';

export type ResultName = (typeof resultNames)[number];
/** The outputs that a device returned; those that a case does not ask for are absent. */
export type ActualResult = Partial<Record<ResultName, ArrayLike<number>>>;

export interface Comparison {
  name: ResultName;
  maxError: number;
  maxAllowed: number;
  rmsError: number;
  rmsAllowed: number;
  /** The larger of the two errors over what is allowed of it: above 1 fails. */
  ratio: number;
}

/** Errors may be this many times those of dense attention. */
export const FACTOR = 2;
const EPSILON = 2 ** -23;
/** Rounding steps of the absolute term. */
const STEPS = 2;
const FLOAT32_BITS = 24;
/** Rounding steps of the products that results of one element are given, where these read few bits; n elements get this over √n. */
const STEPS_OF_ONE = 4;
const SHOWN = 10;

/**
 * Compares every result that `actual` has.
 *
 * @param bits Of precision of what the products read; dense attention must read the same.
 * @param factor Times the errors of dense attention; the absolute term grows with it.
 * @throws Error that names the result and shows up to ten of its worst elements.
 */
export function compare(
  actual: ActualResult,
  expected: OracleResult,
  dense: AttentionResult,
  bits = FLOAT32_BITS,
  factor = FACTOR,
): Comparison[] {
  // The unit of rounding of products that read few bits.
  const unit = bits < FLOAT32_BITS ? 2 ** -bits : 0;
  const fewest = Math.min(...(['out', 'dq', 'dk', 'dv'] as const).map((name) => expected[name].length));
  const steps = (factor / FACTOR) * STEPS * EPSILON + (STEPS_OF_ONE * unit) / Math.sqrt(fewest);
  const tolerance = {unit, factor, steps};
  return resultNames
    .filter((name) => actual[name] !== undefined)
    .map((name) => compareOne(name, actual[name]!, expected[name], expected.magnitude[name], dense[name], tolerance));
}

interface Tolerance {
  /** Of rounding of products that read few bits, else 0. */
  unit: number;
  /** Times the errors of dense attention. */
  factor: number;
  /** Times the sum of absolute values that an element adds up. */
  steps: number;
}

function compareOne(
  name: ResultName,
  actual: ArrayLike<number>,
  expected: Float64Array,
  magnitude: Float64Array,
  dense: Float64Array,
  {unit, factor, steps}: Tolerance,
): Comparison {
  requireLength(name, actual, expected);
  requireExact(name, actual, expected, magnitude);
  const errors = errorsOf(actual, expected);
  const denseErrors = errorsOf(dense, expected);
  const maxError = maxOf(errors);
  const rmsError = rmsOf(errors);
  const maxAllowed = factor * maxOf(denseErrors) + (steps + unit) * maxOf(magnitude);
  const rmsAllowed = factor * rmsOf(denseErrors) + steps * rmsOf(magnitude);
  if (!Number.isFinite(maxAllowed)) {
    throw new Error(
      `${name}: dense attention itself is not finite here, so it gives no tolerance. Change the case's inputs.`,
    );
  }
  if (!(maxError <= maxAllowed && rmsError <= rmsAllowed)) {
    throw new Error(
      `${name}: largest error ${show(maxError)} (allowed ${show(maxAllowed)}), rms ${show(rmsError)} ` +
        `(allowed ${show(rmsAllowed)})\n${worst(errors, actual, expected)}`,
    );
  }
  const ratio = Math.max(ratioOf(maxError, maxAllowed), ratioOf(rmsError, rmsAllowed));
  return {name, maxError, maxAllowed, rmsError, rmsAllowed, ratio};
}

function requireLength(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (actual.length !== expected.length) {
    throw new Error(`${name}: ${actual.length} elements, expected ${expected.length}`);
  }
}

/** Checks infinities, and the elements whose terms are all zero. */
function requireExact(name: string, actual: ArrayLike<number>, expected: Float64Array, magnitude: Float64Array): void {
  const wrong: number[] = [];
  for (let i = 0; i < expected.length; i++) {
    const exact = !Number.isFinite(expected[i]) || (magnitude[i] === 0 && expected[i] === 0);
    const matches = exact ? actual[i] === expected[i] : Number.isFinite(actual[i]);
    if (!matches) {
      wrong.push(i);
    }
  }
  if (wrong.length > 0) {
    const lines = wrong.slice(0, SHOWN).map((i) => `  [${i}] ${actual[i]}, expected ${expected[i]}`);
    throw new Error(`${name}: ${wrong.length} elements must be exact or finite and are not\n${lines.join('\n')}`);
  }
}

/** Absolute errors; 0 where both are the same infinity. */
function errorsOf(actual: ArrayLike<number>, expected: Float64Array): Float64Array {
  return expected.map((x, i) => (actual[i] === x ? 0 : Math.abs(actual[i] - x)));
}

function worst(errors: Float64Array, actual: ArrayLike<number>, expected: Float64Array): string {
  return Array.from(errors.keys())
    .sort((a, b) => errors[b] - errors[a])
    .slice(0, SHOWN)
    .map((i) => `  [${i}] ${actual[i]}, expected ${expected[i]}`)
    .join('\n');
}

function maxOf(values: Float64Array): number {
  return values.reduce((a, b) => (Number.isNaN(b) ? NaN : Math.max(a, b)), 0);
}

function rmsOf(values: Float64Array): number {
  return values.length === 0 ? 0 : Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
}

function ratioOf(error: number, allowed: number): number {
  return allowed === 0 ? 0 : error / allowed;
}

function show(x: number): string {
  return x.toExponential(2);
}
