/**
 * @file Shows that the tests can fail: each wrong implementation below has one plausible mistake and fails at least one
 * case of the table, of the influence trials, or of the calls with large scores.
 */
import {expect} from 'chai';
import {type Case, type Prepared, cases, prepare} from '../support/cases.js';
import {compare} from '../support/compare.js';
import {denseFloat32} from '../support/dense_float32.js';
import {useWasm} from '../support/devices.js';
import {influenceCases, wrongElements} from '../support/influence_trials.js';
import {EXTREME_SCORES, LARGEST, SCORES, causalScores, equalKeys} from '../support/large_scores.js';
import {
  type AttentionCall,
  type AttentionResult,
  type OracleResult,
  forwardOracle,
  offsetOf,
  oracle,
} from '../support/oracle.js';

interface Mutant {
  name: string;
  /** Cases in which the mistake could show. */
  concerns(c: Case): boolean;
  /** The call that the wrong implementation computes instead. */
  call?(call: AttentionCall): AttentionCall;
  /** Then changes its results in place. */
  result?(result: AttentionResult, call: AttentionCall): void;
}

const always = () => true;

const maskMutants: Mutant[] = [
  {
    name: 'masks a row too early',
    concerns: always,
    call: (c) => ({...c, visible: (b, h, r, j) => c.visible(b, h, Math.min(r + 1, c.Sq - 1), j)}),
  },
  {
    name: 'masks a row too late',
    concerns: always,
    call: (c) => ({...c, visible: (b, h, r, j) => c.visible(b, h, Math.max(r - 1, 0), j)}),
  },
  {
    name: 'aligns the causal triangle at the top left',
    concerns: (c) => c.causal === true && c.Sq !== c.Sk,
    call: (c) => ({...c, visible: (_b, _h, r, j) => r >= j}),
  },
  {
    name: 'reads the bounds of mask head 0 for every head',
    concerns: (c) => c.H > 1,
    call: (c) => ({...c, visible: (b, _h, r, j) => c.visible(b, 0, r, j)}),
  },
  {
    name: 'reads the bounds of batch 0 for every batch',
    concerns: (c) => c.B > 1,
    call: (c) => ({...c, visible: (_b, h, r, j) => c.visible(0, h, r, j)}),
  },
  {
    name: 'drops the last key column',
    concerns: always,
    call: (c) => ({...c, visible: (b, h, r, j) => j < c.Sk - 1 && c.visible(b, h, r, j)}),
  },
  {
    name: 'drops the last ragged tile of queries',
    concerns: always,
    call: (c) => ({...c, visible: (b, h, r, j) => r < c.Sq - (c.Sq % 32) && c.visible(b, h, r, j)}),
  },
  {
    name: 'forgets keys past the 64th tile of 32',
    concerns: (c) => c.Sk > 2048,
    call: (c) => ({...c, visible: (b, h, r, j) => j < 2048 && c.visible(b, h, r, j)}),
  },
  {
    name: 'ignores the mask',
    concerns: (c) => c.group === 'builder' && c.name !== 'full',
    call: (c) => ({...c, visible: always}),
  },
];

const dropoutMutants: Mutant[] = [
  {name: 'ignores dropout', concerns: drops, call: (c) => ({...c, dropout: 0})},
  {
    name: 'draws dropout by (j, r)',
    concerns: drops,
    call: (c) => ({...c, kept: (b, h, r, j) => c.kept(b, h, j, r)}),
  },
  {
    name: 'draws the same dropout for every head',
    concerns: drops,
    call: (c) => ({...c, kept: (b, _h, r, j) => c.kept(b, 0, r, j)}),
  },
  {
    name: 'does not rescale the kept weights',
    concerns: drops,
    result: (result, call) => multiply(result.out, 1 - call.dropout),
  },
];

