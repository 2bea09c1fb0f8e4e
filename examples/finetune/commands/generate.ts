/** @file The command generate: writes a trained model's answer to a prompt, word by word. */
import {ChatTokenizer} from '../data/tokenizer.js';
import type {Message} from '../data/sample.js';
import type {BackendName} from '../device.js';
import type {Session} from '../io.js';
import {type GenerateOptions, generateTokens} from '../model/generate.js';
import {Llama} from '../model/llama.js';
import {Lora} from '../model/lora.js';
import {openDevice} from './opening.js';
import {openTrained, weightReader} from './trained.js';

export interface GenerateCommandOptions {
  model?: string;
  adapter?: string;
  backend: BackendName;
  prompt: string;
  system?: string;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  seed: number;
}

export async function generate(options: GenerateCommandOptions, session: Session): Promise<void> {
  const {prompt, system, maxNewTokens, temperature, topP, seed} = options;
  const device = await openDevice(options.backend, session);
  const trained = await openTrained(options, session);
  const {files, adapter} = trained;
  if (trained.rewardModel) {
    throw new Error(
      `${options.adapter ?? files.origin} is a reward model, which writes no text: score answers with the command score.`,
    );
  }
  const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, files.config.vocabSize, files.origin);
  const network = await Llama.load(files.config, weightReader(trained));
  session.atEnd(() => network.dispose());
  const lora = adapter && Lora.fromTensors(files.config, adapter, adapter.tensors);
  session.atEnd(() => lora?.dispose());
  const messages: Message[] = [
    ...(system === undefined ? [] : [{role: 'system', content: system}]),
    {role: 'user', content: prompt},
  ];
  const sampling = {maxNewTokens, temperature, topP, seed};
  for await (const text of answerPieces({network, adapter: lora}, tokenizer, messages, sampling)) {
    session.io.write(text);
  }
  session.io.write('\n');
  await device.check();
}

interface Speaker {
  network: Llama;
  adapter: Lora | null;
}

/** The whole answer to one message. Default greedy. */
export async function answer(
  speaker: Speaker,
  tokenizer: ChatTokenizer,
  prompt: string,
  options: Partial<GenerateOptions> & {maxNewTokens: number},
): Promise<string> {
  let text = '';
  for await (const piece of answerPieces(speaker, tokenizer, [{role: 'user', content: prompt}], options)) {
    text += piece;
  }
  return text;
}

/** The answer as it grows, in pieces of whole characters. */
async function* answerPieces(
  {network, adapter}: Speaker,
  tokenizer: ChatTokenizer,
  messages: Message[],
  options: Partial<GenerateOptions> & {maxNewTokens: number},
): AsyncGenerator<string> {
  adapter?.setDropout(null);
  const ids = tokenizer.encode(tokenizer.chat(messages, {addGenerationPrompt: true}));
  const ends = new Set([
    ...network.config.eosTokenIds,
    ...(tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId]),
  ]);
  const settings = {temperature: 0, topP: 1, seed: 0, ...options, adapter, eosTokenIds: [...ends]};
  const written: number[] = [];
  let shown = '';
  for await (const token of generateTokens(network, ids, settings)) {
    if (ends.has(token)) {
      break;
    }
    written.push(token);
    const text = tokenizer.decode(written);
    // A character of several tokens is complete only with its last token.
    if (!text.endsWith('\ufffd')) {
      yield text.slice(shown.length);
      shown = text;
    }
  }
  const rest = tokenizer.decode(written).slice(shown.length);
  if (rest !== '') {
    yield rest;
  }
}
