/** @file What sft.ts and dpo.ts share: a small model of tf.layers, its tokens, and packing. */
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import * as tf from '@tensorflow/tfjs';
import {transformerDecoderBlock} from 'tfjs-flashmask/layers';

// On a GPU: await useWebGPU() of 'tfjs-flashmask/node-webgpu', or import tfjs-node-gpu and 'tfjs-flashmask/node'.
await tf.ready();

/** Tokens of a packed row. */
export const ROW = 64;
/** Tokens are the bytes of UTF-8; 0 ends an answer. */
export const [VOCABULARY, END] = [256, 0];
/** The label of a token behind which nothing is learned. */
export const IGNORED = -1;
const [LAYERS, CHANNELS] = [1, 32];

export const encode = (text: string): number[] => [...new TextEncoder().encode(text)];
export const decode = (tokens: number[]): string => new TextDecoder().decode(Uint8Array.from(tokens));

/** Tokens and positions [rows, ROW] and a mask's bounds [rows, 1, ROW, 1] to logits [rows, ROW, VOCABULARY]. */
export function buildModel(): tf.LayersModel {
  const [tokens, positions] = [0, 1].map(() => tf.input({shape: [null], dtype: 'int32'}));
  const bounds = tf.input({shape: [1, null, 1], dtype: 'int32'});
  const embed = (ids: tf.SymbolicTensor, inputDim: number): tf.SymbolicTensor =>
    tf.layers.embedding({inputDim, outputDim: CHANNELS}).apply(ids) as tf.SymbolicTensor;
  let x = tf.layers.add().apply([embed(tokens, VOCABULARY), embed(positions, ROW)]) as tf.SymbolicTensor;
  for (let i = 0; i < LAYERS; i++) {
    x = transformerDecoderBlock([x, bounds], {numHeads: 4, keyDim: 8, intermediateDim: 2 * CHANNELS});
  }
  const logits = tf.layers.dense({units: VOCABULARY}).apply(tf.layers.layerNormalization().apply(x));
  return tf.model({inputs: [tokens, positions, bounds], outputs: logits as tf.SymbolicTensor});
}

/** Writes the two files that `tf.loadLayersModel` reads. With tfjs-node: `model.save('file://folder')`. */
export async function saveModel(model: tf.LayersModel, folder: string): Promise<void> {
  const handler = tf.io.withSaveHandler(({modelTopology, weightSpecs, weightData}) => {
    mkdirSync(folder, {recursive: true});
    writeFileSync(`${folder}/weights.bin`, new Uint8Array(tf.io.CompositeArrayBuffer.join(weightData)));
    const weightsManifest = [{paths: ['weights.bin'], weights: weightSpecs}];
    writeFileSync(`${folder}/model.json`, JSON.stringify({modelTopology, weightsManifest}));
    return Promise.resolve({modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}});
  });
  await model.save(handler);
  console.log(`saved in ${folder}`);
}

export function loadModel(folder: string): Promise<tf.LayersModel> {
  const {modelTopology, weightsManifest} = JSON.parse(readFileSync(`${folder}/model.json`, 'utf8')) as {
    modelTopology: object;
    weightsManifest: [{weights: tf.io.WeightsManifestEntry[]}];
  };
  const weightData = new Uint8Array(readFileSync(`${folder}/weights.bin`)).buffer;
  return tf.loadLayersModel(tf.io.fromMemory({modelTopology, weightSpecs: weightsManifest[0].weights, weightData}));
}

/** The records of a file of JSON lines. */
export function readRecords<R>(file: string): R[] {
  const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => JSON.parse(line) as R);
}

/** Puts each sample into the first row that has room for it. Longer ones are left out. */
export function pack<S>(samples: S[], lengthOf: (sample: S) => number): S[][] {
  const rows: {samples: S[]; used: number}[] = [];
  for (const sample of samples) {
    const length = lengthOf(sample);
    if (length > ROW) continue;
    let row = rows.find(({used}) => used + length <= ROW);
    if (!row) rows.push((row = {samples: [], used: 0}));
    row.samples.push(sample);
    row.used += length;
  }
  return rows.map((row) => row.samples);
}

/** Rows of numbers as int32 [rows, ROW]. */
export function rowsTensor(rows: number[][], filler: number): tf.Tensor2D {
  const filled = rows.map((row) => [...row, ...Array<number>(ROW - row.length).fill(filler)]);
  return tf.tensor2d(filled, undefined, 'int32');
}