const arithmeticMutants: Mutant[] = [
  {
    name: 'ignores the gradient through lse',
    concerns: always,
    call: (c) => ({...c, dLse: new Float32Array(c.dLse.length)}),
  },
  {name: 'forgets delta', concerns: always, call: (c) => ({...c, dLse: plusDelta(c)})},
  {
    name: 'pairs query head h with key head h mod Hkv',
    concerns: (c) => c.Hkv > 1 && c.H > c.Hkv,
    call: (c) => ({...c, k: swapFirstHeads(c.k, c, c.D)}),
  },
  {name: 'takes lse in base 2', concerns: always, result: ({lse}) => multiply(lse, Math.LOG2E)},
  {name: 'gives +Infinity for empty rows', concerns: always, result: ({lse}) => replace(lse, -Infinity, Infinity)},
  {name: 'forgets the scale in dq', concerns: always, result: ({dq}, call) => multiply(dq, 1 / call.scale)},
  {
    name: 'averages dk over the heads of a group',
    concerns: always,
    result: ({dk}, call) => multiply(dk, call.Hkv / call.H),
  },
  {
    name: 'leaves a trace in empty rows',
    concerns: (c) => c.group === 'empty',
    result: ({dq}) => replace(dq, 0, 1e-30),
  },
  {name: 'returns one NaN', concerns: always, result: ({dv}) => void (dv[dv.length >> 1] = NaN)},
  {name: 'is wrong by 1e-5 in one element', concerns: always, result: ({out}) => void (out[out.length - 1] += 1e-5)},
  {
    name: 'reads queries and keys in half precision',
    concerns: always,
    call: (c) => ({...c, q: elevenBits(c.q), k: elevenBits(c.k)}),
  },
];

const mutants = [...maskMutants, ...dropoutMutants, ...arithmeticMutants];

/** Mistakes with numbers that no visible pair connects; they change the results in place. */
const influenceMutants: {name: string; result(result: AttentionResult, call: AttentionCall): void}[] = [
  {
    name: 'multiplies masked values by 0',
    result: ({out}, c) => forEachMasked(c, (at) => addTo(out, at.out, c.v, at.v, c.Dv, 0)),
  },
  {
    name: 'multiplies the output gradients of masked rows by 0',
    result: ({dv}, c) => forEachMasked(c, (at) => addTo(dv, at.v, c.dOut, at.out, c.Dv, 0)),
  },
  {
    name: 'multiplies masked keys by 0',
    result: ({dq}, c) => forEachMasked(c, (at) => addTo(dq, at.q, c.k, at.k, c.D, 0)),
  },
  {
    name: 'multiplies the queries of masked rows by 0',
    result: ({dk}, c) => forEachMasked(c, (at) => addTo(dk, at.k, c.q, at.q, c.D, 0)),
  },
  {
    name: 'multiplies the score gradients of masked pairs by 0',
    result: ({dq}, c) =>
      forEachMasked(c, (at) => {
        let product = 0;
        for (let x = 0; x < c.Dv; x++) product = Math.fround(product + c.dOut[at.out + x] * c.v[at.v + x]);
        dq[at.q] += 0 * product;
      }),
  },
  {
    name: 'takes a row that is NaN for one that sees no key',
    result: ({lse, out}) => {
      replaceNaN(lse, -Infinity);
      replaceNaN(out, 0);
    },
  },
  {
    name: 'drops a visible NaN of the values',
    result: ({out}) => replaceNaN(out, 0),
  },
];

/** Mistakes at large scores: the calls that they compute instead. */
const scoreMutants: {name: string; call(call: AttentionCall): AttentionCall}[] = [
  {name: 'recomputes weights from a rounded log-sum-exp', call: withRoundedLse},
  {
    name: 'takes scores below -1e37 for masked',
    call: (c) => ({...c, visible: (b, h, r, j) => c.visible(b, h, r, j) && scoreOf(c, b, h, r, j) > -1e37}),
  },
];

