/**
 * @file An independent judge of training_oracle.ts, the oracle of examples/finetune/train: PyTorch's log_softmax,
 * logsigmoid, autograd and AdamW in float64, and transformers' schedule. Skipped with the reason where Python lacks
 * them. `FLASHMASK_PYTHON` names the interpreter.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {ADAMW_DEFAULTS} from '../../examples/finetune/train/adamw.js';
import {learningRate} from '../../examples/finetune/train/schedule.js';
import {normals, seeded} from '../support/random.js';
import * as oracle from '../support/training_oracle.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';

/** Error of the oracle's central differences. */
const GRADIENT_ERROR = 1e-8;
const VALUE_ERROR = 1e-12;

function reasonToSkip(): string {
  const probe = spawnSync(python, ['-c', 'import torch, transformers'], {encoding: 'utf8'});
  if (probe.error) {
    return `${python} cannot be run: ${probe.error.message}`;
  }
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

const reason = reasonToSkip();

interface Judgement {
  value: number;
  gradients: number[][];
}

function expectClose(actual: readonly number[], expected: readonly number[], allowed: number): void {
  expect(actual.length).to.equal(expected.length);
  actual.forEach((value, i) => expect(value, `element ${i}`).to.be.closeTo(expected[i], allowed));
}

const random = seeded('judge');
const draw = (count: number, deviation = 1) => Array.from(normals(random, count, deviation));

function rowsOf(values: number[], columns: number): number[][] {
  return Array.from({length: values.length / columns}, (_, i) => values.slice(i * columns, (i + 1) * columns));
}

const headCase = {
  hidden: rowsOf(draw(7 * 5), 5),
  head: rowsOf(draw(13 * 5), 5),
  rows: [6, 0, 3, 2],
  labels: [12, 0, 4, 4],
  weights: draw(4),
};

const [first, second]: [number, number][][] = [
  [[2, 0]],
  [
    [1, 5],
    [1, 3],
    [5, 3],
  ],
];

const dpoCases = [0, 0.2].map((labelSmoothing) => ({
  policy: draw(6, 4),
  reference: draw(6, 4),
  pairs: [...first, ...second],
  beta: 0.3,
  labelSmoothing,
}));

const rmCases = [
  {rewards: draw(6), samples: [first, second], margin: 0, centering: 0},
  {rewards: draw(6), samples: [first, second], margin: 0.7, centering: 0.01},
];

const rates = [0.1, 0.05, 0.02, 0.01];
const adamwCases = [
  ADAMW_DEFAULTS,
  {...ADAMW_DEFAULTS, beta2: 0.95, weightDecay: 0.1, maxNorm: 0.3, epsilon: 1e-3},
].map((settings) => ({
  values: [draw(6), draw(3)],
  decays: [true, false],
  gradients: rates.map((_, step) => [draw(6, 10 ** (step - 3)), draw(3, 10 ** (step - 3))]),
  rates,
  settings,
}));

const scheduleCases = [
  {steps: 20, peak: 0.4, warmup: 4, floor: 0.1},
  {steps: 7, peak: 1e-5, warmup: 0, floor: 0},
];

interface Judgements {
  logProbs: (Judgement & {logProbs: number[]; entropy: number})[];
  dpo: Judgement[];
  rm: Judgement[];
  adamw: {values: number[][]; norms: number[]}[];
  schedule: number[][];
}

/** Asks everything in one process, because torch and transformers load slowly. */
function askJudge(): Judgements {
  const script = fileURLToPath(new URL('../support/finetune_train_judge.py', import.meta.url));
  const cases = {logProbs: [headCase], dpo: dpoCases, rm: rmCases, adamw: adamwCases, schedule: scheduleCases};
  const run = spawnSync(python, [script], {input: JSON.stringify(cases), encoding: 'utf8'});
  if (run.status !== 0) {
    throw new Error(`finetune_train_judge.py failed: ${run.stderr}`);
  }
  console.log(`      ${run.stderr.trim().split('\n').at(-1)}`);
  return JSON.parse(run.stdout) as Judgements;
}

(reason ? describe.skip : describe)(`PyTorch as judge of training${reason && ` (${reason})`}`, () => {
  let answers: Judgements;
  before(() => {
    answers = askJudge();
  });

  it('agrees on log-probabilities, entropy and their gradients', () => {
    const {hidden, head, rows, labels, weights} = headCase;
    const [answer] = answers.logProbs;
    const loss = (h: oracle.Matrix, w: oracle.Matrix) =>
      oracle.sum(oracle.logProbs(h, w, rows, labels).map((x, i) => x * weights[i]));
    expectClose(oracle.logProbs(hidden, head, rows, labels), answer.logProbs, VALUE_ERROR);
    expectClose([oracle.entropy(hidden, head, rows)], [answer.entropy], VALUE_ERROR);
    const dHidden = oracle.gradient((h) => loss(rowsOf(h, 5), head), hidden.flat());
    const dHead = oracle.gradient((w) => loss(hidden, rowsOf(w, 5)), head.flat());
    expectClose(dHidden, answer.gradients[0], GRADIENT_ERROR);
    expectClose(dHead, answer.gradients[1], GRADIENT_ERROR);
  });

  it("agrees on DPO's loss as TRL computes it", () => {
    answers.dpo.forEach(({value, gradients}, i) => {
      const {policy, reference, pairs, beta, labelSmoothing} = dpoCases[i];
      const loss = (x: readonly number[]) => oracle.dpo(x, reference, pairs, beta, labelSmoothing);
      expectClose([loss(policy)], [value], VALUE_ERROR);
      expectClose(oracle.gradient(loss, policy), gradients[0], GRADIENT_ERROR);
    });
  });

  it("agrees on a reward model's loss as TRL computes it, for every pair of a sample", () => {
    answers.rm.forEach(({value, gradients}, i) => {
      const {rewards, samples, margin, centering} = rmCases[i];
      const loss = (x: readonly number[]) => oracle.rm(x, samples, margin, centering);
      expectClose([loss(rewards)], [value], VALUE_ERROR);
      expectClose(oracle.gradient(loss, rewards), gradients[0], GRADIENT_ERROR);
    });
  });

  it('agrees on AdamW, in steps that are clipped and steps that are not', () => {
    answers.adamw.forEach((answer, i) => {
      const {values, decays, gradients, settings} = adamwCases[i];
      const parameters = values.map((own, p) => {
        const zeros = () => own.map(() => 0);
        return {values: [...own], decays: decays[p], m: zeros(), v: zeros()};
      });
      const norms = rates.map((rate, step) => oracle.adamw(parameters, gradients[step], rate, step + 1, settings));
      expectClose(norms, answer.norms, VALUE_ERROR);
      parameters.forEach((parameter, p) => expectClose(parameter.values, answer.values[p], VALUE_ERROR));
      expect(Math.max(...norms)).to.be.above(settings.maxNorm);
      expect(Math.min(...norms)).to.be.below(settings.maxNorm);
    });
  });

  it('agrees on the learning rate, whose warm-up is a step ahead of theirs', () => {
    answers.schedule.forEach((theirs, i) => {
      const {steps, peak, warmup, floor} = scheduleCases[i];
      const ours = theirs.map((_, step) => learningRate(step, steps, peak, warmup, floor));
      expectClose(ours.slice(warmup), theirs.slice(warmup), VALUE_ERROR);
      expectClose(ours.slice(0, warmup), theirs.slice(1, warmup + 1), VALUE_ERROR);
    });
  });
});
