/** @file What processes tell the hub, and what it tells them: one JSON text a line. */
import type {Call} from './calls.js';

/** The call of a group on tensors, or on values of the host: each is counted on its own. */
export type Channel = 'tensors' | 'values';

/** A process announces a call. With a value, the hub answers with those of all members. */
export interface Announcement {
  group: string;
  channel: Channel;
  /** Which call of the group and channel it is. */
  sequence: number;
  call: Call;
  /** Whether the process does nothing else until all members have come. */
  blocks: boolean;
  value?: unknown;
}

/** How a process introduces itself. */
export interface Introduction {
  rank: number;
  size: number;
  /** Proves that it belongs to this run. */
  token: string;
  /** What all processes must have in common, such as the version. */
  about: string;
}

export type ToHub =
  ({kind: 'join'} & Introduction) | ({kind: 'call'} & Announcement) | {kind: 'error'; message: string} | {kind: 'beat'};

export type FromHub =
  | {kind: 'joined'}
  | {kind: 'values'; group: string; sequence: number; values: unknown[]}
  | {kind: 'fail'; message: string}
  | {kind: 'refuse'; message: string}
  | {kind: 'beat'};
