/**
 * @file Compares examples/finetune/train with float64 on every device: log-probabilities, losses, AdamW, learning
 * rates.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {ADAMW_DEFAULTS, AdamW} from '../../examples/finetune/train/adamw.js';
import {joinVariables} from '../../examples/finetune/train/joined_variables.js';
import {type Pair, answerLogProbs, dpoLoss, rmLoss, sftLoss} from '../../examples/finetune/train/losses.js';
import {learningRate} from '../../examples/finetune/train/schedule.js';
import {type TokenSums, tokenLogProbs} from '../../examples/finetune/train/token_log_probs.js';
import {type Device, onEachDevice, slackOf} from '../support/devices.js';
import {normals, seeded} from '../support/random.js';
import * as oracle from '../support/training_oracle.js';

/** Largest allowed error over the largest value: a few float32 roundings. */
const TOLERANCE = 3e-6;

async function numbers(tensor: tf.Tensor): Promise<number[]> {
  return Array.from(await tensor.data());
}

function expectClose(
  actual: readonly number[],
  expected: readonly number[],
  device?: Device,
  tolerance = TOLERANCE,
): void {
  expect(actual.length).to.equal(expected.length);
  const scale = expected.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-3);
  const allowed = tolerance * scale * (device ? slackOf(device) : 1);
  // The negated comparison makes a NaN wrong.
  const wrong = actual.findIndex((value, i) => !(Math.abs(value - expected[i]) <= allowed));
  expect(wrong, `element ${wrong} is ${actual[wrong]} and not ${expected[wrong]}, allowed ${allowed}`).to.equal(-1);
}

/** Runs the test; expects as many tensors and buffers after it as before, and no hidden errors of the device. */
async function withoutLeak(device: Device, test: () => Promise<void>): Promise<void> {
  const level = () => [tf.memory().numTensors, tf.memory().numDataBuffers];
  const before = level();
  await test();
  expect(level(), 'tensors and buffers, with what leaked').to.deep.equal(before);
  expect(await device.hiddenErrors()).to.deep.equal([]);
}

function matrix(values: ArrayLike<number>, columns: number): number[][] {
  const all = Array.from(values);
  return Array.from({length: all.length / columns}, (_, i) => all.slice(i * columns, (i + 1) * columns));
}

/** Hidden states `[N, C]`, a head `[V, C]`, and labels of some rows in mixed order. */
function headCase({deviation = 1} = {}) {
  const [N, C, V] = [11, 8, 23];
  const random = seeded('head');
  const hidden = normals(random, N * C, deviation);
  const head = normals(random, V * C);
  const rows = Int32Array.of(9, 0, 4, 3, 10, 6, 7);
  // The third label is the likeliest token of its row, 4; some labels are equal.
  const likeliest = (row: number): number => {
    const logits = matrix(head, C).map((w) => oracle.sum(w.map((x, c) => x * hidden[row * C + c])));
    return logits.indexOf(Math.max(...logits));
  };
  const labels = Int32Array.of(5, 22, likeliest(4), 0, 5, likeliest(6), 5);
  const weights = Array.from(normals(random, rows.length));
  return {N, C, V, hidden, head, rows, labels, weights};
}

type HeadCase = ReturnType<typeof headCase>;

/** Σ weight · logProb and its gradients, in float64. */
function expectedOf({C, hidden, head, rows, labels, weights}: HeadCase) {
  const loss = (h: ArrayLike<number>, w: ArrayLike<number>) =>
    oracle.sum(oracle.logProbs(matrix(h, C), matrix(w, C), rows, labels).map((x, i) => x * weights[i]));
  return {
    logProbs: oracle.logProbs(matrix(hidden, C), matrix(head, C), rows, labels),
    dHidden: oracle.gradient((h) => loss(h, head), Array.from(hidden)),
    dHead: oracle.gradient((w) => loss(hidden, w), Array.from(head)),
    entropy: oracle.entropy(matrix(hidden, C), matrix(head, C), rows),
    correct: oracle.correct(matrix(hidden, C), matrix(head, C), rows, labels),
  };
}

