/** @file Trains one model: a step of forward, backward and AdamW over a few batches, with either attention. */
import * as tf from '@tensorflow/tfjs';
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import {soloGroup} from '../../../src/distributed/solo_group.js';
import type {Batch} from '../data/batch.js';
import type {AdamW} from './adamw.js';
import {type AttentionKind, attentionOf} from './attention.js';
import {deal} from './dealing.js';
import type {MetricsRecord} from './metrics.js';
import type {Objective, Observations} from './objectives/objective.js';
import {type Ranks, alone} from './ranks.js';
import {partOf} from './shared_rows.js';
import type {TrainedModel} from './trained_model.js';
import {workOf} from './work.js';

export interface StepResult {
  loss: number;
  /** Global norm of the gradients, before clipping. */
  gradNorm: number;
  metrics: Omit<MetricsRecord, 'global_step'>;
  /** The indices of the batches that this rank computed. */
  own: readonly number[];
  /** Wall time from the batches on the device to new weights on the device and the loss on the host. */
  milliseconds: number;
}

/** One batch's contribution to a step. */
interface Share {
  loss: tf.Scalar;
  gradients: Map<string, tf.Tensor>;
  observations: Observations;
}

/** The numbers of a share, on the host. */
interface Seen {
  loss: number;
  observations: Record<string, number[]>;
}

/** Owns a model and its optimizer. `dispose()` frees both. */
export class Trainer {
  constructor(
    readonly model: TrainedModel,
    private readonly objective: Objective,
    readonly optimizer: AdamW,
    private readonly kind: AttentionKind = 'flash',
    /** Seed of the dropout. */
    private readonly seed = 0,
    /** The ranks that do the steps together. The optimizer must sum their gradients. */
    private readonly ranks: Ranks = alone,
    /** Those of the ranks that share rows with this one: neighbours, as many everywhere. */
    private readonly team: ProcessGroup = soloGroup,
  ) {}

  /**
   * One optimizer step on the gradients of all batches, as if they were one batch. All ranks get the same batches, and
   * each computes its part of them.
   */
  async step(batches: readonly Batch[], rate: number): Promise<StepResult> {
    const started = performance.now();
    const total = batches.reduce((sum, batch) => sum + this.objective.terms(batch), 0);
    const shares: Share[] = [];
    let gradients = new Map<string, tf.Tensor>();
    const dealt = this.dealt(batches);
    const own = dealt[this.teamOf(this.ranks.rank)];
    for (const i of own) {
      const share = await this.share(batches[i], total, this.dropoutSeed(i));
      shares.push(share);
      gradients = addUp(gradients, share.gradients);
    }
    const norm = this.optimizer.step(gradients, rate);
    tf.dispose([...gradients.values()]);
    const seen = await this.ofAllRanks(dealt, await downloadShares(shares), addSeen);
    const loss = seen.reduce((sum, share) => sum + (share.loss ?? NaN), 0);
    const [gradNorm] = await download([norm]);
    const metrics = this.objective.metrics(joinObservations(seen), batches);
    await this.weightsAreThere();
    tf.dispose(shares.map(({loss: value, observations}) => [value, ...Object.values(observations)]).flat());
    norm.dispose();
    return {loss, gradNorm, metrics, own, milliseconds: performance.now() - started};
  }

  /** The loss on batches, without training. All ranks get the same batches, and each computes its part of them. */
  async evaluate(batches: readonly Batch[]): Promise<number> {
    const total = batches.reduce((sum, batch) => sum + this.objective.terms(batch), 0);
    this.model.adapter?.setDropout(null);
    const dealt = this.dealt(batches);
    const losses: number[] = [];
    for (const whole of dealt[this.teamOf(this.ranks.rank)].map((i) => batches[i])) {
      const batch = partOf(whole, this.team);
      const prepared = await this.objective.prepare?.(batch);
      const {attend, tensors} = attentionOf(this.kind, batch, this.model.config);
      const {loss, observations} = tf.tidy(() => this.lossOf(batch, attend, total, prepared));
      losses.push((await loss.data())[0]);
      tf.dispose([loss, ...tensors, ...Object.values(observations)]);
      prepared?.dispose();
      batch.dispose();
    }
    return (await this.ofAllRanks(dealt, losses, addNumbers)).reduce((sum, loss) => sum + (loss ?? NaN), 0);
  }

  /** Indices of batches by team. */
  private dealt(batches: readonly Batch[]): number[][] {
    const {ranks, team, model} = this;
    if (ranks.size === team.size) return [[...batches.keys()]];
    return deal(
      batches.map((batch) => workOf(batch, model.config)),
      ranks.size / team.size,
    );
  }

