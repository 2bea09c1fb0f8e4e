/**
 * @file Compares the network of examples/finetune with transformers: logits, gradients and generated tokens of tiny
 * models of every kind, stored in test/support/fixtures. model_judge.test.ts runs transformers itself.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {KeyValueCache, cachedAttention} from '../../examples/finetune/model/cache.js';
import {parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import {type GenerateOptions, generateTokens} from '../../examples/finetune/model/generate.js';
import {type ForwardOptions, Llama} from '../../examples/finetune/model/llama.js';
import {Lora} from '../../examples/finetune/model/lora.js';
import {clearBoundsCache, flashMaskAttention, masks} from '../../src/entries/index.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {useFinetuneMatMul} from '../support/finetune_device.js';
import {
  type Fixture,
  configOf,
  fixtureOf,
  fixtures,
  formulaWeights,
  lossOf,
  outputs,
  textAttention,
  tokensOf,
} from '../support/llama_fixtures.js';

const GREEDY: GenerateOptions = {maxNewTokens: 20, temperature: 0, topP: 1, seed: 7, eosTokenIds: []};
const NUCLEUS: GenerateOptions = {...GREEDY, temperature: 1.5, topP: 0.8};

const languageModels = fixtures.filter(({name}) => name !== 'reward');

async function load(fixture: Fixture, trainable = false): Promise<Llama> {
  const config = configOf(fixture);
  return Llama.load(config, formulaWeights(config), {trainable});
}

async function logitsOf(model: Llama, ids: number[][]): Promise<Float32Array> {
  const logits = tf.tidy(() => outputs(model, model.hidden(tokensOf(ids), textAttention(model.config))));
  const values = await logits.data<'float32'>();
  logits.dispose();
  return values;
}

/** The loss, and its gradients by name. */
async function gradientsOf(
  model: Llama,
  ids: number[][],
  weights: ReadonlyMap<string, tf.Tensor>,
  options: ForwardOptions = {},
): Promise<{loss: number; gradients: Map<string, Float32Array>}> {
  const variables = [...weights.values()] as tf.Variable[];
  const loss = () =>
    lossOf(model, outputs(model, model.hidden(tokensOf(ids), textAttention(model.config), options)), ids);
  const {value, grads} = tf.tidy(() => tf.variableGrads(loss, variables));
  const gradients = new Map<string, Float32Array>();
  for (const [name, variable] of weights) {
    gradients.set(name, await grads[(variable as tf.Variable).name].data<'float32'>());
  }
  const [number] = await value.data();
  tf.dispose([value, ...Object.values(grads)]);
  return {loss: number, gradients};
}

async function generated(model: Llama, prompt: number[], options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of generateTokens(model, prompt, options)) tokens.push(token);
  return tokens;
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
}

function expectClose(got: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number, what: string): void {
  expect(got.length, what).to.equal(wanted.length);
  for (let i = 0; i < wanted.length; i++) {
    expect(got[i], `${what}, number ${i}`).to.be.closeTo(wanted[i], tolerance);
  }
}

