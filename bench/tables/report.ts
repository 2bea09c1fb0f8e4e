/** @file What a terminal shows of records: a line for each, and the tables of a file. */
import type {BenchRecord} from '../record.js';
import {contextParallelSections} from './context_parallel.js';
import {cudaSections} from './cuda.js';
import {distributedSections} from './distributed.js';
import {finetuneSections, gibibytes, rate} from './finetune.js';
import {digits, exponent, mebibytes, percent, tera, type Section} from './markdown.js';
import {maskSections} from './masks.js';
import {paperSections} from './paper.js';

/** All sections of the documents, in order. The text of a section without records is empty. */
export const sectionsOf = (records: readonly BenchRecord[]): Section[] => [
  ...maskSections(records),
  ...cudaSections(records),
  ...paperSections(records),
  ...finetuneSections(records),
  ...contextParallelSections(records),
  ...distributedSections(records),
];

/** The tables of all sections that have records. */
export const tablesOf = (records: readonly BenchRecord[]): string =>
  sectionsOf(records)
    .filter(({text}) => text !== '')
    .map(({title, text}) => `${title}\n\n${text}`)
    .join('\n\n');

const FIGURES: [name: keyof BenchRecord, show: (value: number) => string][] = [
  ['masked', (x) => `${percent(x)} masked`],
  ['forwardMs', (x) => `forward ${digits(x)} ms`],
  ['forwardTflops', (x) => `${tera(x)} TFLOP/s`],
  ['backwardMs', (x) => `backward ${digits(x)} ms`],
  ['backwardTflops', (x) => `${tera(x)} TFLOP/s`],
  ['bothMs', (x) => `forward and backward ${digits(x)} ms`],
  ['matMulTflops', (x) => `tf.matMul ${tera(x)} TFLOP/s`],
  ['firstForwardMs', (x) => `first forward ${digits(x)} ms`],
  ['firstBackwardMs', (x) => `first backward ${digits(x)} ms`],
  ['pipelines', (x) => `${x} pipelines`],
  ['otherPipelines', (x) => `then ${x}`],
  ['queryMapMs', (x) => `map for forward ${x.toFixed(3)} ms`],
  ['keyMapMs', (x) => `map for dkdv ${x.toFixed(3)} ms`],
  ['medianMs', (x) => `a step ${digits(x)} ms`],
  ['quietMs', (x) => `${digits(x)} ms without collectives`],
  ['hostMs', (x) => `queued in ${digits(x)} ms`],
  ['longestN', (x) => `longest row ${x}`],
  ['nextN', (x) => `not ${x}`],
  ['tokensPerSecond', (x) => `${rate(x)} tokens/s`],
  ['heldBytes', (x) => `${gibibytes(x)} GiB before the step`],
  ['peakBytes', (x) => `peak ${mebibytes(x)} MiB`],
  ['loss', (x) => `loss ${x.toFixed(4)}`],
  ['difference', (x) => `differs by ${exponent(x)}`],
  ['imbalance', (x) => `imbalance ${percent(x)}`],
  ['zigzagImbalance', (x) => `zigzag ${percent(x)}`],
  ['contiguousImbalance', (x) => `contiguous ${percent(x)}`],
  ['chunk', (x) => `chunks of ${x}`],
  ['receivedRows', (x) => `${x.toFixed(0)} key rows a rank`],
  ['mostReceivedRows', (x) => `at most ${x}`],
  ['planMs', (x) => `planned in ${x.toFixed(0)} ms`],
  ['seconds', (x) => `took ${x.toFixed(1)} s`],
];

/** A record as one line, shown during the run. */
export function describeRecord(r: BenchRecord): string {
  const {suite, part, kind, precision, model, task, attention, eager, xla, dtype, mask, N, H, Hkv, D, shape, ranks} = r;
  const sizes = Object.entries({N, H, Hkv, D, ranks}).map(([name, value]) =>
    value === undefined ? undefined : `${name} ${value}`,
  );
  const how = [eager && 'eager', xla && 'xla', dtype];
  const call = [suite, part, kind, precision, model, task, attention, ...how, mask, ...sizes, shape].filter(Boolean);
  const figures = FIGURES.flatMap(([name, show]) => (typeof r[name] === 'number' ? [show(r[name])] : []));
  const outcome = r.outcome === undefined ? [] : [`${r.outcome} (${String(r.reason)})`];
  return `${call.join(' ').padEnd(60)} ${[...outcome, ...figures].join(', ')}`;
}
