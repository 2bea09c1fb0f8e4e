/**
 * @file The oracle: dense attention and its gradients in float64, one plain loop per sum. It follows the definition,
 * shares no code with the library, and reads a mask only through `visible`.
 *
 *     s = scale q·k;  p = exp(s - lse), 0 where masked;  w = p kept / (1 - dropout);  out = Σ w v
 *     dP = (dOut·v) kept / (1 - dropout);  dS = p (dP - dOut·out + dLse)
 *     dq = scale Σ dS k;  dk = scale Σ dS q;  dv = Σ w dOut
 *
 * A row without a visible key: out 0, lse -Infinity, every gradient through it 0.
 */

/** A rule for the pair of query row r and key column j in batch b and query head h. */
export type PairRule = (b: number, h: number, r: number, j: number) => boolean;

export interface Sizes {
  B: number;
  H: number;
  Hkv: number;
  Sq: number;
  Sk: number;
  D: number;
  Dv: number;
  layout: 'bshd' | 'bhsd';
}

/**
 * One attention call: q `[B, Sq, H, D]`, k `[B, Sk, Hkv, D]`, v `[B, Sk, Hkv, Dv]`, dOut `[B, Sq, H, Dv]`,
 * dLse `[B, H, Sq]`.
 */
export interface AttentionCall extends Sizes {
  q: ArrayLike<number>;
  k: ArrayLike<number>;
  v: ArrayLike<number>;
  dOut: ArrayLike<number>;
  dLse: ArrayLike<number>;
  scale: number;
  dropout: number;
  visible: PairRule;
  /** Whether dropout keeps the pair. */
  kept: PairRule;
}

/** Shaped like out, lse `[B, H, Sq]`, q, k and v. */
export interface AttentionResult {
  out: Float64Array;
  lse: Float64Array;
  dq: Float64Array;
  dk: Float64Array;
  dv: Float64Array;
}

export const resultNames = ['out', 'lse', 'dq', 'dk', 'dv'] as const;

export interface OracleResult extends AttentionResult {
  /**
   * For each element of the result, the sum of the absolute values of its terms. In gradients a term counts as often as
   * its weight has rounding steps, but at least once: see `weightSteps`.
   */
  magnitude: AttentionResult;
}

/**
 * Relative rounding steps of a weight. A weight is exp of a float32 difference to the row's largest score: rounding
 * that difference changes the weight by as many steps as the difference is large (then the weight is small). The weight
 * is divided by a sum, whose rounding steps grow with the root of its number of terms. Scores are rounded too: only
 * scores of ordinary size are granted steps, because at large scores dense attention rounds as much.
 */
const weightSteps = (belowLargest: number, terms: number, score: number): number =>
  Math.min(Number.MAX_VALUE, Math.max(1, belowLargest / 2, Math.sqrt(terms) / 16, Math.min(score, ORDINARY_SCORE) / 2));

const ORDINARY_SCORE = 16;

/** Index of channel 0 of (batch, row, head) in a `rows x heads x channels` tensor. */
export function offsetOf(
  layout: Sizes['layout'],
  [rows, heads, channels]: [number, number, number],
  b: number,
  row: number,
  head: number,
): number {
  return (layout === 'bshd' ? (b * rows + row) * heads + head : (b * heads + head) * rows + row) * channels;
}

/** Runs the call. Time is proportional to `B H Sq Sk (D + Dv)`, memory to the inputs. */
export function oracle(call: AttentionCall): OracleResult {
  const result: OracleResult = {...zeros(call), magnitude: zeros(call)};
  forEachRow(call, (b, h, r) => addRow(call, result, b, h, r));
  return result;
}

function forEachRow({B, H, Sq}: Sizes, visit: (b: number, h: number, r: number) => void): void {
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let r = 0; r < Sq; r++) visit(b, h, r);
    }
  }
}

