/** @file The command score: a reward model's scores for answers to a prompt. */
import * as tf from '@tensorflow/tfjs';
import {toBatch} from '../data/batch.js';
import {encodeComparison} from '../data/encode.js';
import {ChatTokenizer} from '../data/tokenizer.js';
import type {BackendName} from '../device.js';
import type {Session} from '../io.js';
import {Llama} from '../model/llama.js';
import {Lora} from '../model/lora.js';
import {attentionOf} from '../train/attention.js';
import {rewardsOf} from '../train/objectives/rm.js';
import {openDevice} from './opening.js';
import {openTrained, weightReader} from './trained.js';

export interface ScoreOptions {
  model?: string;
  adapter?: string;
  backend: BackendName;
  prompt: string;
  answers: string[];
}

export async function score({prompt, answers, ...options}: ScoreOptions, session: Session): Promise<void> {
  const device = await openDevice(options.backend, session);
  const trained = await openTrained(options, session);
  const {files, adapter, rewardModel} = trained;
  if (!rewardModel) {
    throw new Error(`${options.adapter ?? files.origin} is no reward model: train one with the command rm.`);
  }
  const config = {...files.config, scoreHead: true};
  const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, config.vocabSize, files.origin);
  const network = await Llama.load(config, weightReader(trained));
  session.atEnd(() => network.dispose());
  const lora = adapter && Lora.fromTensors(config, adapter, adapter.tensors);
  session.atEnd(() => lora?.dispose());
  for (const answer of answers) {
    const reward = await rewardOf({network, lora}, tokenizer, prompt, answer);
    session.io.say(`${reward.toFixed(4).padStart(9)}  ${JSON.stringify(answer)}`);
  }
  await device.check();
}

async function rewardOf(
  {network, lora}: {network: Llama; lora: Lora | null},
  tokenizer: ChatTokenizer,
  prompt: string,
  answer: string,
): Promise<number> {
  const {maxPositions} = network.config;
  const comparison = {
    prompt: [{role: 'user', content: prompt}],
    answers: [answer],
    tied: 0,
    kind: 'comparison' as const,
  };
  const limits = {maxTokens: maxPositions, tooLong: 'drop', layout: 'separate', objective: 'rm'} as const;
  const encoding = encodeComparison(0, comparison, tokenizer, limits);
  if (!('sample' in encoding)) {
    throw new Error(`The answer ${JSON.stringify(answer)} cannot be scored: it is ${encoding.dropped}.`);
  }
  const {sample} = encoding;
  const batch = toBatch([{samples: [sample]}], sample.tokens.length);
  const {attend, tensors} = attentionOf('flash', batch, network.config);
  const rewards = tf.tidy(() =>
    rewardsOf(
      network.weights.get('score.weight') as tf.Tensor2D,
      batch,
      network.hidden(batch, attend, {adapter: lora}),
    ),
  );
  const [reward] = await rewards.data();
  tf.dispose([rewards, ...tensors]);
  batch.dispose();
  return reward;
}
