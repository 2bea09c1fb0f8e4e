/**
 * @file Random calls on every device, by fast-check: any intervals, sizes and options, against the oracle. A failure is
 * shrunk to the smallest failing call and printed with its seed; `FLASHMASK_SEED` draws other calls than the default.
 */
import fc from 'fast-check';
import {expect} from 'chai';
import {maskTable} from '../support/mask_table.js';
import {attend} from '../support/attend.js';
import {type Case, HEAD_SIZE, type Prepared, forms, prepare} from '../support/cases.js';
import {compare} from '../support/compare.js';
import {worstDense} from '../support/dense_float32.js';
import {type Device, onEachDevice, slackOf} from '../support/devices.js';
import {
  HUGE,
  NOT_FINITE,
  type Place,
  Visibility,
  channelsOf,
  inputNames,
  put,
  reachOf,
  rowsAndHeads,
} from '../support/influence.js';
import {type PairRule, offsetOf, oracle, resultNames, visibleByBounds} from '../support/oracle.js';

const seed = Number(process.env.FLASHMASK_SEED ?? 20241001);

/**
 * What is drawn per device. Each head size, and dropout, compiles shaders on webgpu, which takes a software GPU
 * seconds, so webgpu gets one head size and no dropout.
 */
const drawn = {
  cpu: {runs: 150, channels: fc.integer({min: 1, max: 24}), dropout: true},
  composed: {runs: 80, channels: fc.integer({min: 1, max: 24}), dropout: true},
  webgpu: {runs: 60, channels: fc.constant(HEAD_SIZE), dropout: false},
  // Few head sizes, because each compiles its shaders.
  'webgpu-full': {runs: 100, channels: fc.constantFrom(16, 33), dropout: true},
  tensorflow: {runs: 200, channels: fc.integer({min: 1, max: 80}), dropout: true},
  'tensorflow-gpu': {runs: 200, channels: fc.integer({min: 1, max: 80}), dropout: true},
};

interface Options {
  channels: fc.Arbitrary<number>;
  dropout: boolean;
}

/** Key heads and query heads per key head; the mask has one head, one per key head, or one per query head. */
const heads = fc
  .record({Hkv: fc.integer({min: 1, max: 2}), group: fc.integer({min: 1, max: 3})})
  .chain(({Hkv, group}) =>
    fc.record({Hkv: fc.constant(Hkv), H: fc.constant(Hkv * group), Hm: fc.constantFrom(1, Hkv, Hkv * group)}),
  );

/** A bound near the rows in most draws, anywhere in int32 in some. */
const bound = (Sq: number) =>
  fc.oneof(
    {weight: 9, arbitrary: fc.integer({min: -2, max: Sq + 2})},
    {weight: 1, arbitrary: fc.integer({min: -(2 ** 31), max: 2 ** 31 - 1})},
  );

/** Bounds `[rows, Sk, n]`: equal over runs of columns, so that whole tiles become empty or full, or independent. */
const boundsData = (rows: number, Sq: number, Sk: number, n: number) =>
  fc.oneof(
    fc.array(bound(Sq), {minLength: rows * Sk * n, maxLength: rows * Sk * n}),
    fc
      .array(fc.array(bound(Sq), {minLength: n, maxLength: n}), {minLength: 1, maxLength: 4})
      .map((runs) => Array.from({length: rows * Sk}, (_, i) => runs[Math.floor(((i % Sk) * runs.length) / Sk)]).flat()),
  );

