/** @file One model in training: a step of forward, backward and AdamW on a batch, with an attention of choice. */
import * as tf from '@tensorflow/tfjs';
import {AdamW} from './adamw.js';
import {denseAttention, denseBias, flashAttention} from './attention.js';
import type {Batch} from './batches.js';
import {type Attend, Decoder, type ModelConfig, crossEntropy} from './model.js';
import type {HostArray} from './npz.js';

export type AttentionKind = 'flash' | 'dense';

export interface StepResult {
  loss: number;
  /** Wall time from the batch and its mask on the device to new weights there and the loss on the host. */
  milliseconds: number;
}

/** Owns a decoder and its optimiser. `dispose()` frees both. */
export class Trainer {
  readonly model: Decoder;
  readonly optimizer: AdamW;
  private readonly variables: tf.Variable[];

  constructor(
    private readonly kind: AttentionKind,
    config: ModelConfig,
    weights: ReadonlyMap<string, HostArray>,
  ) {
    this.model = new Decoder(config, weights);
    this.variables = [...this.model.weights.values()];
    this.optimizer = new AdamW(this.variables);
  }

  /** Trains on a batch. */
  async step(batch: Batch, rate: number): Promise<StepResult> {
    const attention = this.attention(batch);
    const start = performance.now();
    const {value: loss, grads} = tf.variableGrads(() => this.lossOf(batch, attention.attend), this.variables);
    const gradients = this.variables.map(({name}) => grads[name]);
    const norm = this.optimizer.step(gradients, rate);
    const [value] = await loss.data();
    // The loss is there before the weights are: wait for a number of theirs too, or the next step would pay.
    const weight = tf.tidy(() => this.variables[0].flatten().slice(0, 1));
    await weight.data();
    const milliseconds = performance.now() - start;
    tf.dispose([loss, gradients, norm, weight, attention.tensors]);
    return {loss: value, milliseconds};
  }

  /** The loss on a batch, without training. */
  async evaluate(batch: Batch): Promise<number> {
    const {attend, tensors} = this.attention(batch);
    const loss = tf.tidy(() => this.lossOf(batch, attend));
    const [value] = await loss.data();
    tf.dispose([loss, tensors]);
    return value;
  }

  private lossOf(batch: Batch, attend: Attend): tf.Scalar {
    return crossEntropy(this.model.logits(batch, attend), batch.labels);
  }

  /** This trainer's attention on a batch, and the tensors that it reads. */
  private attention({mask}: Batch): {attend: Attend; tensors: tf.Tensor[]} {
    if (this.kind === 'flash') {
      return {attend: flashAttention(mask), tensors: []};
    }
    const bias = denseBias(mask);
    return {attend: denseAttention(bias), tensors: [bias]};
  }

  /** Weights and optimiser state on the host. */
  async download(): Promise<Map<string, HostArray>> {
    return new Map([...(await this.model.download()), ...(await this.optimizer.download())]);
  }

  dispose(): void {
    this.model.dispose();
    this.optimizer.dispose();
  }
}