/** Only out and lse, computed as in `oracle`. */
export function forwardOracle(call: AttentionCall): Pick<AttentionResult, 'out' | 'lse'> {
  const {out, lse} = zeros(call);
  const result = {out, lse, magnitude: {out: new Float64Array(out.length), lse: new Float64Array(lse.length)}};
  forEachRow(call, (b, h, r) => forwardOfRow(call, result, placesOf(call, b, h, r), b, h, r));
  return {out, lse};
}

function zeros(c: Sizes): AttentionResult {
  return {
    out: new Float64Array(c.B * c.Sq * c.H * c.Dv),
    lse: new Float64Array(c.B * c.H * c.Sq),
    dq: new Float64Array(c.B * c.Sq * c.H * c.D),
    dk: new Float64Array(c.B * c.Sk * c.Hkv * c.D),
    dv: new Float64Array(c.B * c.Sk * c.Hkv * c.Dv),
  };
}

interface Places {
  q: number;
  out: number;
  lse: number;
  k: (j: number) => number;
  v: (j: number) => number;
}

/** Offsets of query row r of (b, h), and of the key columns that it meets, in their tensors. */
function placesOf(c: Sizes, b: number, h: number, r: number): Places {
  const kvHead = Math.floor(h / (c.H / c.Hkv));
  return {
    q: offsetOf(c.layout, [c.Sq, c.H, c.D], b, r, h),
    out: offsetOf(c.layout, [c.Sq, c.H, c.Dv], b, r, h),
    lse: (b * c.H + h) * c.Sq + r,
    k: (j: number) => offsetOf(c.layout, [c.Sk, c.Hkv, c.D], b, j, kvHead),
    v: (j: number) => offsetOf(c.layout, [c.Sk, c.Hkv, c.Dv], b, j, kvHead),
  };
}

function addRow(c: AttentionCall, result: OracleResult, b: number, h: number, r: number): void {
  const at = placesOf(c, b, h, r);
  const row = forwardOfRow(c, result, at, b, h, r);
  if (row) backwardOfRow(c, result, at, row);
}

/** The visible keys of a query row, with what both passes need. */
interface Row {
  /** Offsets of the key and the value of each pair. */
  keys: number[];
  values: number[];
  weights: number[];
  /** 1 / (1 - dropout) where dropout keeps the pair, else 0. */
  keep: number[];
  steps: number[];
}

