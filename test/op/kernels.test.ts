/** @file Every case of the table on every device: out, lse, dq, dk and dv against the float64 oracle. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention} from '../../src/entries/index.js';
import {FlashMaskAttention, FlashMaskAttentionGrad, type Precision} from '../../src/call/kernel_names.js';
import {attend, maskArgument, optionsOf, tensorsOf} from '../support/attend.js';
import {type Case, type Prepared, cases, prepare} from '../support/cases.js';
import {type ActualResult, type Comparison, FACTOR, compare} from '../support/compare.js';
import {denseFloat32} from '../support/dense_float32.js';
import {type Device, onEachDevice} from '../support/devices.js';
import {full} from '../support/full.js';
import {type OracleResult, oracle, resultNames} from '../support/oracle.js';

/** A comparison and the case that it belongs to. */
type Named = Comparison & {of: string};

const truths = new Map<Case, {prepared: Prepared; expected: OracleResult}>();

/** The oracle of a case, computed once for all devices. */
function truthOf(c: Case) {
  if (!truths.has(c)) {
    const prepared = prepare(c);
    truths.set(c, {prepared, expected: oracle(prepared.call)});
  }
  return truths.get(c)!;
}

/** Precision of the operands of the products, in bits. */
const BITS = {auto: 24, float32: 24, float16: 11, bfloat16: 8} as const;

describe('kernels against the oracle', () => {
  onEachDevice((device) => {
    const comparisons: Named[] = [];

    for (const c of cases) {
      const test = c.slowOnSoftware && device.name === 'webgpu' && !full ? it.skip : it;
      test(`${c.group}: ${c.name}`, async () => {
        const {prepared, expected} = truthOf(c);
        const actual = await attend(prepared);
        await expectNoHiddenErrors(device);
        const found = compare(actual, expected, await denseFloat32(prepared.call, device.bits), device.bits);
        comparisons.push(...found.map((x) => ({...x, of: `${c.group}: ${c.name}`})));
        if (c.deterministic) {
          expectSameBits(await attend(prepared), actual);
        }
      });
    }
    for (const precision of device.precisions ?? []) {
      describe(`precision '${precision}'`, () => {
        inPrecision(device, precision);
      });
    }

    gradientForms(device);
    after(() => printLargestErrors(comparisons));
  });
});

/**
 * Factor on the errors of dense float32 attention for 'float32' on tensor cores: they truncate the sums of their
 * products where other units round, which makes them that much less exact.
 */
const CUT_OFF_FACTOR = 8;

/** Runs the cases in a precision and compares them with dense attention of the same precision. */
function inPrecision(device: Device, precision: Precision): void {
  const bits = BITS[precision];
  for (const c of cases) {
    it(`${c.group}: ${c.name}`, async () => {
      const {prepared, expected} = truthOf(c);
      const actual = await attend(prepared, precision);
      await expectNoHiddenErrors(device);
      // Dense attention runs on tfjs's cpu: the device's own products may read fewer bits (TensorFlow reads TF32 on a
      // GPU).
      await tf.setBackend('cpu');
      const dense = await denseFloat32(prepared.call, bits);
      await device.setup();
      compare(actual, expected, dense, bits, precision === 'float32' ? CUT_OFF_FACTOR : FACTOR);
    });
  }
}

async function expectNoHiddenErrors(device: Device): Promise<void> {
  expect(await device.hiddenErrors(), 'errors that the device reported and tfjs swallowed').to.deep.equal([]);
}

function expectSameBits(again: ActualResult, first: ActualResult): void {
  for (const name of resultNames) {
    if (first[name]) {
      expect(again[name], `${name} of a second run`).to.deep.equal(first[name]);
    }
  }
}

