/**
 * @file The plans of masks on a GPU: one for all layers, forward and backward, as long as the tensor of the bounds.
 * Here the backend on a CPU says that it is on a GPU, and a stand-in of the op FlashMaskPlan notes whose plan is whose.
 * What a real plan computes is tested on a GPU, by the tables of cases.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks} from '../../src/entries/node.js';
import {FlashMaskAttention} from '../../src/call/kernel_names.js';
import type {PlanningBackend} from '../../src/backends/tensorflow/plans.js';
import {graphDef} from '../../src/backends/tensorflow/traced/graph_def.js';
import type {FunctionGraph} from '../../src/backends/tensorflow/traced/function_graph.js';
import {type RecordedBackend, record} from '../../src/backends/tensorflow/traced/recorder.js';
import {withPlans} from '../../src/backends/tensorflow/traced/with_plans.js';
import {ATTRS} from '../support/attend.js';
import {devices} from '../support/devices.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
const S = 40;

type Binding = RecordedBackend['binding'] & {getNumOfTensors(): number};
const backendNow = () => tf.backend() as unknown as RecordedBackend & PlanningBackend & {binding: Binding};
const boundsOf = (...lengths: number[]): tf.Tensor4D =>
  tf.tensor4d(masks.causalDocument(lengths).bounds!, [1, 1, S, 1], 'int32');
const noise = (seed: number, S1 = S): tf.Tensor4D => tf.randomNormal([1, S1, 2, 8], 0, 1, 'float32', seed);

/** The bounds of which the stand-in made a plan, by the binding's ids. */
const boundsOfPlan = new Map<number, number>();

/** Runs `body` as if on a GPU. Returns the names of the operations. */
async function asOnGpu(body: () => unknown): Promise<string[]> {
  const backend = backendNow();
  const {binding} = backend;
  const names: string[] = [];
  const executeOp: Binding['executeOp'] = (name, attributes, inputs, outputs) => {
    names.push(name);
    if (name !== 'FlashMaskPlan') {
      return binding.executeOp(
        name,
        attributes,
        inputs.map((id) => boundsOfPlan.get(id) ?? id),
        outputs,
      );
    }
    const id = binding.createTensor([1, 1, 1, 3], binding.TF_FLOAT, new Float32Array(3));
    boundsOfPlan.set(id, inputs[0]);
    return [{id, shape: [1, 1, 1, 3], dtype: binding.TF_FLOAT}];
  };
  backend.binding = Object.create(binding, {executeOp: {value: executeOp}}) as Binding;
  backend.isUsingGpuDevice = true;
  try {
    await body();
  } finally {
    backend.binding = binding;
    backend.isUsingGpuDevice = false;
  }
  return names;
}

const plansIn = (names: readonly string[]): number => names.filter((name) => name === 'FlashMaskPlan').length;

