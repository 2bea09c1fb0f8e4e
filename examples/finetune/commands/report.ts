/** @file What a run prints about itself before its first step. */
import type {TrainedModel} from '../train/trained_model.js';
import {learningRate} from '../train/schedule.js';
import {type Run, plannedBefore} from './run.js';

/** Model, data, packing and plan, one line each. */
export function describeRun(run: Run, model: TrainedModel): string {
  return [
    `Model    ${describeModel(run, model)}`,
    `Data     ${describeData(run)}`,
    `Packing  ${describePacking(run)}`,
    `Training ${describePlan(run)}`,
    ...describeChange(run),
  ].join('\n');
}

export function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

function describeModel({files, options}: Run, {network, trainable}: TrainedModel): string {
  const size = (weights: Iterable<{size: number}>): number => [...weights].reduce((sum, {size: each}) => sum + each, 0);
  const millions = (count: number): string => `${(count / 1e6).toFixed(2)} M`;
  const trained = options.lora
    ? `${millions(size(trainable.values()))} trained: LoRA of rank ${options.loraRank} on ${options.loraTargets.join()}`
    : 'all trained';
  return `${files.origin}: ${millions(size(network.weights.values()))} parameters, ${trained}`;
}

/** Reports everything that was left out or changed. */
function describeData({options, rows, epoch: {counts}, heldOut}: Run): string {
  const parts = [
    counts.cut > 0 && `${counts.cut} cut to ${rows.maxTokens} tokens`,
    counts.droppedTooLong > 0 && `${counts.droppedTooLong} longer than ${rows.maxTokens} tokens left out`,
    counts.droppedBad > 0 && `${counts.droppedBad} unreadable ones skipped`,
    counts.noAnswer > 0 && `${counts.noAnswer} without an answer left out`,
    counts.toolCallsNotWritten > 0 &&
      `${counts.toolCallsNotWritten} with tool calls that the chat template does not write left out`,
    counts.tiedAnswers > 0 && `${counts.tiedAnswers} answers as good as another left out`,
    counts.unlabelledAnswers > 0 && `${counts.unlabelledAnswers} earlier answers read, not learned`,
    counts.withUnknown > 0 && `${counts.withUnknown} with characters unknown to the tokenizer, read, not learned`,
    heldOut.length > 0 && `the first ${options.evalSamples} held out${usableOf(heldOut, options.evalSamples)}`,
  ].filter((part) => part !== false);
  return `${options.data}: ${counts.used} samples of ${counts.read} records${parts.map((part) => `; ${part}`).join('')}`;
}

/** Held-out records may also be too long, bad or without an answer. */
function usableOf(heldOut: Run['heldOut'], records: number): string {
  const usable = heldOut.reduce((sum, {samples}) => sum + samples.length, 0);
  return usable === records ? '' : `, ${usable} of them used`;
}

function describePacking({rows, options, epoch}: Run): string {
  const perRow = epoch.samples / epoch.rows;
  const copies =
    options.objective !== 'sft' && rows.layout === 'separate' ? ', each answer with its own copy of the question' : '';
  return `${epoch.rows} rows of ${rows.rowTokens} tokens, ${percent(epoch.density)} full, ${perRow.toFixed(1)} samples a row${copies}`;
}

function describePlan({options, batches, steps, before, epoch, ranks, team}: Run): string {
  const rowsOfStep = options.batchRows * batches;
  const shared = ranks.size > 1 ? ` on ${ranks.size} ranks${team.size > 1 ? `, ${team.size} for each row` : ''}` : '';
  const epochs = (steps * rowsOfStep) / epoch.rows;
  const from = before === null ? '' : ` from step ${before.step + 1}`;
  const compared = Math.min(options.compare, steps - (before?.step ?? 0));
  const twin = compared > 0 ? `; a twin with dense attention does the first ${compared}${from && ' of these'} too` : '';
  return `${steps} steps of ${rowsOfStep} row${rowsOfStep > 1 ? 's' : ''}${shared}, ${epochs.toFixed(2)} epochs${from}${twin}`;
}

/** What a resumed run does with the learning rate if it now has another number of steps. */
function describeChange({options, batches, steps, warmupSteps, before, epoch}: Run): string[] {
  if (before === null) return [];
  const planned = plannedBefore(before, {options, batches, epoch});
  if (planned.steps === steps) return [];
  const at = (total: number): string =>
    learningRate(before.step, total, options.learningRate, warmupSteps).toExponential(2);
  // After its last step the old schedule stays where it ended.
  return [
    `Schedule ${steps} steps in place of ${planned.steps}: step ${before.step + 1} has the learning rate ${at(steps)}, not ` +
      `${at(planned.steps)}; warm-up and peak stay, and it falls until step ${steps}`,
  ];
}
