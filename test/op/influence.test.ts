/**
 * @file Numbers that no visible pair connects with a result do not change it by a bit: NaN, infinities and the largest
 * floats in masked places, for each mask, head form and tile border, in every input. NaN in a visible pair spreads as
 * in dense attention, and no further.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {FlashMask, flashMaskAttention} from '../../src/entries/index.js';
import type {Precision} from '../../src/call/kernel_names.js';
import * as masks from '../../src/mask/builders/index.js';
import {attend} from '../support/attend.js';
import {type Case, prepare} from '../support/cases.js';
import {type Device, onEachDevice} from '../support/devices.js';
import {type InputName, NOT_FINITE, Visibility, inputNames} from '../support/influence.js';
import {influenceCases, trialsOf, wrongElements} from '../support/influence_trials.js';

describe('influence', () => {
  onEachDevice((device) => {
    for (const [i, c] of influenceCases.entries()) {
      for (const run of runsOn(device)) {
        // With a gradient through lse some devices run other passes.
        for (const lse of device.precisions ? [true, false] : [i % 3 !== 0]) {
          const details = [
            run.precision && `precision '${run.precision}'`,
            !run.deterministic && 'not deterministic',
            !lse && 'no lse',
          ];
          it([`${c.group}: ${c.name}`, ...details].filter(Boolean).join(', '), () => check(device, {...c, lse}, run));
        }
      }
    }

    it('the tables have places of each kind', () => {
      const kinds = new Map<string, number>();
      for (const c of influenceCases) {
        const {call} = prepare(c);
        for (const {name} of trialsOf(c, call, new Visibility(call), coarseOn(device))) {
          const kind = name.split(' in ')[1];
          kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
        }
      }
      expect([...kinds.keys()]).to.include.members(['unseen places', 'a part', ...inputNames]);
      expect(Math.min(...kinds.values())).to.be.greaterThan(20);
    });

    verbatim(device);
  });
});

/** How to run a case. */
interface Run {
  precision?: Precision;
  /** On CUDA only deterministic gradients are compared bit for bit; other gradients must stay finite. */
  deterministic: boolean;
}

function runsOn(device: Device): Run[] {
  const precisions = [undefined, ...(device.precisions ?? [])];
  return precisions.flatMap((precision) =>
    (device.name === 'tensorflow-gpu' ? [true, false] : [true]).map((deterministic) => ({precision, deterministic})),
  );
}

async function check(device: Device, c: Case, {precision, deterministic}: Run): Promise<void> {
  const judging = {coarse: coarseOn(device), exactly: deterministic};
  const wrong = await wrongElements({...c, deterministic}, (prepared) => attend(prepared, precision), judging);
  expect(await device.hiddenErrors()).to.deep.equal([]);
  expect(wrong.slice(0, 20), `${wrong.length} elements`).to.deep.equal([]);
}

/** Whether some calls use 16-bit products with one scale per head. */
function coarseOn(device: Device): boolean {
  return device.precisions !== undefined;
}

/** The examples of the bug reports that led to these tests, with one channel. */
function verbatim(device: Device): void {
  const oneOfTwo = masks.causalDocument([1], {padTo: 2});
  const bounds = Int32Array.of(2);
  const secondRowAlone = new FlashMask({causal: true, queryLength: 2, keyLength: 1, vectors: 1, bounds});

  /** Runs a call whose inputs are all ones except `given`. */
  const run = async (mask: FlashMask, given: Partial<Record<InputName, number[]>>, [Sq, Sk]: [number, number]) => {
    const names = ['out', 'lse', 'dq', 'dk', 'dv'] as const;
    const results = tf.tidy(() => {
      const make = (name: InputName, S: number) => tf.tensor4d(given[name] ?? Array<number>(S).fill(1), [1, S, 1, 1]);
      const inputs = [make('q', Sq), make('k', Sk), make('v', Sk)];
      const attention = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) =>
        flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, mask, {returnLogSumExp: true});
      const outputs = attention(inputs[0], inputs[1], inputs[2]);
      const dOut = make('dOut', Sq);
      return [...outputs, ...tf.grads((q, k, v) => tf.sum(tf.mul(attention(q, k, v)[0], dOut)))(inputs)];
    });
    const values = await Promise.all(results.map(async (x) => Array.from(await x.data(), (y) => y + 0)));
    tf.dispose(results);
    expect(await device.hiddenErrors()).to.deep.equal([]);
    return Object.fromEntries(names.map((name, i) => [name, values[i]])) as Record<(typeof names)[number], number[]>;
  };

  for (const value of [...NOT_FINITE, 1e38]) {
    it(`${value} that flows into padding gives no gradient`, async () => {
      const {dq, dk, dv} = await run(oneOfTwo, {dOut: [1, value]}, [2, 2]);
      expect({dq, dk, dv}).to.deep.equal({dq: [0, 0], dk: [0, 0], dv: [1, 0]});
    });

    it(`${value} in keys and values of padding is not seen`, async () => {
      const {out, lse, dq, dk, dv} = await run(oneOfTwo, {k: [1, value], v: [1, value]}, [2, 2]);
      expect({out, dq, dk, dv}).to.deep.equal({out: [1, 0], dq: [0, 0], dk: [0, 0], dv: [1, 0]});
      // Some devices round the query times log2(e) to 16 bits.
      expect(lse[0]).to.be.closeTo(1, coarseOn(device) ? 2 ** -11 : 0);
      expect(lse[1]).to.equal(-Infinity);
    });

    it(`${value} in the query of a row that sees no key does not reach the keys`, async () => {
      const {dq, dk, dv} = await run(secondRowAlone, {q: [value, 1]}, [2, 1]);
      expect({dq, dk, dv}).to.deep.equal({dq: [0, 0], dk: [0], dv: [1]});
    });
  }

  it('a visible NaN is not hidden', async () => {
    const {out, lse, dq, dk, dv} = await run(oneOfTwo, {q: [NaN, 1]}, [2, 2]);
    expect({out, lse, dq, dk, dv}).to.deep.equal({
      out: [NaN, 0], lse: [NaN, -Infinity], dq: [NaN, 0], dk: [NaN, 0], dv: [NaN, 0],
    }); // prettier-ignore
  });
}