(tensorflow.skip ? describe.skip : describe)(`plans${tensorflow.skip ? ` (${tensorflow.skip})` : ''}`, () => {
  before(() => tensorflow.setup());

  it('are made once for all layers, forward and backward', async () => {
    const bounds = boundsOf(15, 25);
    const layers = (x: tf.Tensor): tf.Tensor =>
      [1, 2, 3].reduce(
        (y) => flashMaskAttention(y as tf.Tensor4D, y as tf.Tensor4D, y as tf.Tensor4D, bounds, {causal: true}),
        x,
      );
    const x = noise(1);
    const run = (): tf.Tensor => tf.grad((y) => tf.sum(tf.square(layers(y))))(x);
    const expected = await run().array();
    let got: unknown;
    const names = await asOnGpu(async () => (got = await run().array()));
    expect(got).to.deep.equal(expected);
    expect(names.filter((name) => name.startsWith(FlashMaskAttention))).to.have.length(6);
    expect(plansIn(names)).to.equal(1);
    expect(plansIn(await asOnGpu(run))).to.equal(0);
  });

  it('end with the bounds, and tf.memory() does not count them', async () => {
    const x = tf.tidy(() => tf.neg(noise(2)));
    const before = {...tf.memory(), all: backendNow().binding.getNumOfTensors()};
    const bounds = boundsOf(10, 30);
    const clone = tf.clone(bounds);
    await asOnGpu(() => {
      tf.tidy(() => void flashMaskAttention(x, x, x, bounds, {causal: true}));
      expect(tf.memory().numTensors).to.equal(before.numTensors + 2);
      bounds.dispose();
      flashMaskAttention(x, x, x, clone, {causal: true}).dispose();
      clone.dispose();
    });
    expect(tf.memory().numTensors).to.equal(before.numTensors);
    expect(backendNow().binding.getNumOfTensors()).to.equal(before.all);
  });

  it('are one for each mask, its kind and number of queries', async () => {
    const [one, two] = [boundsOf(10, 30), boundsOf(20, 20)];
    const attend = (x: tf.Tensor4D, bounds: tf.Tensor4D | null): void => {
      tf.dispose(flashMaskAttention(x, noise(3), noise(3), bounds, {causal: true}));
    };
    const few = noise(5, 7);
    const names = await asOnGpu(() => {
      for (const bounds of [one, two, one, null]) for (const x of [noise(4), few]) attend(x, bounds);
    });
    expect(plansIn(names)).to.equal(4);
    tf.dispose([one, two]);
  });

  it('are refused on a CPU, in plain words', () => {
    const x = noise(1);
    const plan = tf.zeros([1, 1, 1, 100]);
    expect(() =>
      tf.engine().runKernel(FlashMaskAttention, {q: x, k: x, v: x, bounds: plan}, {...ATTRS, causal: true}),
    ).to.throw(/on a CPU bounds must be int32: plans are for GPUs, got \[1, 1, 1, 100\]/);
  });

  it('are not made of bounds that do not fit, which the op refuses', async () => {
    const x = noise(1);
    const bounds = tf.zeros([1, 1, S - 1, 1], 'int32');
    const names = await asOnGpu(() => {
      expect(() =>
        tf.engine().runKernel(FlashMaskAttention, {q: x, k: x, v: x, bounds}, {...ATTRS, causal: true}),
      ).to.throw(/bounds must .*got \[1, 1, 39, 1\]/);
    });
    expect(plansIn(names)).to.equal(0);
    tf.dispose([x, bounds]);
  });

  describe('of functions', () => {
    /** Records a function, and puts plans into it. */
    const planned = (inputs: tf.Tensor[], body: () => tf.Tensor[]) => {
      const {outputs, recording} = record(backendNow(), inputs, body);
      tf.dispose(outputs);
      return withPlans(recording, backendNow().binding);
    };
    const count = ({nodes}: FunctionGraph, name: string): number => nodes.filter(({op}) => op === name).length;
    /** TensorFlow takes the graph, and so the types and shapes in it. */
    const expectValid = ({nodes, inputs, outputs}: FunctionGraph): void => {
      const {binding} = backendNow();
      binding.addFunction!('planned', graphDef(nodes), inputs, outputs, false);
      binding.removeFunction!('planned');
    };

    it('are inputs in the place of bounds, one for all layers', () => {
      const [x, bounds] = [noise(1), boundsOf(15, 25)];
      const {graph, inputs} = planned([bounds, x], () => {
        const y = flashMaskAttention(x, x, x, bounds, {causal: true});
        return [tf.grad((z) => flashMaskAttention(z as tf.Tensor4D, x, x, bounds, {causal: true}))(y)];
      });
      expect(inputs.map(({of, plan}) => [of, plan])).to.deep.equal([
        [1, null],
        [0, {causal: true, queryLength: S}],
      ]);
      expect(count(graph, 'FlashMaskAttention') + count(graph, 'FlashMaskAttentionGrad')).to.equal(3);
      expect(count(graph, 'FlashMaskPlan')).to.equal(0);
      expect(
        graph.nodes.some(
          ({outputs}) => outputs[0].dtype === backendNow().binding.TF_INT32 && outputs[0].shape[2] === S,
        ),
      ).to.equal(false);
      expectValid(graph);
    });

    it('are made inside of bounds that a function computes or also reads itself', () => {
      const [x, few, bounds] = [noise(1), noise(2, 7), boundsOf(15, 25)];
      const computed = planned([x, few, bounds], () => {
        const later = tf.add(bounds, tf.scalar(1, 'int32')) as tf.Tensor4D;
        const causal = {causal: true};
        return [bounds, later].flatMap((m) => [x, x, few].map((q) => flashMaskAttention(q, x, x, m, causal)));
      });
      expect(computed.inputs.map(({of, plan}) => [of, plan])).to.deep.equal([
        [0, null],
        [1, null],
        [2, null],
      ]);
      expect(count(computed.graph, 'FlashMaskPlan')).to.equal(4);
      expectValid(computed.graph);
    });

    it('are not there without bounds', () => {
      const [x, none] = [noise(1), tf.zeros<tf.Rank.R4>([1, 1, S, 0], 'int32')];
      const {graph, inputs} = planned([x, none], () => [flashMaskAttention(x, x, x, none, {causal: true})]);
      expect(inputs).to.deep.equal([{of: 0, plan: null, output: 'n0:0'}]);
      expectValid(graph);
    });
  });
});