describe('the model of examples/finetune', () => {
  it('has the weights that transformers names', () => {
    for (const fixture of fixtures) {
      expect(Object.fromEntries(weightShapes(configOf(fixture))), fixture.name).to.deep.equal(fixture.shapes);
    }
  });

  it('reads what transformers 4 and 5 write as the same', () => {
    for (const fixture of fixtures) {
      expect(parseConfig(fixture.oldConfig, fixture.name), fixture.name).to.deep.equal(configOf(fixture));
    }
  });

  onEachDevice((device) => {
    // On a software adapter each new shape compiles shaders, which is slow.
    const chosen = ({name}: Fixture): boolean => device.name !== 'webgpu' || name === 'qwen2_window';

    const tolerance = 1e-4 * slackOf(device);
    useFinetuneMatMul(device);

    afterEach(async () => expect(await device.hiddenErrors()).to.deep.equal([]));

    for (const fixture of fixtures.filter(chosen)) {
      it(`gives the logits and gradients of transformers: ${fixture.name}`, async () => {
        const model = await load(fixture, true);
        expectClose(await logitsOf(model, fixture.ids), fixture.logits, tolerance, 'logits');
        for (const recompute of [false, true]) {
          const {loss, gradients} = await gradientsOf(model, fixture.ids, model.weights, {recompute});
          expect(loss).to.be.closeTo(fixture.loss, tolerance / 10);
          for (const [name, wanted] of Object.entries(fixture.gradients)) {
            const got = gradients.get(name)!;
            expect(norm(got), `norm of ${name}`).to.be.closeTo(wanted.norm, tolerance * wanted.norm);
            const at = wanted.at.map((_, i) => got[Math.floor((i * got.length) / 7)]);
            expectClose(at, wanted.at, tolerance * wanted.norm, name);
          }
        }
        model.dispose();
      });
    }

    // With fewer bits in the products, now and then another token is the likeliest.
    for (const fixture of device.bits === undefined ? languageModels.filter(chosen) : []) {
      it(`writes what transformers writes: ${fixture.name}`, async () => {
        const model = await load(fixture);
        expect(await generated(model, fixture.prompt, GREEDY)).to.deep.equal(fixture.greedy);
        expect(await generated(model, fixture.prompt, NUCLEUS)).to.deep.equal(fixture.nucleus);
        expect(await generated(model, fixture.prompt, {...NUCLEUS, topK: 9})).to.deep.equal(fixture.topK);
        model.dispose();
      });
    }

    // With dynamic scaling, transformers does not rotate the cached keys of earlier calls again either.
    for (const fixture of languageModels.filter((f) => chosen(f) && f.name !== 'dynamic')) {
      it(`reads a text in pieces as it reads it at once: ${fixture.name}`, async () => {
        const model = await load(fixture);
        const [ids] = fixture.ids;
        const cache = new KeyValueCache(model.config.slidingWindows);
        let start = 0;
        for (const count of [6, 1, 4, 1, 1, 3]) {
          const positions = Int32Array.from({length: count}, (_, i) => start + i);
          const piece = tf.tidy(() => {
            const tokens = {ids: tf.tensor2d([ids.slice(start, start + count)], undefined, 'int32'), positions};
            return outputs(model, model.hidden(tokens, cachedAttention(model.config), {cache}));
          });
          const {vocabSize} = model.config;
          const wanted = fixture.logits.slice(start * vocabSize, (start + count) * vocabSize);
          expectClose(await piece.data(), wanted, tolerance, `logits from ${start}`);
          piece.dispose();
          start += count;
        }
        cache.dispose();
        model.dispose();
      });
    }

    it('gives packed texts the logits that each has alone', async () => {
      const fixture = fixtureOf('llama3');
      const model = await load(fixture);
      const ids = [fixture.ids.flat()];
      const length = fixture.ids[0].length;
      const mask = masks.causalDocument([length, length]);
      const tokens = {...tokensOf(ids), positions: tokensOf(fixture.ids).positions};
      const packed = tf.tidy(() => {
        return outputs(
          model,
          model.hidden(tokens, (q, k, v) => flashMaskAttention(q, k, v, mask)),
        );
      });
      expectClose(await packed.data(), fixture.logits, tolerance, 'logits');
      model.dispose();
    });

    it('computes no gradient of frozen weights, and the same ones of adapters when it computes blocks again', async () => {
      const model = await load(fixtureOf('biases'));
      // A token count that is no side of a weight, so that shapes cannot be confused.
      const ids = [fixtureOf('biases').ids[0].slice(3)];
      const targetModules = ['q_proj', 'o_proj', 'down_proj'] as const;
      const lora = Lora.fresh(model.config, {rank: 3, alpha: 6, dropout: 0.2, targetModules, useRslora: false}, 1);
      // B of a fresh adapter is zero, and then A gets no gradient.
      lora.weights.forEach((variable) => variable.assign(tf.randomUniform(variable.shape, -0.3, 0.3, 'float32', 5)));
      lora.setDropout(3);
      const kept = await gradientsOf(model, ids, lora.weights, {adapter: lora});
      const again = await gradientsOf(model, ids, lora.weights, {adapter: lora, recompute: true});
      expect(again.loss).to.be.closeTo(kept.loss, tolerance / 100);
      for (const [name, gradient] of kept.gradients) {
        expect(norm(gradient), name).to.be.above(1e-3);
        expectClose(again.gradients.get(name)!, gradient, (tolerance / 100) * Math.max(1, norm(gradient)), name);
      }
      for (const recompute of [false, true]) {
        const {kernels} = await tf.profile(
          () => gradientsOf(model, ids, lora.weights, {adapter: lora, recompute}) as never,
        );
        const {intermediateSize, hiddenSize} = model.config;
        const products = kernels.filter(({name}) => name === tf.BatchMatMul);
        const shapes = products.flatMap(({outputShapes}) => outputShapes).map((shape) => shape.slice(-2).join());
        expect(shapes).to.include([13, intermediateSize].join());
        expect(shapes).not.to.include([intermediateSize, hiddenSize].join());
      }
      lora.dispose();
      model.dispose();
    });

    it('leaves no tensor behind', async () => {
      const fixture = fixtureOf('qwen2_window');
      clearBoundsCache();
      const before = tf.memory().numTensors;
      const model = await load(fixture, true);
      expect(tf.memory().numTensors).to.equal(before + weightShapes(model.config).size);
      await logitsOf(model, fixture.ids);
      await gradientsOf(model, fixture.ids, model.weights);
      await gradientsOf(model, fixture.ids, model.weights, {recompute: true});
      await generated(model, fixture.prompt, NUCLEUS);
      for await (const token of generateTokens(model, fixture.prompt, GREEDY)) {
        expect(token).to.equal(fixture.greedy[0]);
        break;
      }
      model.dispose();
      clearBoundsCache();
      expect(tf.memory().numTensors).to.equal(before);
    });
  });

  describe('says what is wrong', () => {
    before(() => tf.setBackend('cpu'));

    const fixture = fixtureOf('tied');
    const read = formulaWeights(configOf(fixture));

    async function failure(work: Promise<unknown>): Promise<string> {
      return work.then(
        () => 'no error',
        (error: unknown) => (error as Error).message,
      );
    }

    it('of a weight of another shape, and keeps none', async () => {
      const name = 'model.layers.1.mlp.up_proj.weight';
      const numTensors = tf.memory().numTensors;
      const loading = Llama.load(configOf(fixture), async (wanted) => {
        return wanted === name ? {shape: [32, 48], data: new Float32Array(32 * 48)} : read(wanted);
      });
      expect(await failure(loading)).to.equal(
        `${name} should have the shape [48, 32] by the model's configuration, got [32, 48].`,
      );
      expect(tf.memory().numTensors).to.equal(numTensors);
    });

    it('of adapters that lack a weight, and keeps none; a module named twice is adapted once', async () => {
      const model = await load(fixture);
      const options = {rank: 2, alpha: 4, dropout: 0, targetModules: ['q_proj', 'q_proj'] as const, useRslora: false};
      const numTensors = tf.memory().numTensors;
      const lora = Lora.fresh(model.config, options, 1);
      expect(tf.memory().numTensors).to.equal(numTensors + lora.weights.size);
      const tensors = new Map(
        [...lora.weights].map(([name, {shape, size}]) => [name, {shape, data: new Float32Array(size)}]),
      );
      lora.dispose();
      const last = [...tensors.keys()].at(-1)!;
      tensors.delete(last);
      expect(() => Lora.fromTensors(model.config, options, tensors)).to.throw(
        `The adapter should hold ${last} of shape`,
      );
      expect(tf.memory().numTensors).to.equal(numTensors);
      model.dispose();
    });

    it('of weights that give no numbers', async () => {
      const model = await Llama.load(configOf(fixture), async (name) => {
        const tensor = await read(name);
        return name === 'model.norm.weight' ? {...tensor, data: tensor.data.map(() => NaN)} : tensor;
      });
      expect(await failure(generated(model, fixture.prompt, GREEDY))).to.match(/logits that are no numbers \(NaN\)/);
      model.dispose();
    });

    it('of a prompt and of sampling', async () => {
      const model = await load(fixture);
      const errorOf = (prompt: number[], options: Partial<GenerateOptions>): Promise<string> =>
        failure(generated(model, prompt, {...GREEDY, ...options}));
      const limit = 'The prompt must have 1 to 31 tokens, for the model reads 32; got';
      expect(await errorOf([], {})).to.equal(`${limit} 0.`);
      expect(await errorOf(new Array<number>(32).fill(1), {})).to.equal(`${limit} 32.`);
      expect(await errorOf([1, 64], {})).to.equal("The prompt's tokens must be integers from 0 to 63, got 64.");
      expect(await errorOf([1], {temperature: -1})).to.equal('The temperature must be 0 or more, got -1.');
      expect(await errorOf([1], {topP: 0})).to.equal('Top-p must be over 0 and at most 1, got 0.');
      expect(await errorOf([1], {topK: 0})).to.equal('Top-k must be a positive integer, got 0.');
      expect(await errorOf([1], {maxNewTokens: NaN})).to.equal(
        'The number of new tokens must be a positive integer, got NaN.',
      );
      model.dispose();
    });

    it('of a language head that is not there', async () => {
      const model = await load(fixtureOf('reward'));
      expect(() => model.head).to.throw('A reward model has no language head.');
      model.dispose();
    });
  });

  it('stops at the end of the text, at the wanted length and at the end of the context', async () => {
    await tf.setBackend('cpu');
    const fixture = fixtureOf('yarn');
    const model = await load(fixture);
    // The fourth of the greedy tokens of transformers is 2, which ends a text.
    expect(await generated(model, fixture.prompt, {...GREEDY, eosTokenIds: [1, 2]})).to.deep.equal(
      fixture.greedy.slice(0, 3),
    );
    expect(await generated(model, fixture.prompt, {...GREEDY, maxNewTokens: 2})).to.have.length(2);
    expect(await generated(model, fixture.prompt, {...GREEDY, maxNewTokens: 99})).to.have.length(32 - 5);
    model.dispose();
  });
});
