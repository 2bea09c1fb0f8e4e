/** @file DPO's reference: the log-probabilities of the answers before training, without a second model in memory. */
import {readFileSync} from 'node:fs';
import {mkdir} from 'node:fs/promises';
import {dirname} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../data/batch.js';
import {type AttentionKind, attentionOf} from './attention.js';
import {writeJson} from './durable_files.js';
import {type Reference, batchLogProbs} from './objectives/dpo.js';
import type {TrainedModel} from './trained_model.js';

/** The model with its adapters off. It costs one more forward pass per step. */
export function adapterOffReference(model: TrainedModel, kind: AttentionKind): Reference {
  return (batch) => {
    const {attend, tensors} = attentionOf(kind, batch, model.config);
    const logProbs = tf.tidy(() => batchLogProbs(model, batch, model.hidden(batch, attend, {adapted: false})));
    tf.dispose(tensors);
    return Promise.resolve(logProbs);
  };
}

/** Log-probabilities of every answer in the data, computed before training. */
export class PrecomputedReference {
  private readonly bySample = new Map<number, number[]>();

  /** Loads what an earlier process saved. */
  static load(file: string): PrecomputedReference {
    const reference = new PrecomputedReference();
    try {
      for (const [id, values] of JSON.parse(readFileSync(file, 'utf8')) as [number, number[]][]) {
        reference.bySample.set(id, values);
      }
    } catch (error) {
      throw new Error(
        `--resume: ${file} holds the log-probabilities before training, and cannot be read: ${(error as Error).message}. Start again.`,
        {cause: error},
      );
    }
    return reference;
  }

  /** Computes the log-probabilities of a batch with the present model. */
  async add(model: TrainedModel, batch: Batch): Promise<void> {
    const logProbs = await adapterOffReference(model, 'flash')(batch);
    const values = await logProbs.data();
    logProbs.dispose();
    for (const {id, answers} of batch.samples) {
      this.bySample.set(
        id,
        answers.map((answer) => values[answer]),
      );
    }
  }

  async save(file: string): Promise<void> {
    await mkdir(dirname(file), {recursive: true});
    await writeJson(file, [...this.bySample]);
  }

  readonly of: Reference = (batch) => {
    const values = batch.samples.flatMap(({id, answers}) => {
      const known = this.bySample.get(id);
      if (known?.length !== answers.length) {
        throw new Error(
          `Record ${id} was not there when the reference was computed: the data have changed. Start again.`,
        );
      }
      return known;
    });
    return Promise.resolve(tf.tensor1d(values));
  };
}