/** Bytes of logits of `rows` rows. */
const bytesOf = (rows: number, {V}: HeadCase) => rows * V * 4;

describe('tokenLogProbs', () => {
  const given = headCase();
  const expected = expectedOf(given);
  const {N, C, V, rows, labels} = given;

  onEachDevice((device) => {
    let hidden: tf.Variable;
    let head: tf.Variable;
    before(() => {
      hidden = tf.tidy(() => tf.variable(tf.tensor2d(given.hidden, [N, C])));
      head = tf.tidy(() => tf.variable(tf.tensor2d(given.head, [V, C])));
    });
    after(() => {
      tf.dispose([hidden, head]);
    });
    const asMatrix = (variable: tf.Tensor) => variable as tf.Tensor2D;
    const frozen = (): tf.Tensor2D => tf.tensor2d(given.head, [V, C]);

    it('gives the log-probabilities, whatever the chunks', async () => {
      await withoutLeak(device, async () => {
        for (const chunkRows of [1, 2, 3, 100]) {
          const options = {chunkBytes: bytesOf(chunkRows, given)};
          const logProbs = tokenLogProbs(asMatrix(hidden), asMatrix(head), rows, labels, options);
          expectClose(await numbers(logProbs), expected.logProbs, device);
          logProbs.dispose();
        }
      });
    });

    it('has the gradients by hidden states and by a trained head, and the sums, whatever the chunks', async () => {
      await withoutLeak(device, async () => {
        for (const chunkRows of [1, 3, 100]) {
          let sums: TokenSums | null = null;
          const options = {chunkBytes: bytesOf(chunkRows, given), onSums: (found: TokenSums) => (sums = found)};
          const {value, grads} = tf.variableGrads(
            () =>
              tokenLogProbs(asMatrix(hidden), asMatrix(head), rows, labels, options)
                .mul(tf.tensor1d(given.weights))
                .sum() as tf.Scalar,
            [hidden, head],
          );
          expectClose(await numbers(grads[hidden.name]), expected.dHidden, device);
          expectClose(await numbers(grads[head.name]), expected.dHead, device);
          await expectSums(sums!, device);
          tf.dispose([value, ...Object.values(grads)]);
        }
      });
    });

    it('has the same gradient by hidden states with a frozen head', async () => {
      await withoutLeak(device, async () => {
        const plain = frozen();
        const {value, grads} = tf.variableGrads(
          () =>
            tokenLogProbs(asMatrix(hidden), plain, rows, labels, {chunkBytes: bytesOf(3, given)})
              .mul(tf.tensor1d(given.weights))
              .sum() as tf.Scalar,
          [hidden],
        );
        expectClose(await numbers(grads[hidden.name]), expected.dHidden, device);
        tf.dispose([value, plain, ...Object.values(grads)]);
      });
    });

    async function expectSums(sums: TokenSums, on: Device): Promise<void> {
      expectClose(await numbers(sums.entropy), [expected.entropy], on);
      expect(await numbers(sums.correct)).to.deep.equal([expected.correct]);
      expect(expected.correct).to.equal(2);
      tf.dispose([sums.entropy, sums.correct]);
    }

    it('stays finite and right where probabilities are below all floats', async () => {
      await withoutLeak(device, async () => {
        const far = headCase({deviation: 60});
        const states = tf.tensor2d(far.hidden, [N, C]);
        const logProbs = tokenLogProbs(states, asMatrix(head), rows, labels);
        const actual = await numbers(logProbs);
        expectClose(actual, expectedOf(far).logProbs, device);
        expect(Math.min(...actual)).to.be.below(-110);
        tf.dispose([states, logProbs]);
      });
    });
  });

  it('makes the logits of a chunk at a time: once forward, with one more product for a frozen head, three for a trained one', async () => {
    await tf.setBackend('cpu');
    const hidden = tf.variable(tf.tensor2d(given.hidden, [N, C]));
    const plain = tf.tensor2d(given.head, [V, C]);
    const head = tf.variable(plain);
    const chunkBytes = bytesOf(3, given);
    const chunks = 3;
    const products = async (run: () => tf.TensorContainer): Promise<number> => {
      const {kernels} = await tf.profile(() => tf.tidy(() => run()));
      const shapes = kernels.flatMap(({outputShapes}) => outputShapes as number[][]);
      const logits = shapes.filter((shape) => shape.length === 2 && shape[1] === V).map(([height]) => height);
      expect(Math.max(...logits)).to.equal(3);
      return kernels.filter(({name}) => name === 'BatchMatMul').length;
    };
    const loss = (w: tf.Tensor) => () =>
      tokenLogProbs(hidden as tf.Tensor as tf.Tensor2D, w as tf.Tensor2D, rows, labels, {
        chunkBytes,
      }).sum() as tf.Scalar;
    expect(await products(loss(head))).to.equal(chunks);
    expect(await products(() => tf.variableGrads(loss(plain), [hidden]).grads)).to.equal(2 * chunks);
    expect(await products(() => tf.variableGrads(loss(head), [hidden, head]).grads)).to.equal(4 * chunks);
    tf.dispose([hidden, plain, head]);
  });

  it('holds one gradient of the head and one of a chunk, however many chunks there are', async () => {
    await tf.setBackend('cpu');
    const hidden = tf.zeros<tf.Rank.R2>([N, C]);
    const head = tf.variable(tf.zeros([V, C]));
    const peakOf = async (chunkRows: number): Promise<number> => {
      const options = {chunkBytes: bytesOf(chunkRows, given)};
      const loss = () =>
        tokenLogProbs(hidden, head as tf.Tensor as tf.Tensor2D, rows, labels, options).sum() as tf.Scalar;
      return (await tf.profile(() => tf.tidy(() => tf.variableGrads(loss, [head]).grads))).peakBytes;
    };
    expect(await peakOf(1)).to.be.below((await peakOf(2)) + V * C * 4);
    tf.dispose([hidden, head]);
  });

  it('names a wrong row or label', async () => {
    await tf.setBackend('cpu');
    const hidden = tf.zeros<tf.Rank.R2>([4, 2]);
    const head = tf.zeros<tf.Rank.R2>([5, 2]);
    const call = (wrongRows: number[], wrongLabels: number[]) => () =>
      tokenLogProbs(hidden, head, Int32Array.from(wrongRows), Int32Array.from(wrongLabels));
    const before = tf.memory().numTensors;
    expect(call([], [])).to.throw('at least one row, got none');
    expect(call([1, 2, 1], [0, 0, 0])).to.throw('distinct rows of [0, 4), got rows[2] = 1');
    expect(call([1, 4], [0, 0])).to.throw('distinct rows of [0, 4), got rows[1] = 4');
    expect(call([-1], [0])).to.throw('got rows[0] = -1');
    expect(call([1, 2], [0])).to.throw('got 1 labels for 2 rows');
    expect(call([1, 2], [0, 5])).to.throw('labels of [0, 5), got labels[1] = 5');
    expect(call([1], [-100])).to.throw('got labels[0] = -100');
    expect(tf.memory().numTensors).to.equal(before);
    tf.dispose([hidden, head]);
  });
});

