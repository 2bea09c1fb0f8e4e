/**
 * @file The thread of the control plane. The main thread is often in a call that waits for others; this one hears what
 * happens meanwhile: it announces the calls of this process, and ends them if others fail.
 */
import {createRequire} from 'node:module';
import {type MessagePort, parentPort, workerData} from 'node:worker_threads';
import {type ClientOptions, join} from './client.js';
import type {Announcement, FromHub, Introduction, ToHub} from './messages.js';
import {Server} from './server.js';
import type {GroupAddon} from '../addon.js';

/** What the main thread asks for. */
export type Order =
  | {kind: 'join'; where: ClientOptions['where']}
  | {kind: 'exchange'; announcement: Announcement; waits: boolean}
  | {kind: 'error'; message: string}
  | {kind: 'end'};

/** What it gets. */
export type Report =
  | {kind: 'listening'; port: number}
  | {kind: 'joined'}
  | {kind: 'values'; id: string; values: unknown[]}
  | {kind: 'failed'; message: string}
  | {kind: 'told'};

/** What the thread is started with. */
export interface WorkerData {
  introduction: Introduction;
  /** Milliseconds. */
  timeout: number;
  /** Of rank 0: where it listens. */
  listens: {port: number; loopback: boolean} | null;
  /** The addon's file; null for none. */
  addon: string | null;
  /** Whether calls on tensors end only when all have come. */
  blocks: boolean;
  /** For a main thread that waits: the answer, and the word that it is there. */
  port: MessagePort;
  word: Int32Array;
}

/** Names the answer to an exchange. */
export const exchangeId = ({group, sequence}: {group: string; sequence: number}): string => `${group} ${sequence}`;

/** How often NCCL is asked for errors. */
const CHECK_MS = 1000;

const data = workerData as WorkerData;
const {introduction, timeout} = data;
const addon = data.addon === null ? null : (createRequire(import.meta.url)(data.addon) as GroupAddon);

let tellHub: (message: ToHub) => void = () => undefined;
let end: () => void = () => undefined;
/** The exchange for which the main thread waits. */
let awaited: string | null = null;
let failure: string | null = null;
/** The exchange by which all end, and whether they have. */
let last: string | null = null;
let over = false;

const report = (content: Report): void => parentPort!.postMessage(content);

/** Wakes the main thread. */
function answer(content: Report): void {
  awaited = null;
  data.port.postMessage(content);
  Atomics.store(data.word, 0, 1);
  Atomics.notify(data.word, 0);
}

function fail(message: string): void {
  if (failure !== null) return;
  failure = message;
  addon?.fail(message);
  if (awaited !== null) answer({kind: 'failed', message});
  report({kind: 'failed', message});
}

function receive(message: FromHub): void {
  if (message.kind === 'joined') report({kind: 'joined'});
  if (message.kind === 'fail') fail(message.message);
  if (message.kind !== 'values') return;
  const id = exchangeId(message);
  over = id === last;
  const values: Report = {kind: 'values', id, values: message.values};
  if (awaited === id) answer(values);
  else report(values);
}

async function start(where: ClientOptions['where']): Promise<void> {
  const closed = (why: string): void => {
    if (!over) fail(`rank 0 must run until all have called finalize(), got ${why}. See what it printed.`);
  };
  const lines = await join({introduction, where, timeout, receive, closed});
  tellHub = (message) => lines.send(message);
  end = () => lines.end();
  report({kind: 'joined'});
}

async function listen({port, loopback}: {port: number; loopback: boolean}): Promise<void> {
  const server = new Server({introduction, timeout, port, loopback, receive});
  tellHub = (message) => server.tell(0, message);
  end = () => server.end();
  report({kind: 'listening', port: await server.listen()});
}

const orFail = (work: Promise<void>): void =>
  void work.catch((error: unknown) => fail(error instanceof Error ? error.message : String(error)));

parentPort!.on('message', (order: Order) => {
  switch (order.kind) {
    case 'join':
      orFail(start(order.where));
      break;
    case 'exchange':
      if (order.waits) awaited = exchangeId(order.announcement);
      if (order.announcement.call.kind === 'finalize') last = exchangeId(order.announcement);
      if (failure === null) tellHub({kind: 'call', ...order.announcement});
      else if (order.waits) answer({kind: 'failed', message: failure});
      break;
    case 'error':
      tellHub({kind: 'error', message: order.message});
      // The process ends next: what was written must have left it.
      setImmediate(() => answer({kind: 'told'}));
      break;
    case 'end':
      // The thread ends when the connections have.
      end();
      parentPort!.close();
  }
});

addon?.onCall((text) => {
  const {group, sequence, call} = JSON.parse(text) as Announcement;
  tellHub({kind: 'call', group, sequence, call, channel: 'tensors', blocks: data.blocks});
});

// Calls on a GPU are over for the host when they are queued; NCCL notices later what fails.
if (addon !== null && !data.blocks) {
  const timer = setInterval(() => {
    const error = addon.deviceError();
    if (error !== null) tellHub({kind: 'error', message: error});
    if (error !== null || over) clearInterval(timer);
  }, CHECK_MS).unref();
}

if (data.listens) orFail(listen(data.listens));
