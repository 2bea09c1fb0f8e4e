/** @file The trainer of a run, and the twin with dense attention to compare it with. */
import {toBatch} from '../data/batch.js';
import {RowSource} from '../data/rows.js';
import {AdamW} from '../train/adamw.js';
import type {AttentionKind} from '../train/attention.js';
import {dpoObjective} from '../train/objectives/dpo.js';
import type {Objective} from '../train/objectives/objective.js';
import {rmObjective} from '../train/objectives/rm.js';
import {sftObjective} from '../train/objectives/sft.js';
import {together} from '../train/ranks.js';
import {PrecomputedReference, adapterOffReference} from '../train/reference.js';
import {sharingOf} from '../train/sharing.js';
import type {TrainedModel} from '../train/trained_model.js';
import {Trainer} from '../train/trainer.js';
import {type Run, referenceFile, startModel} from './run.js';
import type {TrainOptions} from './train_options.js';

export interface Trainers {
  flash: Trainer;
  /** The twin that `--compare` asks for. */
  dense: Trainer | null;
  /** SHA-256 of the file of reference log-probabilities; null without. */
  reference: string | null;
}

export async function makeTrainers(run: Run, model: TrainedModel): Promise<Trainers> {
  const {options, ranks, before} = run;
  const precomputed = await precomputedReference(run, model);
  const [reference, sha256] = precomputed === null ? [null, null] : [precomputed.reference, precomputed.sha256];
  const make = async (kind: AttentionKind, trained: TrainedModel): Promise<Trainer> => {
    const {weightDecay, maxGradNorm: maxNorm, eager} = options;
    const sharing = sharingOf(ranks, {divided: options.shardOptimizer});
    const optimizer = new AdamW(trained.trainable, {weightDecay, maxNorm, eager}, sharing);
    run.session.atEnd(() => optimizer.dispose());
    if (before !== null) {
      await optimizer.restore(before.optimizer, before.step);
    }
    const objective = objectiveOf(options, trained, kind, reference);
    return new Trainer(trained, objective, optimizer, kind, options.seed, ranks, run.team);
  };
  const flash = await make('flash', model);
  if (options.compare === 0) {
    return {flash, dense: null, reference: sha256};
  }
  // Both share the frozen weights.
  const dense = await make('dense', await startModel(run, options.lora ? model.network : undefined));
  return {flash, dense, reference: sha256};
}

function objectiveOf(
  {objective, beta, labelSmoothing, centering}: TrainOptions,
  model: TrainedModel,
  kind: AttentionKind,
  reference: PrecomputedReference | null,
): Objective {
  switch (objective) {
    case 'sft':
      return sftObjective;
    case 'dpo':
      return dpoObjective({beta, labelSmoothing}, reference?.of ?? adapterOffReference(model, kind));
    case 'rm':
      return rmObjective(centering);
  }
}

/**
 * Computes the reference before the first step, because full training changes all weights. Adapters can be switched off
 * at any step.
 */
async function precomputedReference(
  run: Run,
  model: TrainedModel,
): Promise<{reference: PrecomputedReference; sha256: string | null} | null> {
  const {options, ranks, rows, tokenizer, before, heldOut} = run;
  if (options.objective !== 'dpo' || (options.lora && !options.precomputeReference)) {
    return null;
  }
  const file = referenceFile(run);
  if (before !== null) {
    const sha256 = before.state.reference;
    return {reference: await PrecomputedReference.load(file, sha256), sha256};
  }
  const reference = new PrecomputedReference();
  for (const batch of heldOut) {
    await reference.add(model, batch);
  }
  let done = 0;
  for await (const row of new RowSource({...rows, epochs: 1}, tokenizer)) {
    // The ranks take turns.
    if (done % ranks.size === ranks.rank) {
      const batch = toBatch([row], rows.rowTokens);
      await reference.add(model, batch);
      batch.dispose();
    }
    if (++done % 10 === 0) run.session.io.say(`Reference log-probabilities: ${done} of ${run.epoch.rows} rows`);
  }
  await reference.share(ranks);
  const [sha256] = await together(ranks, () => (ranks.rank === 0 ? reference.save(file) : null));
  return {reference, sha256};
}
