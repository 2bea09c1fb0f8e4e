/**
 * @file Direct preference optimisation as TRL's dpo.py, of the model that sft.ts saved: in a packed row both answers
 * share one copy of their prompt, and do not see each other.
 *
 *     npm run dpo                                          # the sample below, from ./model
 *     npm run dpo -- model my-model data.jsonl 3           # the model to start from; where to save;
 *                                                          # {"prompt", "chosen", "rejected"} a line; epochs
 */
import * as tf from '@tensorflow/tfjs';
import {masks} from 'tfjs-flashmask';
import * as common from './model.js';
import {END, IGNORED, ROW, VOCABULARY} from './model.js';

const [base = 'model', output = 'model-dpo', data, epochs = '8'] = process.argv.slice(2);
const [BATCH, LEARNING_RATE, BETA] = [2, 0.002, 0.1];

interface Sample {
  prompt: string;
  chosen: string;
  rejected: string;
}

const CITIES =
  'France Paris Rome, Italy Rome Lima, Spain Madrid Rome, Peru Lima Tokyo, Cuba Havana Lima, Japan Tokyo Rome';
const samples: Sample[] = data
  ? common.readRecords(data)
  : CITIES.split(', ').map((line) => {
      const [prompt, chosen, rejected] = line.split(/(?= )/);
      return {prompt, chosen, rejected};
    });

interface Part {
  tokens: number[];
  positions: number[];
  labels: number[];
}

/**
 * A prompt without its last token, then each answer behind that token, which predicts the first of the answer.
 * Positions are those that a part has without the other answer.
 */
function tokenize({prompt, chosen, rejected}: Sample): Part[] {
  const question = common.encode(prompt);
  const last = question.splice(-1);
  const answers = [chosen, rejected].map((text): Part => {
    const labels = [...common.encode(text), END];
    return {tokens: [...last, ...labels.slice(0, -1)], positions: labels.map((_, i) => question.length + i), labels};
  });
  return [{tokens: question, positions: [...question.keys()], labels: question.map(() => IGNORED)}, ...answers];
}

/** Rows as inputs of the model, their labels, and which of `count` answers each token belongs to. */
function batchOf(rows: Part[][][]) {
  const tensor = (of: (part: Part) => number[], filler: number) =>
    common.rowsTensor(
      rows.map((row) => row.flat().flatMap(of)),
      filler,
    );
  const groups = rows.map((row) => row.map((pair) => pair.map(({tokens}) => tokens.length)));
  const bounds = masks.sharedQuestion(groups, {padTo: ROW}).toTensor();
  const inputs = [tensor(({tokens}) => tokens, END), tensor(({positions}) => positions, 0), bounds];
  const answers = rows.flat().flatMap(([, ...both]) => both);
  const owners = tensor((part) => part.tokens.map(() => answers.indexOf(part)), -1);
  return {inputs, labels: tensor(({labels}) => labels, IGNORED), owners, count: answers.length};
}

type Batch = ReturnType<typeof batchOf>;

/** Log-probabilities of the answers, [pairs, 2]: of the chosen and of the rejected. */
function logProbsOf(model: tf.LayersModel, {inputs, labels, owners, count}: Batch): tf.Tensor {
  const logits = model.apply(inputs, {training: true}) as tf.Tensor;
  const ofTokens = tf.logSoftmax(logits).mul(tf.oneHot(labels, VOCABULARY)).sum(-1);
  const owned = tf.oneHot(owners.flatten(), count).toFloat(); // [tokens, answers]; zeros for prompts and padding
  return tf.matMul(owned, ofTokens.reshape([-1, 1]), true).reshape([-1, 2]);
}

const rows = common.pack(samples.map(tokenize), (pair) => pair.flatMap(({tokens}) => tokens).length);
console.log(`${samples.length} pairs in ${rows.length} rows of ${ROW} tokens`);
const model = await common.loadModel(base);
const batches = Array.from({length: Math.ceil(rows.length / BATCH)}, (_, i) => {
  const batch = batchOf(rows.slice(i * BATCH, (i + 1) * BATCH));
  return {...batch, reference: tf.tidy(() => logProbsOf(model, batch))}; // of the model before training
});

const optimizer = tf.train.adam(LEARNING_RATE);
for (let epoch = 1; epoch <= Number(epochs); epoch++) {
  tf.util.shuffle(batches);
  for (const batch of batches) {
    let margins!: tf.Tensor; // by how much more than the reference the model prefers the chosen answers
    const loss = optimizer.minimize(() => {
      const [chosen, rejected] = tf.unstack(logProbsOf(model, batch).sub(batch.reference).mul(BETA), 1);
      margins = tf.keep(chosen.sub(rejected));
      return tf.softplus(margins.neg()).mean(); // -log sigmoid
    }, true)!;
    const means = [loss, margins.greater(0).toFloat().mean(), margins.mean()];
    const [value, accuracy, margin] = await Promise.all(means.map(async (x) => (await x.data())[0].toFixed(4)));
    console.log(`epoch ${epoch}: loss ${value}, rewards/accuracies ${accuracy}, rewards/margins ${margin}`);
    tf.dispose([...means, margins]);
  }
}
await common.saveModel(model, output);