describe('tests that can fail', () => {
  const known = new Map<Case, {prepared: Prepared; expected: OracleResult; dense: AttentionResult}>();

  async function truthOf(c: Case) {
    if (!known.has(c)) {
      const prepared = prepare(c);
      known.set(c, {prepared, expected: oracle(prepared.call), dense: await denseFloat32(prepared.call)});
    }
    return known.get(c)!;
  }

  before(useWasm);

  it('a right result, rounded to float32, passes every case', async () => {
    for (const c of cases) {
      const {expected, dense} = await truthOf(c);
      expect(() => compare(rounded(expected), expected, dense), `${c.group}: ${c.name}`).not.to.throw();
    }
  });

  for (const mutant of mutants) {
    it(`an implementation that ${mutant.name} is refused`, async () => {
      const concerned = cases.filter((c) => mutant.concerns(c));
      const refused: string[] = [];
      for (const c of concerned) {
        const {prepared, expected, dense} = await truthOf(c);
        const result = mutant.call ? oracle(mutant.call(prepared.call)) : copyOf(expected);
        mutant.result?.(result, prepared.call);
        if (!passes(rounded(result), expected, dense)) {
          refused.push(`${c.group}: ${c.name}`);
          break;
        }
      }
      expect(refused, `none of ${concerned.length} cases refused it`).not.to.be.empty;
    });
  }
});

describe('tests of influence that can fail', () => {
  const judging = {coarse: false, exactly: true};
  const small = influenceCases.filter(({Sq, Sk}) => Sq * Sk < 3000);

  it('a right implementation passes', async () => {
    for (const c of small) {
      const wrong = await wrongElements(c, async ({call}) => rounded(oracle(call)), judging);
      expect(wrong, `${c.group}: ${c.name}`).to.deep.equal([]);
    }
  });

  for (const mutant of influenceMutants) {
    it(`an implementation that ${mutant.name} is refused`, async () => {
      for (const c of small) {
        const mistaken = async ({call}: Prepared) => {
          const result = oracle(call);
          mutant.result(result, call);
          return rounded(result);
        };
        if ((await wrongElements(c, mistaken, judging)).length > 0) return;
      }
      expect.fail('no case refused it');
    });
  }
});

describe('tests of large scores that can fail', () => {
  const calls = [
    equalKeys(1, SCORES),
    equalKeys(2, SCORES),
    equalKeys(2, EXTREME_SCORES),
    ...LARGEST.map(causalScores),
  ].map(({call}) => call);

  before(useWasm);

  it('a right implementation passes every call', async () => {
    for (const call of calls) compare(rounded(oracle(call)), oracle(call), await denseFloat32(call));
  });

  for (const mutant of scoreMutants) {
    it(`an implementation that ${mutant.name} is refused`, async () => {
      for (const call of calls) {
        if (!passes(rounded(oracle(mutant.call(call))), oracle(call), await denseFloat32(call))) return;
      }
      expect.fail('no call refused it');
    });
  }
});

function passes(actual: AttentionResult, expected: OracleResult, dense: AttentionResult): boolean {
  try {
    compare(actual, expected, dense);
    return true;
  } catch {
    return false;
  }
}

function copyOf({out, lse, dq, dk, dv}: AttentionResult): AttentionResult {
  return {out: out.slice(), lse: lse.slice(), dq: dq.slice(), dk: dk.slice(), dv: dv.slice()};
}

/** The result as a float32 device returns it. */
function rounded({out, lse, dq, dk, dv}: AttentionResult): AttentionResult {
  const round = (values: Float64Array) => values.map(Math.fround);
  return {out: round(out), lse: round(lse), dq: round(dq), dk: round(dk), dv: round(dv)};
}

function drops(c: Case): boolean {
  return c.dropout > 0;
}

function multiply(values: Float64Array, factor: number): void {
  values.forEach((x, i) => (values[i] = x * factor));
}

function replace(values: Float64Array, from: number, to: number): void {
  values.forEach((x, i) => (values[i] = x === from ? to : x));
}

function replaceNaN(values: Float64Array, to: number): void {
  values.forEach((x, i) => (values[i] = Number.isNaN(x) ? to : x));
}

/** Offsets of a pair's query, key, value and output in their tensors. */
interface PairPlaces {
  q: number;
  k: number;
  v: number;
  out: number;
}

