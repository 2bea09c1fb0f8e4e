/** @file What a run leaves on the disk: a checkpoint with everything that a later process needs to continue. */
import type {HostTensor} from '../host_tensor.js';
import {writeAdapter} from '../train/adapter_files.js';
import {saveCheckpoint} from '../train/checkpoint.js';
import type {MetricsLog} from '../train/metrics.js';
import {rewardModelConfig, writeModelFolder} from '../train/model_folder.js';
import type {TrainedModel} from '../train/trained_model.js';
import type {BatchSource} from './data.js';
import {type Run, loraOptions} from './run.js';
import type {Trainers} from './trainers.js';

/** Saves the state after the latest step of the log. Resolves to the checkpoint's folder. */
export async function save(
  run: Run,
  {flash, reference}: Trainers,
  data: BatchSource,
  log: MetricsLog,
): Promise<string> {
  const {model, optimizer} = flash;
  run.output.checkHeld();
  const parts = {
    state: {...run.identity, run: run.id, position: data.position, logHistory: log.records, reference},
    writeModel: (folder: string) => writeModel(run, model, folder),
    optimizer: {shapes: optimizer.shapes, tensors: optimizer.download()},
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
