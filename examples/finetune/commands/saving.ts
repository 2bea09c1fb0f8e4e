/** @file What a run leaves on the disk: a checkpoint with everything that a later process needs to continue. */
import type {HostTensor} from '../host_tensor.js';
import {writeAdapter} from '../train/adapter_files.js';
import {saveCheckpoint} from '../train/checkpoint.js';
import type {MetricsLog} from '../train/metrics.js';
import {rewardModelConfig, writeModelFolder} from '../train/model_folder.js';
import {together} from '../train/ranks.js';
import type {TrainedModel} from '../train/trained_model.js';
import type {Tensors} from '../weights/safetensors.js';
import type {BatchSource} from './data.js';
import {type Run, loraOptions} from './run.js';
import type {Trainers} from './trainers.js';

/**
 * Saves the state after the latest step of the log. Resolves to the checkpoint's folder. Rank 0 writes it, and all
 * ranks give it their pieces of the optimizer's state.
 */
export async function save(run: Run, trainers: Trainers, data: BatchSource, log: MetricsLog): Promise<string> {
  const {ranks, output} = run;
  const {optimizer} = trainers.flash;
  const tensors = optimizer.download(output !== null);
  const [folder] = await together(ranks, async () => {
    try {
      if (output === null) return '';
      output.checkHeld();
      return await write(run, trainers, data, log, unclosed(tensors));
    } finally {
      // The other ranks send all pieces, also where a checkpoint cannot be written.
      if (ranks.size > 1) await toTheEnd(tensors);
    }
  });
  return folder;
}

/** The same without an end before its time. */
function unclosed<T>(items: AsyncGenerator<T>): AsyncIterable<T> {
  return {[Symbol.asyncIterator]: () => ({next: () => items.next()})};
}

async function toTheEnd(items: AsyncGenerator): Promise<void> {
  while (!(await items.next()).done);
}

function write(
  run: Run,
  {flash, reference}: Trainers,
  data: BatchSource,
  log: MetricsLog,
  tensors: Tensors,
): Promise<string> {
  const {model, optimizer} = flash;
  const parts = {
    state: {...run.identity, run: run.id, position: data.position, logHistory: log.records, reference},
    writeModel: (folder: string) => writeModel(run, model, folder),
    optimizer: {shapes: optimizer.shapes, tensors},
  };
  const {options, session} = run;
  return saveCheckpoint(options.output, log.records.length, parts, options.saveLimit, session.io.warn);
}

/** A PEFT adapter, or the whole model as a Hugging Face folder. */
async function writeModel({options, files}: Run, model: TrainedModel, folder: string): Promise<void> {
  const rewardModel = options.objective === 'rm';
  if (options.lora) {
    const tensors: [string, HostTensor][] = [];
    for await (const entry of model.download()) tensors.push(entry);
    const taskType = rewardModel ? 'SEQ_CLS' : 'CAUSAL_LM';
    await writeAdapter(folder, {...loraOptions(options), baseModel: files.origin, taskType, tensors});
    return;
  }
  const configJson = rewardModel && !files.config.scoreHead ? rewardModelConfig(files.configJson) : files.configJson;
  const {tokenizerJson, tokenizerConfig} = files;
  await writeModelFolder(folder, {
    configJson,
    tokenizerJson,
    tokenizerConfig,
    shapes: model.shapes,
    tensors: model.download(),
  });
}