function placesOfPair(c: AttentionCall, b: number, h: number, r: number, j: number): PairPlaces {
  const keyHead = Math.floor(h / (c.H / c.Hkv));
  return {
    q: offsetOf(c.layout, [c.Sq, c.H, c.D], b, r, h),
    k: offsetOf(c.layout, [c.Sk, c.Hkv, c.D], b, j, keyHead),
    v: offsetOf(c.layout, [c.Sk, c.Hkv, c.Dv], b, j, keyHead),
    out: offsetOf(c.layout, [c.Sq, c.H, c.Dv], b, r, h),
  };
}

function forEachMasked(c: AttentionCall, visit: (places: PairPlaces) => void): void {
  for (let b = 0; b < c.B; b++) {
    for (let h = 0; h < c.H; h++) {
      for (let r = 0; r < c.Sq; r++) {
        for (let j = 0; j < c.Sk; j++) if (!c.visible(b, h, r, j)) visit(placesOfPair(c, b, h, r, j));
      }
    }
  }
}

/** Adds `factor` times some numbers to others. */
function addTo(
  to: Float64Array,
  toAt: number,
  from: ArrayLike<number>,
  fromAt: number,
  count: number,
  factor: number,
): void {
  for (let x = 0; x < count; x++) to[toAt + x] += factor * from[fromAt + x];
}

function scoreOf(c: AttentionCall, b: number, h: number, r: number, j: number): number {
  const at = placesOfPair(c, b, h, r, j);
  let sum = 0;
  for (let x = 0; x < c.D; x++) sum += c.q[at.q + x] * c.k[at.k + x];
  return c.scale * sum;
}

/**
 * With a rounded lse all weights of a row are off by exp(lse - rounded lse), so its gradients are those of dOut and
 * dLse times this factor.
 */
function withRoundedLse(c: AttentionCall): AttentionCall {
  const factors = forwardOracle(c).lse.map((x) => Math.exp(x - Math.fround(x)));
  const dOut = Float64Array.from(c.dOut);
  for (let i = 0; i < factors.length; i++) {
    const [b, h, r] = [Math.floor(i / (c.H * c.Sq)), Math.floor(i / c.Sq) % c.H, i % c.Sq];
    const at = offsetOf(c.layout, [c.Sq, c.H, c.Dv], b, r, h);
    for (let x = 0; x < c.Dv; x++) dOut[at + x] *= factors[i];
  }
  return {...c, dOut, dLse: Float64Array.from(c.dLse).map((x, i) => x * factors[i])};
}

/** dLse + delta gives the gradients of a kernel that does not subtract delta. */
function plusDelta(c: AttentionCall): Float64Array {
  const {out} = forwardOracle(c);
  return Float64Array.from(c.dLse).map((x, i) => {
    const [b, h, r] = [Math.floor(i / (c.H * c.Sq)), Math.floor(i / c.Sq) % c.H, i % c.Sq];
    const at = offsetOf(c.layout, [c.Sq, c.H, c.Dv], b, r, h);
    return Array.from({length: c.Dv}, (_, d) => c.dOut[at + d] * out[at + d]).reduce((a, y) => a + y, x);
  });
}

/** Exchanges key heads 0 and 1, as a kernel that pairs heads wrongly does. */
function swapFirstHeads(values: ArrayLike<number>, c: AttentionCall, channels: number): Float32Array {
  const swapped = Float32Array.from(values);
  for (let b = 0; b < c.B; b++) {
    for (let j = 0; j < c.Sk; j++) {
      const [first, second] = [0, 1].map((head) => offsetOf(c.layout, [c.Sk, c.Hkv, channels], b, j, head));
      for (let x = 0; x < channels; x++) {
        swapped[first + x] = values[second + x];
        swapped[second + x] = values[first + x];
      }
    }
  }
  return swapped;
}

/** Rounds to the 11 significant bits of float16. */
function elevenBits(values: ArrayLike<number>): Float32Array {
  return Float32Array.from(values, (x) => {
    const step = 2 ** (Math.floor(Math.log2(Math.abs(x) || 1)) - 10);
    return Math.round(x / step) * step;
  });
}
