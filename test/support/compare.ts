/**
 * @file The one tolerance rule of the tests. Against the float64 oracle, the largest error and the root-mean-square
 * error of a kernel may each be at most twice those of dense attention on the same inputs and device (for a software
 * adapter: on tfjs's wasm backend), plus a small absolute term. That term is a few rounding steps of the sum of
 * absolute values that the element adds up, so it scales with the inputs. Infinities, and zeros to which nothing is
 * added (empty rows, unseen columns), are compared exactly. NaN never passes.
 *
 * If products read fewer bits than float32 has, those of dense attention read as few. Then a single rounding may decide
 * the largest error, so its term gets one more rounding step. In results with few elements a few roundings decide both
 * errors, so both terms get more steps, the more the fewer elements there are. Many elements share the roundings of a
 * single query or key, so the smallest of the results counts.
 */
import {type AttentionResult, type OracleResult, resultNames} from './oracle.js';

export type ResultName = (typeof resultNames)[number];
/** The outputs that a device returned; outputs that a case does not request are absent. */
export type ActualResult = Partial<Record<ResultName, ArrayLike<number>>>;

export interface Comparison {
  name: ResultName;
  maxError: number;
  maxAllowed: number;
  rmsError: number;
  rmsAllowed: number;
  /** The larger of the two ratios of error to allowed error; above 1 fails. */
  ratio: number;
}

/** Errors may be this many times those of dense attention. */
export const FACTOR = 2;
const EPSILON = 2 ** -23;
/** Rounding steps of the absolute term. */
const STEPS = 2;
const FLOAT32_BITS = 24;
/**
 * Rounding steps granted to a result of one element where products read few bits; a result of n elements gets this over
 * √n.
 */
const STEPS_OF_ONE = 4;
const SHOWN = 10;

/**
 * Compares every result that `actual` has.
 *
 * @param bits Precision of the operands of the products; dense attention must read the same.
 * @param factor Allowed multiple of the errors of dense attention; the absolute term grows with it.
 * @throws Error that names the result and shows up to ten of its worst elements.
 */
export function compare(
  actual: ActualResult,
  expected: OracleResult,
  dense: AttentionResult,
  bits = FLOAT32_BITS,
  factor = FACTOR,
): Comparison[] {
  // The rounding unit of products that read few bits.
  const unit = bits < FLOAT32_BITS ? 2 ** -bits : 0;
  const fewest = Math.min(...(['out', 'dq', 'dk', 'dv'] as const).map((name) => expected[name].length));
  const steps = (factor / FACTOR) * STEPS * EPSILON + (STEPS_OF_ONE * unit) / Math.sqrt(fewest);
  const tolerance = {unit, factor, steps};
  return resultNames
    .filter((name) => actual[name] !== undefined)
    .map((name) => compareOne(name, actual[name]!, expected[name], expected.magnitude[name], dense[name], tolerance));
}

interface Tolerance {
  /** The rounding unit of products that read few bits, else 0. */
  unit: number;
  /** Multiplies the errors of dense attention. */
  factor: number;
  /** Multiplies the sum of absolute values that an element adds up. */
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
