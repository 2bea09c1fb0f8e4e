/**
 * @file What a run reports at its end: answers and held-out loss before and after, tiles skipped, dense attention's
 * cost.
 */
import type {Io} from '../io.js';
import {type LossComparison, costTable, costsOfStep} from '../train/comparison.js';
import type {MetricsLog} from '../train/metrics.js';
import type {Trainer} from '../train/trainer.js';
import {BatchSource} from './data.js';
import {answer} from './generate.js';
import {percent} from './report.js';
import type {Run} from './run.js';
import type {Trainers} from './trainers.js';

/** Side of the tiles to count. A tile is skipped when the mask hides all of it. */
export const TILE = 32;
const SAMPLE_TOKENS = 40;

/** What the model can do, before or after training. */
export interface Sample {
  heldOutLoss: number | null;
  text: string | null;
}

export async function sample(
  {options, tokenizer, heldOut, session, ranks}: Run,
  trainer: Trainer,
  when: 'Before' | 'After',
): Promise<Sample> {
  const {prompt} = options;
  const does = [heldOut.length > 0 && 'measuring the held-out loss', prompt !== undefined && 'answering the prompt'];
  const says = does.filter((part) => part !== false).join(', ');
  if (says !== '') session.io.say(`${when.padEnd(8)} ${says}`);
  return {
    heldOutLoss: heldOut.length > 0 ? await trainer.evaluate(heldOut) : null,
    text:
      prompt === undefined || ranks.rank > 0
        ? null
        : await answer(trainer.model, tokenizer, prompt, {maxNewTokens: SAMPLE_TOKENS}),
  };
}

export function reportSamples({options, session: {io}}: Run, first: Sample, last: Sample): void {
  if (first.heldOutLoss !== null) {
    io.say(`Held-out loss      ${first.heldOutLoss.toFixed(4)} before, ${last.heldOutLoss!.toFixed(4)} after`);
  }
  if (first.text !== null) {
    io.say(`Prompt             ${options.prompt}`);
    io.say(`  before           ${JSON.stringify(first.text)}`);
    io.say(`  after            ${JSON.stringify(last.text)}`);
  }
}

export function reportTiles({records}: MetricsLog, io: Io): void {
  const mean = records.reduce((sum, {tile_sparsity: empty}) => sum + empty, 0) / records.length;
  io.say(`Tiles skipped      ${percent(mean)} of ${TILE} x ${TILE} tiles`);
}

/** Measures and prints the cost of one more step of each attention. */
export async function reportComparison(run: Run, trainers: Trainers, comparison: LossComparison): Promise<void> {
  const {io} = run.session;
  io.say(comparison.toString());
  io.say('Cost     measuring one more step of each attention');
  const data = new BatchSource(run.rows, run.tokenizer, {batchRows: run.options.batchRows, batches: run.ranks.size});
  const batches = await data.next();
  const [flash, dense] = await costsOfStep([trainers.flash, trainers.dense!], batches);
  const [{ids, samples}] = batches;
  io.say(`\n${costTable(flash, dense, `${ids.shape.join(' x ')} tokens, samples: ${samples.length}`)}\n`);
  batches.forEach((batch) => batch.dispose());
  await data.close();
}