/** Any call with a tensor of bounds. */
const calls = ({channels, dropout}: Options): fc.Arbitrary<Prepared> =>
  fc
    .record({
      heads,
      form: fc.constantFrom(...forms),
      B: fc.integer({min: 1, max: 2}),
      Sq: fc.integer({min: 1, max: 70}),
      Sk: fc.integer({min: 1, max: 70}),
      D: channels,
      Dv: channels,
      shared: fc.boolean(),
      layout: fc.constantFrom('bshd' as const, 'bhsd' as const),
      scale: fc.constantFrom(undefined, 0.3, 1),
      dropout: dropout ? fc.constantFrom(0, 0, 0.2, 0.7) : fc.constant(0),
      seed: fc.maxSafeNat(),
      lse: fc.boolean(),
      deterministic: fc.boolean(),
    })
    .chain(({heads: {H, Hkv, Hm}, form, shared, ...rest}) => {
      const maskB = shared ? 1 : rest.B;
      return boundsData(maskB * Hm, rest.Sq, rest.Sk, form.n).map((data) => {
        const bounds = {...form, maskB, Hm, data};
        const visible = visibleByBounds(bounds, {H, ...rest});
        return prepare({
          ...rest, H, Hkv, spread: {}, group: 'property', name: String(rest.seed),
          causal: form.causal, mask: () => ({mask: bounds, visible}),
        }); // prettier-ignore
      });
    });

/** Any of these calls with a special value at one place of an input in its first batch row. */
const poisonedCalls = (options: Options, device: Device) =>
  fc
    .record({
      prepared: calls(options),
      input: fc.constantFrom(...inputNames),
      at: fc.tuple(fc.nat(), fc.nat(), fc.nat()),
      // With 16-bit products and one scale per head, a huge number costs the rest of its head its precision.
      value: fc.constantFrom(...NOT_FINITE, ...(device.precisions ? [] : HUGE)),
    })
    .map(({prepared, input, at, value}): Poisoned => {
      const {call} = prepared;
      const [rows, heads] = rowsAndHeads(call, input);
      const place = {input, row: at[0] % rows, head: at[1] % heads, channel: at[2] % channelsOf(call, input)};
      // On CUDA only deterministic gradients can be compared bit for bit.
      return {prepared: {...prepared, case: {...prepared.case, deterministic: true}}, place, value};
    });

interface Poisoned {
  prepared: Prepared;
  place: Place;
  value: number;
}

/** Any of these calls without dropout, with values of 1 and scores scaled by a power of ten. */
const largeCalls = (options: Options) =>
  fc
    .record({prepared: calls({...options, dropout: false}), power: fc.integer({min: 2, max: 9})})
    .map(({prepared: {case: c, call, mask}, power}): Prepared => {
      const q = Float32Array.from(call.q, (x) => x * 10 ** power);
      return {case: c, call: {...call, q, v: new Float32Array(call.v.length).fill(1)}, mask};
    });

/** Any builder of the table at any length. */
const builderCalls: fc.Arbitrary<Prepared> = fc
  .record({entry: fc.constantFrom(...maskTable), S: fc.integer({min: 1, max: 140}), name: fc.string()})
  .map(({entry, S, name}) => {
    const c: Omit<Case, 'mask'> = {
      group: entry.name, name, B: 1, H: 1, Hkv: 1, Sq: S, Sk: S, D: 16, Dv: 16, layout: 'bshd', dropout: 0, seed: 0, lse: true, spread: {},
    }; // prettier-ignore
    const mask: Case['mask'] = (random) => {
      const sample = entry.sample(S, random);
      return {mask: sample.mask, visible: ((b, h, r, j) => sample.visible(r, j, b, h)) as PairRule};
    };
    return prepare({...c, mask});
  });

async function expectRight(device: Device, prepared: Prepared): Promise<void> {
  const actual = await attend(prepared);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  const expected = oracle(prepared.call);
  compare(actual, expected, await worstDense(prepared.call, device.bits ?? 24, expected), device.bits);
}

/** Results that no visible pair connects with the place must keep their bits. */
async function expectNoInfluence(device: Device, {prepared, place, value}: Poisoned): Promise<void> {
  const {call} = prepared;
  const copy = (x: ArrayLike<number>) => Float32Array.from(x);
  const inputs = {q: copy(call.q), k: copy(call.k), v: copy(call.v), dOut: copy(call.dOut), dLse: copy(call.dLse)};
  const poisoned = {...prepared, call: {...call, ...inputs}};
  put(poisoned.call, 0, [place], value);
  const clean = await attend(prepared);
  const actual = await attend(poisoned);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  const reach = reachOf(call, new Visibility(call), place);
  for (const name of resultNames) {
    const changed = Array.from(actual[name] ?? [], (x, i) => (x === clean[name]![i] || reach[name][i] === 1 ? -1 : i));
    expect(changed.filter((i) => i >= 0), `elements of ${name} that must not change`).to.deep.equal([]); // prettier-ignore
  }
}