/** All pairs of answers that are ordered best first. */
function pairsOf(answers: readonly number[]): Pair[] {
  return answers.flatMap((winner, i) => answers.slice(i + 1).map((loser): Pair => [winner, loser]));
}

describe('losses', () => {
  /** Value and gradient of a loss of one vector. */
  async function valueAndGradient(values: readonly number[], loss: (x: tf.Tensor1D) => tf.Tensor) {
    const x = tf.tensor1d([...values]);
    const {value, grad} = tf.valueAndGrad((input: tf.Tensor) => loss(input as tf.Tensor1D))(x);
    const found = {value: await numbers(value), gradient: await numbers(grad)};
    tf.dispose([x, value, grad]);
    return found;
  }

  const random = seeded('losses');
  const draw = (count: number, deviation = 1) => Array.from(normals(random, count, deviation));
  const [k2, k3, k4] = [
    [2, 0],
    [1, 5, 3],
    [8, 4, 7, 6],
  ].map(pairsOf);
  const samples = [k2, k3, k4];
  const [policy, reference, rewards, tokens] = [draw(9, 4), draw(9, 4), draw(9), draw(17, 3)];

  onEachDevice((device) => {
    it('sftLoss is the sum over a total', async () => {
      await withoutLeak(device, async () => {
        const {value, gradient} = await valueAndGradient(tokens, (x) => sftLoss(x, 40));
        expectClose(value, [-oracle.sum(tokens) / 40], device);
        expectClose(gradient, Array<number>(17).fill(-1 / 40));
      });
    });

    it('answerLogProbs sums ranges, and gives each element the gradient of its own', async () => {
      await withoutLeak(device, async () => {
        const ranges = [
          {start: 12, end: 17},
          {start: 0, end: 1},
          {start: 3, end: 11},
        ];
        const weights = [2, -3, 0.5];
        const {value, gradient} = await valueAndGradient(tokens, (x) =>
          answerLogProbs(x, ranges).mul(tf.tensor1d(weights)).sum(),
        );
        const sums = ranges.map(({start, end}) => oracle.sum(tokens.slice(start, end)));
        expectClose(value, [oracle.sum(sums.map((x, i) => x * weights[i]))], device);
        const owner = (i: number) => ranges.findIndex(({start, end}) => i >= start && i < end);
        expect(gradient).to.deep.equal(tokens.map((_, i) => weights[owner(i)] ?? 0));
        const x = tf.tensor1d(tokens);
        const answers = answerLogProbs(x, ranges);
        expectClose(await numbers(answers), sums, device);
        tf.dispose([x, answers]);
      });
    });

    for (const labelSmoothing of [0, 0.2]) {
      it(`dpoLoss of many pairs, label smoothing ${labelSmoothing}`, async () => {
        await withoutLeak(device, async () => {
          const pairs = samples.flat();
          const held = tf.tensor1d(reference);
          const loss = (x: tf.Tensor1D) => dpoLoss({policy: x, reference: held}, pairs, {beta: 0.3, labelSmoothing});
          const expected = (x: readonly number[]) => oracle.dpo(x, reference, pairs, 0.3, labelSmoothing);
          const {value, gradient} = await valueAndGradient(policy, (x) => loss(x).loss);
          expectClose(value, [expected(policy)], device);
          expectClose(gradient, oracle.gradient(expected, policy), device);
          const x = tf.tensor1d(policy);
          const {loss: scalar, rewards: implicit} = loss(x);
          expectClose(
            await numbers(implicit),
            policy.map((p, i) => 0.3 * (p - reference[i])),
            device,
          );
          tf.dispose([held, x, scalar, implicit]);
        });
      });
    }

    it('rmLoss weighs samples alike, with margin and centering', async () => {
      await withoutLeak(device, async () => {
        for (const [margin, centering] of [
          [0, 0],
          [0.7, 0.01],
        ]) {
          const expected = (x: readonly number[]) => oracle.rm(x, samples, margin, centering);
          const {value, gradient} = await valueAndGradient(rewards, (x) => rmLoss(x, samples, {margin, centering}));
          expectClose(value, [expected(rewards)], device);
          expectClose(gradient, oracle.gradient(expected, rewards), device);
        }
      });
    });

    it('adds up over the batches of a step, given the total', async () => {
      await withoutLeak(device, async () => {
        const part = async (some: Pair[][]) =>
          (await valueAndGradient(rewards, (x) => rmLoss(x, some, {total: 3}))).value[0];
        const [first, second] = [await part([k2, k3]), await part([k4])];
        expectClose([first + second], [oracle.rm(rewards, samples, 0, 0)], device);
        const held = tf.tensor1d(reference);
        const dpoPart = async (pairs: Pair[]) =>
          (
            await valueAndGradient(
              policy,
              (x) => dpoLoss({policy: x, reference: held}, pairs, {beta: 0.1, total: 10}).loss,
            )
          ).value[0];
        const sum = (await dpoPart([...k2, ...k3])) + (await dpoPart(k4));
        expectClose([sum], [oracle.dpo(policy, reference, samples.flat(), 0.1, 0)], device);
        held.dispose();
      });
    });

    it('stays finite where the difference of a pair is huge', async () => {
      await withoutLeak(device, async () => {
        const right = await valueAndGradient([1000, -1000], (x) => rmLoss(x, [[[0, 1]]]));
        expectClose([...right.value, ...right.gradient], [0, 0, 0]);
        const wrong = await valueAndGradient([1000, -1000], (x) => rmLoss(x, [[[1, 0]]]));
        expectClose([...wrong.value, ...wrong.gradient], [2000, 1, -1]);
        const small = await valueAndGradient([20, 0], (x) => rmLoss(x, [[[0, 1]]]));
        // e^-20, which 1 - σ would round to zero.
        expect(small.gradient[1] / Math.exp(-20)).to.be.closeTo(1, 1e-3);
      });
    });
  });

  it('names ranges that overlap or reach out of the log-probabilities', async () => {
    await tf.setBackend('cpu');
    const x = tf.zeros<tf.Rank.R1>([5]);
    const overlap = [
      {start: 0, end: 3},
      {start: 2, end: 4},
    ];
    expect(() => answerLogProbs(x, overlap)).to.throw('disjoint ranges within 5 log-probabilities, got 0-3,2-4');
    expect(() => answerLogProbs(x, [{start: 3, end: 6}])).to.throw('within 5 log-probabilities, got 3-6');
    x.dispose();
  });
});