/** Adds out and lse of a row. Returns undefined if the row sees no key. */
function forwardOfRow(
  c: AttentionCall,
  {out, lse, magnitude}: Pick<OracleResult, 'out' | 'lse'> & {magnitude: Pick<AttentionResult, 'out' | 'lse'>},
  at: Places,
  b: number,
  h: number,
  r: number,
): Row | undefined {
  const columns: number[] = [];
  for (let j = 0; j < c.Sk; j++) if (c.visible(b, h, r, j)) columns.push(j);
  if (columns.length === 0) {
    lse[at.lse] = -Infinity;
    return undefined;
  }
  const [keys, values] = [columns.map(at.k), columns.map(at.v)];
  const scores = keys.map((k) => c.scale * dot(c.q, at.q, c.k, k, c.D));
  const max = Math.max(...scores);
  const exponentials = scores.map((s) => Math.exp(s - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  lse[at.lse] = max + Math.log(sum);
  magnitude.lse[at.lse] =
    Math.abs(lse[at.lse]) + Math.max(...keys.map((k) => Math.abs(c.scale) * dotOfAbsolutes(c.q, at.q, c.k, k, c.D)));

  // Not exp(s - lse): at large scores the rounding of lse exceeds that of the sum.
  const weights = exponentials.map((x) => x / sum);
  const steps = scores.map((s) => weightSteps(max - s, scores.length, magnitude.lse[at.lse]));
  const keep = columns.map((j) => (c.dropout === 0 || c.kept(b, h, r, j) ? 1 / (1 - c.dropout) : 0));
  values.forEach((v, i) => {
    const w = weights[i] * keep[i];
    for (let x = 0; x < c.Dv; x++) {
      out[at.out + x] += w * c.v[v + x];
      magnitude.out[at.out + x] += w * Math.abs(c.v[v + x]);
    }
  });
  return {keys, values, weights, keep, steps};
}

/** Adds a row's contribution to dq, dk and dv. */
function backwardOfRow(c: AttentionCall, result: OracleResult, at: Places, row: Row): void {
  const {magnitude} = result;
  const delta = dot(c.dOut, at.out, result.out, at.out, c.Dv);
  const deltaMagnitude = dotOfAbsolutes(c.dOut, at.out, result.out, at.out, c.Dv);
  row.keys.forEach((k, i) => {
    const [v, p, keep, steps] = [row.values[i], row.weights[i], row.keep[i], row.steps[i]];
    const w = p * keep;
    for (let x = 0; x < c.Dv; x++) {
      result.dv[v + x] += w * c.dOut[at.out + x];
      magnitude.dv[v + x] += steps * w * Math.abs(c.dOut[at.out + x]);
    }
    const dP = keep * dot(c.dOut, at.out, c.v, v, c.Dv);
    const dPMagnitude = keep * dotOfAbsolutes(c.dOut, at.out, c.v, v, c.Dv);
    const dS = c.scale * p * (dP - delta + c.dLse[at.lse]);
    const dSMagnitude = steps * Math.abs(c.scale) * p * (dPMagnitude + deltaMagnitude + Math.abs(c.dLse[at.lse]));
    for (let x = 0; x < c.D; x++) {
      result.dq[at.q + x] += dS * c.k[k + x];
      magnitude.dq[at.q + x] += dSMagnitude * Math.abs(c.k[k + x]);
      result.dk[k + x] += dS * c.q[at.q + x];
      magnitude.dk[k + x] += dSMagnitude * Math.abs(c.q[at.q + x]);
    }
  });
}

function dot(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, length: number): number {
  let sum = 0;
  for (let x = 0; x < length; x++) {
    sum += a[i + x] * b[j + x];
  }
  return sum;
}

function dotOfAbsolutes(a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number, length: number): number {
  let sum = 0;
  for (let x = 0; x < length; x++) {
    sum += Math.abs(a[i + x] * b[j + x]);
  }
  return sum;
}

/**
 * The definition of a mask: row bounds `[maskB, Hm, Sk, n]` of its key columns, and whether the causal triangle is
 * masked too.
 */
export interface Bounds {
  data: ArrayLike<number>;
  maskB: number;
  Hm: number;
  /** Bounds per column: 0, 1, 2 or 4. */
  n: number;
  causal: boolean;
}

/** The definition of the mask (docs/masks.md), one pair at a time. */
export function visibleByBounds(bounds: Bounds, sizes: Pick<Sizes, 'H' | 'Sq' | 'Sk'>): PairRule {
  const {maskB, Hm, n, causal} = bounds;
  const masks = maskedRows(bounds);
  return (b, h, r, j) => {
    if (causal && r < j - (sizes.Sk - sizes.Sq)) {
      return false;
    }
    const maskHead = Math.floor(h / (sizes.H / Hm));
    return !masks(r, (((maskB === 1 ? 0 : b) * Hm + maskHead) * sizes.Sk + j) * n);
  };
}

/** Whether the bounds of a column, which begin at `first`, mask a row. */
function maskedRows({data, n, causal}: Bounds): (r: number, first: number) => boolean {
  const inside = (r: number, start: number) => r >= data[start] && r < data[start + 1];
  if (n === 0) return () => false;
  if (causal && n === 1) return (r, first) => r >= data[first];
  if (causal && n === 2) return inside;
  if (!causal && n === 2) return (r, first) => r >= data[first] || r < data[first + 1];
  if (!causal && n === 4) return (r, first) => inside(r, first) || inside(r, first + 2);
  throw new Error(`No mask form has causal ${causal} and ${n} bounds a column.`);
}
