/** @file The command merge: adds an adapter to its base model and writes the sum as a Hugging Face folder. */
import {randomBytes} from 'node:crypto';
import {existsSync} from 'node:fs';
import {rename, rm} from 'node:fs/promises';
import {resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import type {BackendName} from '../device.js';
import type {Session} from '../io.js';
import {weightShapes} from '../model/config.js';
import {rewardModelConfig, writeModelFolder} from '../train/model_folder.js';
import {openDevice} from './opening.js';
import {type Trained, openTrained, weightReader} from './trained.js';

export interface MergeOptions {
  model?: string;
  adapter: string;
  output: string;
  backend: BackendName;
}

export async function merge(options: MergeOptions, session: Session): Promise<void> {
  const {output} = options;
  if (existsSync(output)) {
    throw new Error(`--output: ${output} is there already. Give a folder that is not.`);
  }
  const device = await openDevice(options.backend, session);
  const trained = await openTrained(options, session);
  const {files, rewardModel} = trained;
  const shapes = weightShapes({...files.config, scoreHead: rewardModel});
  // Write under another name first: a folder with the final name is always complete.
  const unfinished = `${resolve(output)}.${randomBytes(8).toString('hex')}.unfinished`;
  try {
    await writeModelFolder(unfinished, {
      configJson: rewardModel && !files.config.scoreHead ? rewardModelConfig(files.configJson) : files.configJson,
      tokenizerJson: files.tokenizerJson,
      tokenizerConfig: files.tokenizerConfig,
      shapes,
      tensors: mergedWeights(trained, shapes.keys()),
    });
    await device.check();
    await rename(unfinished, output);
  } catch (error) {
    await rm(unfinished, {recursive: true, force: true});
    throw error;
  }
  session.io.say(`Saved    ${output}: ${files.origin} with ${options.adapter}`);
}

/** Every weight; where it has an adapter, W + s·B·A. */
async function* mergedWeights(trained: Trained, names: Iterable<string>): AsyncGenerator<[string, HostTensor]> {
  const read = weightReader(trained);
  const {rank, alpha, useRslora, tensors} = trained.adapter!;
  const scale = alpha / (useRslora ? Math.sqrt(rank) : rank);
  for (const name of names) {
    const weight = await read(name);
    const projection = name.replace(/\.weight$/, '');
    const [a, b] = [tensors.get(`${projection}.lora_A.weight`), tensors.get(`${projection}.lora_B.weight`)];
    yield [name, a && b ? await add(weight, a, b, scale) : weight];
  }
}

async function add(weight: HostTensor, a: HostTensor, b: HostTensor, scale: number): Promise<HostTensor> {
  const upload = ({data, shape}: HostTensor): tf.Tensor2D => tf.tensor2d(data, shape as [number, number]);
  const sum = tf.tidy(() => upload(weight).add(tf.matMul(upload(b), upload(a)).mul(scale)));
  const data = (await sum.data()) as Float32Array;
  sum.dispose();
  return {shape: weight.shape, data};
}
