/** @file A network in training: which of its weights move, and how they come to the host. */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import {type LlamaConfig, weightShapes} from '../model/config.js';
import {type Attend, Llama} from '../model/llama.js';
import {Lora, type LoraOptions} from '../model/lora.js';
import type {Batch} from '../data/batch.js';
import {normal} from '../random.js';
import type {ModelFiles} from '../weights/model_files.js';

/** Of a reward model's fresh score head, as transformers initialises it. */
const SCORE_DEVIATION = 0.02;
const SCORE = 'score.weight';

export interface TrainedModelOptions {
  /** Train adapters on frozen weights; null trains all weights. */
  lora: LoraOptions | null;
  /** The values that training starts with, of a checkpoint's adapter; else fresh ones. */
  adapterTensors?: ReadonlyMap<string, HostTensor>;
  /** Give the network a score head in the place of its language head. */
  rewardModel: boolean;
  /** Of fresh adapters and a fresh score head. */
  seed: number;
  /** Keep activations of the whole network instead of computing them again in the backward pass: faster, and far more memory. */
  keepActivations?: boolean;
}

/** A network and its adapters. `dispose()` frees both. */
export class TrainedModel {
  /** What training moves, by Hugging Face's names (adapters: `<projection>.lora_A.weight`). */
  readonly trainable: ReadonlyMap<string, tf.Variable>;
  readonly config: LlamaConfig;

  /** Loads the weights of `files`, or shares those of `frozen`, a network with the same weights that nobody trains. */
  static async load(files: ModelFiles, options: TrainedModelOptions, frozen?: Llama): Promise<TrainedModel> {
    const {lora, rewardModel, seed, adapterTensors} = options;
    const config = {...files.config, scoreHead: rewardModel};
    const read = async (name: string): Promise<HostTensor> =>
      name === SCORE && !files.names.has(SCORE) ? freshScore(config, seed) : files.read(name);
    const network = frozen ?? (await Llama.load(config, read, {trainable: lora === null}));
    if (lora === null) {
      return new TrainedModel(network, null, null, options, frozen === undefined);
    }
    const adapter = adapterTensors ? Lora.fromTensors(config, lora, adapterTensors) : Lora.fresh(config, lora, seed);
    const score = rewardModel ? scoreVariable(network, adapterTensors) : null;
    return new TrainedModel(network, adapter, score, options, frozen === undefined);
  }

  private constructor(
    readonly network: Llama,
    readonly adapter: Lora | null,
    score: tf.Variable | null,
    private readonly options: TrainedModelOptions,
    private readonly ownsNetwork: boolean,
  ) {
    this.config = network.config;
    const trainable = new Map((adapter === null ? network.weights : adapter.weights) as Map<string, tf.Variable>);
    if (score !== null) {
      trainable.set(SCORE, score);
    }
    this.trainable = trainable;
  }

  /** `[B · T, hiddenSize]` for the heads. `adapted: false` is the model as it was before training its adapters. */
  hidden(batch: Batch, attend: Attend, {adapted = true} = {}): tf.Tensor2D {
    const adapter = adapted ? this.adapter : null;
    return this.network.hidden(batch, attend, {adapter, recompute: this.options.keepActivations !== true});
  }

  /** `[1, hiddenSize]`, of a reward model. */
  get score(): tf.Tensor2D {
    return this.trainable.get(SCORE) as tf.Tensor as tf.Tensor2D;
  }

  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map([...this.trainable].map(([name, {shape}]) => [name, shape]));
  }

  /** What was trained, on the host, one tensor after another. */
  async *download(): AsyncGenerator<[string, HostTensor]> {
    for (const [name, variable] of this.trainable) {
      yield [name, {shape: variable.shape, data: (await variable.data()) as Float32Array}];
    }
  }

  dispose(): void {
    if (this.adapter !== null) {
      this.adapter.dispose();
      this.trainable.get(SCORE)?.dispose();
    }
    if (this.ownsNetwork) {
      this.network.dispose();
    }
  }
}

function freshScore(config: LlamaConfig, seed: number): HostTensor {
  const next = normal(seed);
  const shape = weightShapes(config).get(SCORE)!;
  return {shape, data: Float32Array.from({length: shape[1]}, () => SCORE_DEVIATION * next())};
}

function scoreVariable(network: Llama, tensors?: ReadonlyMap<string, HostTensor>): tf.Variable {
  const saved = tensors?.get(SCORE);
  return tf.tidy(() => tf.variable(saved ? tf.tensor(saved.data, saved.shape) : network.weights.get(SCORE)!.clone()));
}
