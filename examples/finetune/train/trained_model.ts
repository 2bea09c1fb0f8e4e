/** @file A network in training: which of its weights are trained, and how to download them. */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import {type LlamaConfig, weightShapes} from '../model/config.js';
import {type Attend, type Compilation, Llama} from '../model/llama.js';
import {Lora, type LoraOptions} from '../model/lora.js';
import {type TensorFlowBackend, whyNotNative} from '../../../src/backends/tensorflow/load.js';
import {hasFunctions} from '../../../src/backends/tensorflow/traced/functions.js';
import type {Batch} from '../data/batch.js';
import {normal} from '../random.js';
import type {ModelFiles} from '../weights/model_files.js';

/** Standard deviation of a reward model's fresh score head, as in transformers. */
const SCORE_DEVIATION = 0.02;
const SCORE = 'score.weight';

export interface TrainedModelOptions {
  /** Train adapters on frozen weights; null trains all weights. */
  lora: LoraOptions | null;
  /** Initial values, from a checkpoint's adapter. Default: fresh ones. */
  adapterTensors?: ReadonlyMap<string, HostTensor>;
  /** Replace the network's language head by a score head. */
  rewardModel: boolean;
  /** Seed of fresh adapters and of a fresh score head. */
  seed: number;
  /**
   * Keep the activations of the whole network instead of recomputing them in the backward pass. Faster, but takes far
   * more memory.
   */
  keepActivations?: boolean;
  /** Run operation by operation on tfjs-node too. */
  eager?: boolean;
  /** How operations of tfjs-node are put together. Default: neither by XLA nor with bfloat16 products. */
  compilation?: Compilation;
}

/** A network and its adapters. `dispose()` frees both. */
export class TrainedModel {
  /** The trained weights, by Hugging Face's names (adapters: `<projection>.lora_A.weight`). */
  readonly trainable: ReadonlyMap<string, tf.Variable>;
  readonly config: LlamaConfig;
  /** Whether the blocks keep their activations for the backward pass. */
  keepActivations: boolean;

  /** Loads the weights of `files`, or shares those of `frozen`, a network with the same weights that is not trained. */
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
    this.keepActivations = options.keepActivations ?? false;
    const trainable = new Map((adapter === null ? network.weights : adapter.weights) as Map<string, tf.Variable>);
    if (score !== null) {
      trainable.set(SCORE, score);
    }
    this.trainable = trainable;
  }

  /** `[B · T, hiddenSize]` for the heads. With `adapted: false` it is the model before its adapters were trained. */
  hidden(batch: Batch, attend: Attend, {adapted = true} = {}): tf.Tensor2D {
    const adapter = adapted ? this.adapter : null;
    const {compilation = {xla: false, bfloat16: false}} = this.options;
    const compiled = this.compiles ? compilation : null;
    return this.network.hidden(batch, attend, {adapter, recompute: !this.keepActivations, compiled});
  }

  /** Whether its first steps make TensorFlow functions. */
  get compiles(): boolean {
    return this.options.eager !== true && canCompile();
  }

  /** `[1, hiddenSize]`, the head of a reward model. */
  get score(): tf.Tensor2D {
    return this.trainable.get(SCORE) as tf.Tensor as tf.Tensor2D;
  }

  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map([...this.trainable].map(([name, {shape}]) => [name, shape]));
  }

  /** The trained weights, on the host, one by one. */
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

/**
 * Whether TensorFlow functions can be made of a model's parts. The attention composed from tfjs ops reads the bounds of
 * masks on the host, which a function cannot.
 */
export function canCompile(): boolean {
  const backend = tf.backend() as unknown as TensorFlowBackend & {binding?: object};
  return tf.getBackend() === 'tensorflow' && hasFunctions(backend) && whyNotNative(backend) === null;
}

/** Throws if options ask for functions of TensorFlow where there are none: they would be without effect. */
export function checkCompilation({dtype, xla, eager}: {dtype: string; xla: boolean; eager: boolean}): void {
  const asked = dtype === 'float32' ? (xla ? '--xla' : null) : `--dtype ${dtype}`;
  if (asked === null || (!eager && canCompile())) return;
  const got = eager ? '--eager' : `the backend '${tf.getBackend()}' without them`;
  throw new Error(
    `${asked} needs TensorFlow functions, which tfjs-node has after 'npx tfjs-flashmask setup-node', got ${got}. Leave ` +
      'out one of the two, or set tfjs-node up (docs/tfjs-node.md).',
  );
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
