/**
 * @file Supervised fine-tuning as TRL's sft.py: prompts with completions in packed rows. Completions alone are learned.
 *
 *     npm run sft                              # the sample below; the model is saved in ./model
 *     npm run sft -- my-model data.jsonl 3     # where to save; {"prompt": "...", "completion": "..."} a line; epochs
 */
import * as tf from '@tensorflow/tfjs';
import {masks} from 'tfjs-flashmask';
import * as common from './model.js';
import {END, IGNORED, ROW, VOCABULARY} from './model.js';

const [output = 'model', data, epochs = '40'] = process.argv.slice(2);
const [BATCH, LEARNING_RATE] = [2, 0.02];

interface Sample {
  prompt: string;
  completion: string;
}

const CAPITALS =
  'France Paris, Italy Rome, Spain Madrid, Peru Lima, Cuba Havana, Japan Tokyo, Egypt Cairo, Oman Muscat';
const samples: Sample[] = data
  ? common.readRecords(data)
  : CAPITALS.split(', ').map((pair) => ({prompt: pair.split(' ')[0], completion: ` ${pair.split(' ')[1]}`}));

/** Tokens of a sample, and for each the token to predict: none within the prompt. */
function tokenize({prompt, completion}: Sample): {tokens: number[]; labels: number[]} {
  const [before, answer] = [common.encode(prompt), [...common.encode(completion), END]];
  const labels = [...before.map(() => IGNORED), ...answer].slice(1);
  return {tokens: [...before, ...answer].slice(0, -1), labels};
}

type Row = ReturnType<typeof tokenize>[];

interface Batch {
  inputs: tf.Tensor[];
  labels: tf.Tensor2D;
}

/** Rows as inputs of the model, and their labels. The mask keeps samples apart: it needs their lengths alone. */
function batchOf(rows: Row[]): Batch {
  const tensor = (of: (sample: Row[0]) => number[], filler: number) =>
    common.rowsTensor(
      rows.map((row) => row.flatMap(of)),
      filler,
    );
  const lengths = rows.map((row) => row.map(({tokens}) => tokens.length));
  const bounds = masks.causalDocument(lengths, {padTo: ROW}).toTensor();
  const positions = tensor(({tokens}) => [...tokens.keys()], 0);
  return {
    inputs: [tensor(({tokens}) => tokens, END), positions, bounds],
    labels: tensor(({labels}) => labels, IGNORED),
  };
}

/** The mean cross-entropy of the labels. An ignored one is a row of zeros in `wanted`. */
function lossOf(model: tf.LayersModel, {inputs, labels}: Batch): tf.Scalar {
  const wanted = tf.oneHot(labels, VOCABULARY).toFloat();
  const logits = model.apply(inputs, {training: true}) as tf.Tensor;
  return tf.losses.softmaxCrossEntropy(wanted, logits, undefined, undefined, tf.Reduction.SUM).div(wanted.sum());
}

/** The prompt with its likeliest completion. */
async function complete(model: tf.LayersModel, prompt: string): Promise<string> {
  const tokens = common.encode(prompt);
  while (tokens.length < ROW && tokens.at(-1) !== END) {
    const {inputs, labels} = batchOf([[{tokens, labels: []}]]);
    const likeliest = tf.tidy(() => (model.predict(inputs) as tf.Tensor).argMax(-1));
    tokens.push((await likeliest.data())[tokens.length - 1]);
    tf.dispose([inputs, labels, likeliest]);
  }
  return common.decode(tokens.filter((token) => token !== END));
}

const rows = common.pack(samples.map(tokenize), ({tokens}) => tokens.length);
console.log(`${samples.length} samples in ${rows.length} rows of ${ROW} tokens`);
const model = common.buildModel();
const optimizer = tf.train.adam(LEARNING_RATE);
for (let epoch = 1; epoch <= Number(epochs); epoch++) {
  tf.util.shuffle(rows);
  for (let at = 0; at < rows.length; at += BATCH) {
    const batch = batchOf(rows.slice(at, at + BATCH));
    const loss = optimizer.minimize(() => lossOf(model, batch), true)!;
    console.log(`epoch ${epoch}: loss ${(await loss.data())[0].toFixed(4)}`);
    tf.dispose([loss, batch.inputs, batch.labels]);
  }
}
console.log(await complete(model, samples[0].prompt));
await common.saveModel(model, output);
