/** @file Opens a trained model: an adapter on its base, a whole model, or the latest checkpoint of an output folder. */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import type {HostTensor} from '../host_tensor.js';
import type {Io, Session} from '../io.js';
import {readAdapter, readBaseModel} from '../train/adapter_files.js';
import {latestCheckpoint} from '../train/checkpoint.js';
import type {ModelFiles} from '../weights/model_files.js';
import {openFiles} from './opening.js';

export interface Trained {
  files: ModelFiles;
  /** Null for a whole model. */
  adapter: Awaited<ReturnType<typeof readAdapter>> | null;
  rewardModel: boolean;
}

export interface TrainedOptions {
  model?: string;
  adapter?: string;
}

/**
 * Opens the model until the end of the command.
 *
 * @param model What `openModel` takes, or the --output of a run. Default: the base that the adapter names.
 * @param adapter A PEFT folder, or the --output of a run with --lora.
 */
export async function openTrained({model, adapter}: TrainedOptions, session: Session): Promise<Trained> {
  const {io} = session;
  if (adapter === undefined) {
    const spec = await checkpointIn(model ?? 'smollm2', 'config.json', io);
    if (existsSync(join(spec, 'adapter_config.json'))) {
      return openTrained({adapter: spec}, session);
    }
    const files = await openFiles(spec, session);
    return {files, adapter: null, rewardModel: files.config.scoreHead};
  }
  const folder = await checkpointIn(adapter, 'adapter_config.json', io);
  const base = model === undefined ? await baseOf(folder) : await checkpointIn(model, 'config.json', io);
  const files = await openFiles(base, session);
  const rewardModel = files.config.scoreHead;
  const read = await readAdapter(folder, files.config);
  return {files, adapter: read, rewardModel: rewardModel || read.taskType === 'SEQ_CLS'};
}

async function baseOf(adapter: string): Promise<string> {
  const base = await readBaseModel(adapter);
  if (base === '') {
    throw new Error(`The adapter in ${adapter} does not name the model that it was trained on. Give that by --model.`);
  }
  return base;
}

/** The folder itself if it holds the file. Else, if it is the output of a run, its latest checkpoint. */
async function checkpointIn(folder: string, file: string, io: Io): Promise<string> {
  if (!existsSync(folder) || existsSync(join(folder, file))) {
    return folder;
  }
  return (await latestCheckpoint(folder, io.warn)) ?? folder;
}

/** Reads the weights of a trained model. If the base has no score head, the adapter has it. */
export function weightReader({files, adapter}: Trained): (name: string) => Promise<HostTensor> {
  return async (name) => adapter?.tensors.get(name) ?? files.read(name);
}