/** One case with each way in which tfjs asks for a gradient. */
function gradientForms(device: Device): void {
  const c = cases.find(({group, name}) => group === 'option' && name === 'intervals, output only')!;

  it('tf.variableGrads gives the gradients of variables', async () => {
    const {prepared, expected} = truthOf(c);
    const {q, k, v, dOut, dLse} = tensorsOf(prepared);
    const mask = maskArgument(prepared.mask, c.Sk);
    const [qv, kv, vv] = [q, k, v].map((x) => tf.variable(x));
    const {value, grads} = tf.variableGrads(() => {
      const out = flashMaskAttention(
        qv as tf.Tensor4D,
        kv as tf.Tensor4D,
        vv as tf.Tensor4D,
        mask,
        optionsOf(prepared),
      );
      return tf.sum(tf.mul(out, dOut));
    });
    const [dq, dk, dv] = await Promise.all([qv, kv, vv].map((x) => grads[x.name].data()));
    compare({dq, dk, dv}, expected, await denseFloat32(prepared.call, device.bits), device.bits);
    tf.dispose([q, k, v, dOut, dLse, mask as tf.Tensor, qv, kv, vv, value, grads]);
    await expectNoHiddenErrors(device);
  });

  for (const [position, name] of (['dq', 'dk', 'dv'] as const).entries()) {
    it(`tf.grad gives ${name} alone`, async () => {
      const {prepared, expected} = truthOf(c);
      const {q, k, v, dOut, dLse} = tensorsOf(prepared);
      const mask = maskArgument(prepared.mask, c.Sk);
      const gradient = tf.grad((x) => {
        const inputs = [q, k, v].map((tensor, i) => (i === position ? (x as tf.Tensor4D) : tensor));
        return flashMaskAttention(inputs[0], inputs[1], inputs[2], mask, optionsOf(prepared));
      })([q, k, v][position], dOut);
      compare({[name]: await gradient.data()}, expected, await denseFloat32(prepared.call, device.bits), device.bits);
      tf.dispose([q, k, v, dOut, dLse, mask as tf.Tensor, gradient]);
      await expectNoHiddenErrors(device);
    });
  }

  it('runs each kernel once', async () => {
    const {prepared} = truthOf(c);
    const {q, k, v, dOut, dLse} = tensorsOf(prepared);
    const mask = maskArgument(prepared.mask, c.Sk);
    const runs = [FlashMaskAttention, FlashMaskAttentionGrad].map(countRuns);
    const gradients = tf.grads((...[qi, ki, vi]) =>
      flashMaskAttention(qi as tf.Tensor4D, ki as tf.Tensor4D, vi as tf.Tensor4D, mask, optionsOf(prepared)),
    )([q, k, v], dOut);
    await Promise.all(gradients.map((x) => x.data()));
    expect(runs.map((run) => run.stop())).to.deep.equal([1, 1]);
    tf.dispose([q, k, v, dOut, dLse, mask as tf.Tensor, gradients]);
  });
}

/** Counts the runs of a kernel on the current backend until `stop`, which returns the count. */
function countRuns(name: string) {
  const kernel = tf.getKernel(name, tf.getBackend()) as tf.KernelConfig;
  const {kernelFunc} = kernel;
  let count = 0;
  kernel.kernelFunc = (params) => {
    count++;
    return kernelFunc(params);
  };
  return {
    stop: (): number => {
      kernel.kernelFunc = kernelFunc;
      return count;
    },
  };
}

/** Prints how close the worst case of each result is to failing. */
function printLargestErrors(comparisons: Named[]): void {
  for (const name of resultNames) {
    const all = comparisons.filter((x) => x.name === name).sort((a, b) => b.ratio - a.ratio);
    if (all.length > 0) {
      const mean = all.reduce((sum, x) => sum + x.ratio, 0) / all.length;
      const worst = `${all[0].ratio.toFixed(2)} in '${all[0].of}'`;
      console.log(`      ${name.padEnd(3)} error / allowed: mean ${mean.toFixed(2)}, worst ${worst}`);
    }
  }
}
