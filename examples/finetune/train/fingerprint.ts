/** @file Identifies a model, so that a run goes on only with the model that it started with. */
import {createHash} from 'node:crypto';
import {weightShapes} from '../model/config.js';
import type {ModelFiles} from '../weights/model_files.js';

/**
 * Identifies a model: SHA-256 over the configuration, the weights of the first layer and the final norm. Training or
 * merging an adapter changes the first layer too, and reading all weights of a large model takes long.
 */
export async function fingerprint(model: Pick<ModelFiles, 'config' | 'read'>): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(model.config));
  for (const name of weightShapes(model.config).keys()) {
    if (name.startsWith('model.layers.0.') || name === 'model.norm.weight') {
      const {data} = await model.read(name);
      hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  return hash.digest('hex');
}