/**
 * The weights of each row add up to 1: in the output, because values are 1, and in what the row adds to all dv
 * together.
 */
async function expectWholeWeights(device: Device, prepared: Prepared): Promise<void> {
  const {call} = prepared;
  const {out, dv} = await attend(prepared);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  const tolerance = slackOf(device) * 1e-5;
  const sums = new Float64Array(call.Dv);
  const wrong: string[] = [];
  let scale = 1;
  for (let b = 0; b < call.B; b++) {
    for (let h = 0; h < call.H; h++) {
      for (let r = 0; r < call.Sq; r++) {
        const at = offsetOf(call.layout, [call.Sq, call.H, call.Dv], b, r, h);
        const whole = seesKey(call, b, h, r) ? 1 : 0;
        for (let x = 0; x < call.Dv; x++) {
          // NaN must be wrong too.
          if (!(Math.abs(out![at + x] - whole) <= tolerance)) {
            wrong.push(`out of row ${r}, head ${h}, batch ${b} is ${out![at + x]}, not ${whole}`);
          }
          sums[x] += whole * call.dOut[at + x];
          scale += whole * Math.abs(call.dOut[at + x]);
        }
      }
    }
  }
  expect(wrong.slice(0, 20), `${wrong.length} elements`).to.deep.equal([]);
  for (let i = 0; i < dv!.length; i++) sums[i % call.Dv] -= dv![i];
  sums.forEach((left) => expect(left, 'gradients of out less those of v').to.be.closeTo(0, tolerance * scale));
}

function seesKey({Sk, visible}: Prepared['call'], b: number, h: number, r: number): boolean {
  for (let j = 0; j < Sk; j++) {
    if (visible(b, h, r, j)) return true;
  }
  return false;
}

/** Prints the options and bounds of a call; its tensors follow from them. */
function show({case: c, mask}: Prepared): string {
  return JSON.stringify({...c, mask});
}

describe('random calls', () => {
  onEachDevice((device) => {
    const {runs, ...options} = drawn[device.name];

    it(`${runs} with any bounds, sizes and options`, async () => {
      const arbitrary = calls(options).map((prepared) => ({prepared, toString: () => show(prepared)}));
      const property = fc.asyncProperty(arbitrary, ({prepared}) => expectRight(device, prepared));
      await fc.assert(property, {seed, numRuns: runs});
    });

    it(`${runs >> 1} with a value in one place that reaches no more than it may`, async () => {
      const arbitrary = poisonedCalls(options, device).map((x) => ({
        ...x,
        toString: () => `${x.value} in ${JSON.stringify(x.place)} of ${show(x.prepared)}`,
      }));
      await fc.assert(
        fc.asyncProperty(arbitrary, (poisoned) => expectNoInfluence(device, poisoned)),
        {seed, numRuns: runs >> 1},
      );
    });

    it(`${runs >> 1} with scores of any size, whose weights add up to 1`, async () => {
      const arbitrary = largeCalls(options).map((prepared) => ({prepared, toString: () => show(prepared)}));
      const property = fc.asyncProperty(arbitrary, ({prepared}) => expectWholeWeights(device, prepared));
      await fc.assert(property, {seed, numRuns: runs >> 1});
    });

    it(`${runs} with any builder and length`, async () => {
      const arbitrary = builderCalls.map((prepared) => ({prepared, toString: () => show(prepared)}));
      const property = fc.asyncProperty(arbitrary, ({prepared}) => expectRight(device, prepared));
      await fc.assert(property, {seed, numRuns: runs});
    });
  });
});
