/** @file What the page and its worker tell each other. */
import type {Failed} from '../shell/worker_messages.js';

/** What to train. */
export interface Order {
  backend: 'webgpu' | 'cpu';
  /** Whether a CPU computes for WebGPU. */
  software: boolean;
  steps: number;
  rowTokens: number;
  /** Rows of a step. */
  rows: number;
  learningRate: number;
  /** Whether a twin with dense attention does the same steps. */
  dense: boolean;
  /** The model continues it, before and after the training. */
  prompt: string;
  /** Tokens that it writes. */
  words: number;
}

/** One step of one model. */
export interface Side {
  loss: number;
  milliseconds: number;
  /** Peak of the step beyond what the model holds; in one step only, for counting takes time. */
  bytes?: number;
}

export type Answer =
  | {type: 'status'; text: string}
  | {type: 'step'; step: number; tokens: number; lengths: number[]; flash: Side; dense: Side | null}
  | {type: 'text'; when: 'before' | 'after'; piece: string}
  | {type: 'done'}
  | Failed;