describe('AdamW', () => {
  const SHAPES: Record<string, number[]> = {matrix: [5, 3], vector: [7], other: [2, 4], alone: [512, 513]};

  /** Values, and gradients of five steps; `other` has none from the third step on. */
  function drawStart(names: string[]) {
    const random = seeded('adamw');
    const sizeOf = (name: string) => tf.util.sizeFromShape(SHAPES[name]);
    const values = new Map(names.map((name) => [name, normals(random, sizeOf(name))]));
    const gradients = Array.from({length: 5}, (_, step) => {
      const given = names.filter((name) => step < 2 || name !== 'other');
      // Sizes differ so much that some steps are clipped and others are not.
      return new Map(given.map((name) => [name, normals(random, sizeOf(name), 10 ** (step - 4))]));
    });
    return {values, gradients};
  }

  const starts = new Map<string, ReturnType<typeof drawStart>>();
  /** Drawn once: all devices only read it. */
  function start(names: string[]): ReturnType<typeof drawStart> {
    const key = names.join();
    const drawn = starts.get(key) ?? drawStart(names);
    starts.set(key, drawn);
    return drawn;
  }

  const settingsOf = (weightDecay: number) => ({...ADAMW_DEFAULTS, weightDecay, beta2: 0.99, epsilon: 1e-3});
  const rateOf = (step: number): number => 0.1 / (step + 1);

  /** All steps in float64: the norms of the gradients and the final parameters. */
  function computeSteps(names: string[], weightDecay: number) {
    const {values, gradients} = start(names);
    const parameters = names.map((name): oracle.Parameter => {
      const own = Array.from(values.get(name)!);
      const zeros = () => own.map(() => 0);
      return {values: own, decays: SHAPES[name].length > 1, m: zeros(), v: zeros()};
    });
    const norms = gradients.map((given, i) => {
      const all = names.map((name, p) => Array.from(given.get(name) ?? parameters[p].values.map(() => 0)));
      return oracle.adamw(parameters, all, rateOf(i), i + 1, settingsOf(weightDecay));
    });
    return {parameters, norms};
  }

  const computed = new Map<string, ReturnType<typeof computeSteps>>();
  /** Computed once for all devices. */
  function stepsInFloat64(names: string[], weightDecay: number): ReturnType<typeof computeSteps> {
    const key = `${names.join()} ${weightDecay}`;
    const steps = computed.get(key) ?? computeSteps(names, weightDecay);
    computed.set(key, steps);
    return steps;
  }

  function variablesOf(values: ReadonlyMap<string, Float32Array>): Map<string, tf.Variable> {
    return new Map(
      Array.from(values, ([name, data]) => [name, tf.tidy(() => tf.variable(tf.tensor(data.slice(), SHAPES[name])))]),
    );
  }

  async function step(optimizer: AdamW, gradients: ReadonlyMap<string, Float32Array>, rate: number): Promise<number> {
    const tensors = new Map(Array.from(gradients, ([name, data]) => [name, tf.tensor(data, SHAPES[name])]));
    const norm = optimizer.step(tensors, rate);
    const [value] = await norm.data();
    tf.dispose([norm, ...tensors.values()]);
    return value;
  }

  async function download(variables: ReadonlyMap<string, tf.Variable>): Promise<Map<string, number[]>> {
    const entries: [string, number[]][] = [];
    for (const [name, variable] of variables) entries.push([name, await numbers(variable)]);
    return new Map(entries);
  }

  async function stateOf(optimizer: AdamW): Promise<Map<string, HostTensor>> {
    const state = new Map<string, HostTensor>();
    for await (const [name, tensor] of optimizer.download()) state.set(name, tensor);
    return state;
  }

  onEachDevice((device) => {
    for (const names of [['matrix', 'vector', 'other'], ['vector'], ['other', 'alone', 'vector']]) {
      for (const weightDecay of [0, 0.1]) {
        it(`moves ${names.join()} as in float64, weight decay ${weightDecay}`, async () => {
          await withoutLeak(device, async () => {
            const {values, gradients} = start(names);
            const {parameters, norms} = stepsInFloat64(names, weightDecay);
            const variables = variablesOf(values);
            const optimizer = new AdamW(variables, settingsOf(weightDecay));
            // tfjs's wasm backend adds the squares of the large variable one by one, which rounds more.
            const tolerance = names.includes('alone') ? 1e-4 : 1e-5;
            for (const [i, given] of gradients.entries()) {
              expectClose([await step(optimizer, given, rateOf(i))], [norms[i]], undefined, tolerance);
            }
            expect(norms.map((norm) => norm > 1))
              .to.include(true)
              .and.to.include(false);
            const actual = await download(variables);
            names.forEach((name, p) => expectClose(actual.get(name)!, parameters[p].values, undefined, tolerance));
            const state = await stateOf(optimizer);
            names.forEach((name, p) => {
              expectClose(Array.from(state.get(`exp_avg.${name}`)!.data), parameters[p].m, undefined, tolerance);
              expectClose(Array.from(state.get(`exp_avg_sq.${name}`)!.data), parameters[p].v, undefined, tolerance);
            });
            optimizer.dispose();
            tf.dispose([...variables.values()]);
          });
        });
      }
    }

    it('goes on bit for bit after its state was saved and restored, in any order', async () => {
      await withoutLeak(device, async () => {
        const {values, gradients} = start(Object.keys(SHAPES));
        const variables = variablesOf(values);
        const optimizer = new AdamW(variables);
        for (const given of gradients.slice(0, 3)) await step(optimizer, given, 0.01);
        const [state, halfway] = [await stateOf(optimizer), await download(variables)];
        expect([...state.keys()]).to.have.members([...optimizer.shapes.keys()]);
        state.forEach(({shape}, name) => expect(shape).to.deep.equal(optimizer.shapes.get(name)));

        const twins = variablesOf(new Map(Array.from(halfway, ([name, data]) => [name, Float32Array.from(data)])));
        const twin = new AdamW(twins);
        await twin.restore([...state].reverse(), optimizer.steps);
        for (const given of gradients.slice(3)) {
          expect(await step(twin, given, 0.01)).to.equal(await step(optimizer, given, 0.01));
        }
        expect(await download(twins)).to.deep.equal(await download(variables));
        expect(await stateOf(twin)).to.deep.equal(await stateOf(optimizer));
        expect(twin.steps).to.equal(5);
        optimizer.dispose();
        twin.dispose();
        tf.dispose([...variables.values(), ...twins.values()]);
      });
    });
  });

  it('clips by the norm and the millionth that PyTorch adds to it', async () => {
    await tf.setBackend('cpu');
    const variables = new Map([['w', tf.variable(tf.tensor1d([1, 2]))]]);
    const optimizer = new AdamW(variables, {maxNorm: 1e-6});
    const gradient = tf.tensor1d([3e-6, -4e-6]);
    const norm = optimizer.step(new Map([['w', gradient]]), 0.1);
    expectClose(await numbers(norm), [5e-6]);
    const mean = (await stateOf(optimizer)).get('exp_avg.w')!.data;
    // 0.1 g · 1e-6 / (5e-6 + 1e-6)
    expect(mean[0] / 5e-8).to.be.closeTo(1, 1e-5);
    expect(mean[1] / (-0.2e-6 / 3)).to.be.closeTo(1, 1e-5);
    optimizer.dispose();
    tf.dispose([norm, gradient, ...variables.values()]);
  });

  it('names a gradient or a state that is not its own', async () => {
    await tf.setBackend('cpu');
    const variables = variablesOf(start(['matrix', 'vector']).values);
    const optimizer = new AdamW(variables);
    const wrong = tf.zeros([4]);
    expect(() => optimizer.step(new Map([['norm', wrong]]), 1)).to.throw('[4] of norm, which is none of its variables');
    expect(() => optimizer.step(new Map([['vector', wrong]]), 1)).to.throw('[4] of vector, whose variable is [7]');
    expect(optimizer.steps).to.equal(0);
    const messageOf = async (state: Map<string, HostTensor>) =>
      optimizer.restore(state, 1).then(
        () => 'no error',
        (error: unknown) => (error as Error).message,
      );
    const state = await stateOf(optimizer);
    const vector = {shape: [4], data: new Float32Array(4)};
    expect(await messageOf(new Map([...state, ['exp_avg.head', vector]]))).to.contain(
      'exp_avg.head [4], which it does not',
    );
    expect(await messageOf(new Map([...state, ['exp_avg.vector', vector]]))).to.contain(
      'exp_avg.vector [4], and needs [7]',
    );
    state.delete('exp_avg_sq.matrix');
    expect(await messageOf(state)).to.contain('lacks exp_avg_sq.matrix and 0 more');
    optimizer.dispose();
    tf.dispose([wrong, ...variables.values()]);
  });

  it('joins small variables, matrices apart from vectors, up to 4 million numbers, and leaves large ones alone', async () => {
    await tf.setBackend('cpu');
    const variables = new Map<string, tf.Variable>();
    const add = (name: string, shape: number[]) =>
      variables.set(
        name,
        tf.tidy(() => tf.variable(tf.zeros(shape))),
      );
    for (let i = 0; i < 260; i++) add(`small${i}`, [128, 127]);
    add('norm', [10]);
    add('large', [128, 128]);
    add('last', [3, 3]);
    add('bias', [5]);
    const groups = joinVariables(variables).map(({names}) => [...names].sort());
    const smalls = Array.from({length: 260}, (_, i) => `small${i}`);
    expect(groups).to.have.deep.members([
      ['large'],
      smalls.slice(0, 258).sort(),
      [...smalls.slice(258), 'last'].sort(),
      ['bias', 'norm'],
    ]);
    tf.dispose([...variables.values()]);
  });
});

describe('learningRate', () => {
  it('climbs to the peak in equal steps, then falls along a cosine towards the floor', () => {
    const rates = Array.from({length: 20}, (_, step) => learningRate(step, 20, 0.4, 4));
    [0.1, 0.2, 0.3, 0.4, 0.4].forEach((rate, step) => expect(rates[step]).to.be.closeTo(rate, 1e-12));
    rates.slice(5).forEach((rate, i) => expect(rate).to.be.below(rates[i + 4]));
    // Halfway between the peak and a tenth of the peak.
    expect(rates[12]).to.be.closeTo(0.22, 1e-12);
    expect(learningRate(20, 20, 0.4, 4)).to.be.closeTo(0.04, 1e-12);
    expect(learningRate(99, 20, 0.4, 4)).to.be.closeTo(0.04, 1e-12);
  });

  it('starts at the peak without a warm-up, and takes another floor', () => {
    expect(learningRate(0, 10, 1, 0, 0)).to.equal(1);
    expect(learningRate(5, 10, 1, 0, 0)).to.be.closeTo(0.5, 1e-12);
    expect(learningRate(10, 10, 1, 0, 0)).to.be.closeTo(0, 1e-12);
    expect(learningRate(0, 1, 1, 1)).to.equal(1);
  });
});
