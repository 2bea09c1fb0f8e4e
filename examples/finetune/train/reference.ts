/** @file DPO's reference: the log-probabilities of the answers before training, without a second model in memory. */
import * as tf from '@tensorflow/tfjs';
import {z} from 'zod';
import {sha256OfFile} from '../../../src/cli/files.js';
import type {Batch} from '../data/batch.js';
import {readJsonFile} from '../read_file.js';
import {type AttentionKind, attentionOf} from './attention.js';
import {writeJson} from './durable_files.js';
import {type Reference, batchLogProbs} from './objectives/dpo.js';
import {type Ranks, together} from './ranks.js';
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

/** For each record, its log-probabilities. */
const CONTENT = z.array(z.tuple([z.int().min(0), z.array(z.number())]));

/** Records of a message to the other ranks. */
const SHARED_RECORDS = 10_000;

/** Log-probabilities of every answer in the data, computed before training. */
export class PrecomputedReference {
  private readonly bySample = new Map<number, number[]>();

  /**
   * Loads what an earlier process saved.
   *
   * @param sha256 What `save` returned there.
   */
  static async load(file: string, sha256: string | null): Promise<PrecomputedReference> {
    const reference = new PrecomputedReference();
    try {
      const values = CONTENT.parse(await readJsonFile(file));
      if ((await sha256OfFile(file)) !== sha256) throw new Error('it is not as it was written.');
      values.forEach(([id, logProbs]) => reference.bySample.set(id, logProbs));
    } catch (error) {
      const why = error instanceof z.ZodError ? 'it is no list of log-probabilities.' : (error as Error).message;
      throw new Error(
        `--resume: ${file} holds the log-probabilities before training, and cannot be used: ${why} Start again.`,
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

  /** Gives every rank what all ranks have computed. */
  async share(ranks: Ranks): Promise<void> {
    if (ranks.size === 1) return;
    const most = Math.max(...(await together(ranks, () => this.bySample.size)));
    const own = [...this.bySample];
    for (let first = 0; first < most; first += SHARED_RECORDS) {
      const some = await together(ranks, () => own.slice(first, first + SHARED_RECORDS));
      for (const [id, logProbs] of some.flat()) {
        this.bySample.set(
          id,
          logProbs.map((value) => value ?? NaN),
        );
      }
    }
  }

  /** Resolves to the sha256 of the file. */
  async save(file: string): Promise<string> {
    await writeJson(file, [...this.bySample]);
    return sha256OfFile(file);
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
