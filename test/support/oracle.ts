/**
 * @file The oracle: dense attention and its gradients in float64, one plain loop a sum. It is written from the definition, shares
 * no code with the library, and reads a mask only through `visible`.
 *
 *     s = scale q·k;  p = exp(s - lse), 0 where masked;  w = p kept / (1 - dropout);  out = Σ w v
 *     dP = (dOut·v) kept / (1 - dropout);  dS = p (dP - dOut·out + dLse);  dq = scale Σ dS k;  dk = scale Σ dS q;  dv = Σ w dOut
 *
 * A row without a visible key: out 0, lse -Infinity, every gradient through it 0.
 */

/** Says something of the pair of query row r and key column j, in batch b and query head h. */
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

/** One attention call: q `[B, Sq, H, D]`, k `[B, Sk, Hkv, D]`, v `[B, Sk, Hkv, Dv]`, dOut `[B, Sq, H, Dv]`, dLse `[B, H, Sq]`. */
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
   * For each element of the result, the sum of the absolute values of the terms that it adds up. In gradients a term counts as often as its
   * weight has rounding steps, where that is more than once: see `weightSteps`.
   */
  magnitude: AttentionResult;
}

/**
 * Rounding steps of a weight, relative to it. It is exp of a float32 difference to the row's largest score, whose rounding moves it by as many
 * steps as the difference is large (such a weight is small); it is divided by a sum, whose steps grow with the root of its terms; and scores
 * themselves are rounded. Of that only those of ordinary size are granted: at large ones dense attention rounds as much.
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
  for (let b = 0; b < call.B; b++) {
    for (let h = 0; h < call.H; h++) {
      for (let r = 0; r < call.Sq; r++) {
        addRow(call, result, b, h, r);
      }
    }
  }
  return result;
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

/** Where query row r of (b, h), and the key columns that it meets, lie in their tensors. */
function placesOf(c: Sizes, b: number, h: number, r: number) {
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
  const {magnitude} = result;
  const columns = Array.from({length: c.Sk}, (_, j) => j).filter((j) => c.visible(b, h, r, j));
  const scores = columns.map((j) => c.scale * dot(c.q, at.q, c.k, at.k(j), c.D));
  const max = Math.max(...scores);
  const exponentials = scores.map((s) => Math.exp(s - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  result.lse[at.lse] = max + Math.log(sum);
  if (columns.length === 0) {
    result.lse[at.lse] = -Infinity;
    return;
  }
  magnitude.lse[at.lse] =
    Math.abs(result.lse[at.lse]) +
    Math.max(...columns.map((j) => Math.abs(c.scale) * dotOfAbsolutes(c.q, at.q, c.k, at.k(j), c.D)));

  // Not exp(s - lse): where scores are large, lse is rounded by more than its sum.
  const p = exponentials.map((x) => x / sum);
  const steps = scores.map((s) => weightSteps(max - s, scores.length, magnitude.lse[at.lse]));
  const keep = columns.map((j) => (c.dropout === 0 || c.kept(b, h, r, j) ? 1 / (1 - c.dropout) : 0));
  columns.forEach((j, i) => {
    for (let x = 0; x < c.Dv; x++) {
      const w = p[i] * keep[i];
      result.out[at.out + x] += w * c.v[at.v(j) + x];
      magnitude.out[at.out + x] += w * Math.abs(c.v[at.v(j) + x]);
      result.dv[at.v(j) + x] += w * c.dOut[at.out + x];
      magnitude.dv[at.v(j) + x] += steps[i] * w * Math.abs(c.dOut[at.out + x]);
    }
  });

  const delta = dot(c.dOut, at.out, result.out, at.out, c.Dv);
  const deltaMagnitude = dotOfAbsolutes(c.dOut, at.out, result.out, at.out, c.Dv);
  columns.forEach((j, i) => {
    const dP = keep[i] * dot(c.dOut, at.out, c.v, at.v(j), c.Dv);
    const dPMagnitude = keep[i] * dotOfAbsolutes(c.dOut, at.out, c.v, at.v(j), c.Dv);
    const dS = c.scale * p[i] * (dP - delta + c.dLse[at.lse]);
    const dSMagnitude = steps[i] * Math.abs(c.scale) * p[i] * (dPMagnitude + deltaMagnitude + Math.abs(c.dLse[at.lse]));
    for (let x = 0; x < c.D; x++) {
      result.dq[at.q + x] += dS * c.k[at.k(j) + x];
      magnitude.dq[at.q + x] += dSMagnitude * Math.abs(c.k[at.k(j) + x]);
      result.dk[at.k(j) + x] += dS * c.q[at.q + x];
      magnitude.dk[at.k(j) + x] += dSMagnitude * Math.abs(c.q[at.q + x]);
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

/** What a mask is: the row bounds `[maskB, Hm, Sk, n]` of its key columns, and whether the causal triangle is masked too. */
export interface Bounds {
  data: ArrayLike<number>;
  maskB: number;
  Hm: number;
  /** Bounds a column: 0, 1, 2 or 4. */
  n: number;
  causal: boolean;
}

/** The definition of the mask (docs/masks.md), one pair at a time. */
export function visibleByBounds(bounds: Bounds, sizes: Pick<Sizes, 'H' | 'Sq' | 'Sk'>): PairRule {
  const {data, maskB, Hm, n, causal} = bounds;
  return (b, h, r, j) => {
    if (causal && r < j - (sizes.Sk - sizes.Sq)) {
      return false;
    }
    const maskHead = Math.floor(h / (sizes.H / Hm));
    const first = (((maskB === 1 ? 0 : b) * Hm + maskHead) * sizes.Sk + j) * n;
    const inside = (start: number, end: number) => r >= data[first + start] && r < data[first + end];
    if (n === 0) return true;
    if (causal && n === 1) return !(r >= data[first]);
    if (causal && n === 2) return !inside(0, 1);
    if (!causal && n === 2) return !(r >= data[first] || r < data[first + 1]);
    if (!causal && n === 4) return !(inside(0, 1) || inside(2, 3));
    throw new Error(`No mask form has causal ${causal} and ${n} bounds a column.`);
  };
}
