/**
 * @file An independent judge of the oracle and of the devices: PyTorch's scaled_dot_product_attention and autograd in
 * float64, over every mask of the table. Skipped with the reason where Python has no torch. `FLASHMASK_PYTHON` names
 * the interpreter.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {attend} from '../support/attend.js';
import {type Prepared, cases, prepare} from '../support/cases.js';
import {type ActualResult, compare} from '../support/compare.js';
import {denseFloat32} from '../support/dense_float32.js';
import {onEachDevice} from '../support/devices.js';
import {type AttentionCall, type AttentionResult, type OracleResult, oracle, resultNames} from '../support/oracle.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';

/** PyTorch has no rule for lse gradients of empty rows and draws other dropout, so only the oracle judges those. */
const judged = cases.filter(
  (c) => c.group === 'builder' || c.group === 'empty' || c.group === 'heads' || c.group === 'form',
);

function reasonToSkip(): string {
  const probe = spawnSync(python, ['-c', 'import torch'], {encoding: 'utf8'});
  if (probe.error) {
    return `${python} cannot be run: ${probe.error.message}`;
  }
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

const reason = reasonToSkip();

interface Trial {
  name: string;
  prepared: Prepared;
  expected: OracleResult;
  judgement: AttentionResult;
}

(reason ? describe.skip : describe)(`PyTorch as judge${reason && ` (${reason})`}`, () => {
  const trials: Trial[] = [];

  before(() => {
    const all = judged.map((c) => prepare(c));
    const judgements = askTorch(all.map(({call}) => call));
    all.forEach((prepared, i) => {
      const name = `${prepared.case.group}: ${prepared.case.name}`;
      trials.push({name, prepared, expected: oracle(prepared.call), judgement: judgements[i]});
    });
    expectSameAsOracle(trials);
  });

  onEachDevice((device) => {
    it('agrees with the kernels to the tolerance of the tests', async () => {
      for (const {name, prepared, expected, judgement} of trials) {
        const actual = await attend(prepared);
        expect(await device.hiddenErrors()).to.deep.equal([]);
        const truth = {...judgement, magnitude: expected.magnitude};
        const dense = await denseFloat32(prepared.call, device.bits);
        const found = compare(actual as Required<ActualResult>, truth, dense, device.bits);
        const errors = found.map((x) => `${x.name} ${x.maxError.toExponential(1)} of ${x.maxAllowed.toExponential(1)}`);
        console.log(`      ${name.padEnd(60)} ${errors.join('  ')}`);
      }
    });
  });
});

/** PyTorch and the oracle agree to float64 precision. */
function expectSameAsOracle(trials: readonly Trial[]): void {
  console.log(`      largest difference between PyTorch and the oracle, over the largest sum of absolute terms`);
  for (const {name, expected, judgement} of trials) {
    const differences = resultNames.map((result) => {
      const difference = relativeDifference(judgement[result], expected[result], expected.magnitude[result]);
      expect(difference, `${name}, ${result}`).to.be.below(1e-13);
      return `${result} ${difference.toExponential(1)}`;
    });
    console.log(`      ${name.padEnd(60)} ${differences.join('  ')}`);
  }
}

function askTorch(calls: AttentionCall[]): AttentionResult[] {
  const script = fileURLToPath(new URL('../support/torch_judge.py', import.meta.url));
  const input = JSON.stringify(calls.map(toHeadsFirst));
  const run = spawnSync(python, [script], {input, encoding: 'utf8', maxBuffer: 2 ** 30});
  if (run.status !== 0) {
    throw new Error(`torch_judge.py failed: ${run.stderr}`);
  }
  console.log(`      ${run.stderr.trim()}`);
  const answers = JSON.parse(run.stdout) as Record<keyof AttentionResult, (number | null)[]>[];
  return answers.map((answer, i) => fromHeadsFirst(answer, calls[i]));
}

/** The call with tensors in the order batch, head, sequence, channel, and a dense mask. */
function toHeadsFirst(call: AttentionCall) {
  const {B, H, Hkv, Sq, Sk, D, Dv, scale} = call;
  const reorder = (values: ArrayLike<number>, rows: number, heads: number, channels: number) =>
    swapRowsAndHeads(values, call, rows, heads, channels);
  const visible: number[] = [];
  for (let i = 0; i < B * H * Sq * Sk; i++) {
    const [b, h, r, j] = [
      Math.floor(i / (H * Sq * Sk)),
      Math.floor(i / (Sq * Sk)) % H,
      Math.floor(i / Sk) % Sq,
      i % Sk,
    ];
    visible.push(call.visible(b, h, r, j) ? 1 : 0);
  }
  return {
    B,
    H,
    Hkv,
    Sq,
    Sk,
    D,
    Dv,
    scale,
    visible,
    q: reorder(call.q, Sq, H, D),
    k: reorder(call.k, Sk, Hkv, D),
    v: reorder(call.v, Sk, Hkv, Dv),
    dOut: reorder(call.dOut, Sq, H, Dv),
    dLse: Array.from(call.dLse),
  };
}

function fromHeadsFirst(
  answer: Record<keyof AttentionResult, (number | null)[]>,
  call: AttentionCall,
): AttentionResult {
  const {H, Hkv, Sq, Sk, D, Dv} = call;
  const numbers = (values: (number | null)[]) => values.map((x) => x ?? -Infinity);
  const reorder = (values: (number | null)[], rows: number, heads: number, channels: number) =>
    Float64Array.from(swapRowsAndHeads(numbers(values), call, heads, rows, channels));
  return {
    out: reorder(answer.out, Sq, H, Dv),
    lse: Float64Array.from(numbers(answer.lse)),
    dq: reorder(answer.dq, Sq, H, D),
    dk: reorder(answer.dk, Sk, Hkv, D),
    dv: reorder(answer.dv, Sk, Hkv, Dv),
  };
}

/** `[B, first, second, channels]` to `[B, second, first, channels]`, or a copy if the call has heads first already. */
function swapRowsAndHeads(
  values: ArrayLike<number>,
  {layout}: AttentionCall,
  first: number,
  second: number,
  channels: number,
): number[] {
  if (layout === 'bhsd') {
    return Array.from(values);
  }
  return Array.from({length: values.length}, (_, i) => {
    const channel = i % channels;
    const outer = Math.floor(i / channels);
    const [b, s, f] = [Math.floor(outer / (first * second)), Math.floor(outer / first) % second, outer % first];
    return values[((b * first + f) * second + s) * channels + channel];
  });
}

/** Largest difference over the largest magnitude; infinities must be the same. */
function relativeDifference(a: Float64Array, b: Float64Array, magnitude: Float64Array): number {
  const scale = magnitude.reduce((x, y) => Math.max(x, y), 0);
  const largest = a.reduce((worst, x, i) => Math.max(worst, x === b[i] ? 0 : Math.abs(x - b[i])), 0);
  return largest === 0 ? 0 : largest / scale;
}
