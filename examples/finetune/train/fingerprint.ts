/** @file Identifies a model, so that a run goes on only with the model that it started with. */
import {createHash} from 'node:crypto';
import {weightShapes} from '../model/config.js';
import type {ModelFiles} from '../weights/model_files.js';

/** SHA-256 of each part of a model that decides the numbers of a run, by the part's name for the user. */
export type Fingerprint = Readonly<Record<'configuration' | 'weights' | 'tokenizer' | 'chat template', string>>;

/** Reads all weights once. The same numbers give the same fingerprint, in whatever format they are stored. */
export async function fingerprint(
  model: Pick<ModelFiles, 'config' | 'read' | 'tokenizerJson' | 'tokenizerConfig'>,
): Promise<Fingerprint> {
  const {chat_template: template, ...tokenizerConfig} = model.tokenizerConfig;
  const weights = createHash('sha256');
  for (const name of weightShapes(model.config).keys()) {
    const {data} = await model.read(name);
    weights.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return {
    configuration: ofJson(model.config),
    weights: weights.digest('hex'),
    tokenizer: ofJson([model.tokenizerJson, tokenizerConfig]),
    'chat template': ofJson(template ?? null),
  };
}

function ofJson(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}