  private teamOf(rank: number): number {
    return Math.floor(rank / this.team.size);
  }

  /** What the ranks have of their batches, in the order of all batches, added up where ranks share a batch. */
  private async ofAllRanks<T>(dealt: readonly number[][], own: T[], add: (a: T, b: T) => T): Promise<T[]> {
    const all = await this.ranks.exchange(own);
    const inOrder: T[] = [];
    all.forEach((ofRank, rank) => {
      dealt[this.teamOf(rank)].forEach((batch, i) => {
        inOrder[batch] = batch in inOrder ? add(inOrder[batch], ofRank[i]) : ofRank[i];
      });
    });
    return inOrder;
  }

  private async share(whole: Batch, total: number, dropoutSeed: number): Promise<Share> {
    const batch = partOf(whole, this.team);
    const prepared = await this.objective.prepare?.(batch);
    const {attend, tensors} = attentionOf(this.kind, batch, this.model.config);
    this.model.adapter?.setDropout(dropoutSeed);
    const {trainable} = this.model;
    let observations: Observations = {};
    const lossOf = (): tf.Scalar => {
      const result = this.lossOf(batch, attend, total, prepared);
      observations = result.observations;
      return result.loss;
    };
    const {value, grads} = tf.variableGrads(lossOf, [...trainable.values()]);
    tf.dispose(tensors);
    prepared?.dispose();
    batch.dispose();
    const gradients = [...trainable].map(([name, variable]): [string, tf.Tensor] => [name, grads[variable.name]]);
    return {loss: value, observations, gradients: new Map(gradients.filter(([, gradient]) => gradient != null))};
  }

  private lossOf(
    batch: Batch,
    attend: ReturnType<typeof attentionOf>['attend'],
    total: number,
    prepared?: tf.Tensor,
  ): ReturnType<Objective['loss']> {
    const hidden = this.model.hidden(batch, attend);
    return this.objective.loss(this.model, batch, hidden, total, prepared);
  }

  dispose(): void {
    this.model.dispose();
    this.optimizer.dispose();
  }

  /** Differs for every batch of a run and every rank that shares it, and is the same in a resumed run. */
  private dropoutSeed(batch: number): number {
    const ofStep = Math.imul(this.seed + 1, 0x9e3779b1) ^ Math.imul(this.optimizer.steps + 1, 0x85ebca6b);
    return ofStep ^ (batch + 1) ^ Math.imul(this.team.rank, 0xc2b2ae35);
  }

  /** The loss arrives before the weights. This waits for a number of a weight too, or the next step would pay. */
  private async weightsAreThere(): Promise<void> {
    const [variable] = this.model.trainable.values();
    const first = tf.tidy(() => variable.flatten().slice(0, 1));
    await first.data();
    first.dispose();
  }
}

/** Adds up gradients of the same name and disposes its arguments. */
function addUp(sums: Map<string, tf.Tensor>, more: ReadonlyMap<string, tf.Tensor>): Map<string, tf.Tensor> {
  const result = new Map(sums);
  for (const [name, gradient] of more) {
    const before = sums.get(name);
    result.set(name, before === undefined ? gradient : tf.add(before, gradient));
    tf.dispose(before === undefined ? [] : [before, gradient]);
  }
  return result;
}

async function download(tensors: readonly tf.Tensor[]): Promise<number[]> {
  const values: number[] = [];
  for (const tensor of tensors) {
    values.push(...(await tensor.data()));
  }
  return values;
}

async function downloadShares(shares: readonly Share[]): Promise<Seen[]> {
  const losses = await download(shares.map(({loss}) => loss));
  const seen: Seen[] = losses.map((loss) => ({loss, observations: {}}));
  for (const name of Object.keys(shares[0].observations)) {
    for (const [i, {observations}] of shares.entries()) {
      seen[i].observations[name] = await download([observations[name]]);
    }
  }
  return seen;
}

// NaN came as null.
const addNumbers = (a: number, b: number): number => (a ?? NaN) + (b ?? NaN);

/** The numbers of a batch that two ranks share. */
function addSeen(a: Seen, b: Seen): Seen {
  const observations: Seen['observations'] = {};
  for (const [name, values] of Object.entries(a.observations)) {
    observations[name] = values.map((value, i) => addNumbers(value, b.observations[name][i]));
  }
  return {loss: addNumbers(a.loss, b.loss), observations};
}

/** The observations of all batches, one after another. */
function joinObservations(seen: readonly Seen[]): Record<string, Float32Array> {
  const join = (name: string): Float32Array =>
    Float32Array.from(seen.flatMap(({observations}) => observations[name].map((value) => value ?? NaN)));
  return Object.fromEntries(Object.keys(seen[0].observations).map((name) => [name, join(name)]));
}
