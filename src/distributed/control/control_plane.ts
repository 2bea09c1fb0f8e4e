/**
 * @file The control plane as the main thread sees it: processes join it, exchange small values, and hear of failures.
 * Its work is done by a thread (worker.ts).
 */
import {extname} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {MessageChannel, type MessagePort, Worker, receiveMessageOnPort} from 'node:worker_threads';
import type {Call} from './calls.js';
import type {Endpoint} from './client.js';
import type {Introduction} from './messages.js';
import type {Order, Report, WorkerData} from './worker.js';

export interface ControlOptions {
  introduction: Introduction;
  /** Milliseconds for joining, and for members that wait in a call. */
  timeout: number;
  addon: string | null;
  /** Whether calls on tensors end only when all have come, as those of MPI do. */
  blocks: boolean;
}

/** The values of all members, by rank, and which exchange of the group it was. */
export interface Exchanged {
  values: unknown[];
  sequence: number;
}

type Listening = Report & {kind: 'listening'};

interface Waiting {
  resolve: (report: Report) => void;
  reject: (error: Error) => void;
}

/** In this repository the code is TypeScript, which the thread must first learn to load. */
const EXTENSION = extname(import.meta.url);
const LEARN = EXTENSION === '.ts' ? "require('node:module').register('tsx/esm', {parentURL: code, data: {}});" : '';
const START = `const {code} = require('node:worker_threads').workerData; ${LEARN} import(code);`;
/** How long a process that ends by an error waits until the others can know it. */
const LAST_WORDS_MS = 5000;
/** How much longer than the hub a thread waits. */
const GRACE_MS = 60_000;
/** The longest wait for the end of connections. */
const CLOSE_MS = 2000;

export class ControlPlane {
  private readonly worker: Worker;
  private readonly port: MessagePort;
  private readonly word = new Int32Array(new SharedArrayBuffer(4));
  private readonly waiting = new Map<string, Waiting>();
  private readonly sequences = new Map<string, number>();
  private failure: string | null = null;
  private readonly onError = (error: unknown): void => this.tellError(error);

  private constructor(
    private readonly options: ControlOptions,
    listens: WorkerData['listens'],
  ) {
    const {port1, port2} = new MessageChannel();
    this.port = port1;
    const code = new URL(`./worker${EXTENSION}`, import.meta.url).href;
    const workerData: WorkerData & {code: string} = {...options, listens, port: port2, word: this.word, code};
    this.worker = new Worker(START, {eval: true, workerData, transferList: [port2]});
    this.worker.on('message', (report: Report) => this.hear(report));
    this.worker.on('error', (error) => this.fail(`the control plane must run, got an error: ${String(error)}`));
    process.on('uncaughtExceptionMonitor', this.onError);
  }

  /** Rank 0: listens. `tell` makes known where. Resolves when all have joined. */
  static async listen(
    options: ControlOptions,
    listens: {port: number; loopback: boolean},
    tell: (port: number) => void,
  ): Promise<ControlPlane> {
    const control = new ControlPlane(options, listens);
    return control.started(async () => {
      const told = control.expect('listening').then((report) => tell((report as Listening).port));
      await Promise.all([told, control.expect('joined')]);
    });
  }

  /** The others: join rank 0. */
  static async join(options: ControlOptions, where: Endpoint | {file: string}): Promise<ControlPlane> {
    const control = new ControlPlane(options, null);
    return control.started(async () => {
      control.order({kind: 'join', where});
      await control.expect('joined');
    });
  }

  /** A value of each member of a group. All call it in the same order. */
  async exchange(group: string, call: Call, value: unknown): Promise<Exchanged> {
    const announcement = this.announcement(group, call, value, false);
    const {sequence} = announcement;
    const report = this.expect(`${group} ${sequence}`);
    this.order({kind: 'exchange', announcement, waits: false});
    return {values: ((await report) as Report & {kind: 'values'}).values, sequence};
  }

  /** The same, while this thread waits. */
  exchangeSync(group: string, call: Call, value: unknown): Exchanged {
    const announcement = this.announcement(group, call, value, true);
    // The hub ends it earlier, if the thread runs.
    const report = this.await({kind: 'exchange', announcement, waits: true}, this.options.timeout + GRACE_MS);
    if (report?.kind === 'values') return {values: report.values, sequence: announcement.sequence};
    throw new Error(report?.kind === 'failed' ? report.message : 'the control plane must answer, got nothing.');
  }

  /** Ends the connection, after what was sent. */
  async close(): Promise<void> {
    process.off('uncaughtExceptionMonitor', this.onError);
    this.worker.ref();
    const ended = new Promise((resolve) => this.worker.once('exit', resolve));
    this.order({kind: 'end'});
    this.port.close();
    await Promise.race([ended, setTimeout(CLOSE_MS, undefined, {ref: false})]);
    await this.worker.terminate();
  }

  /** Waits until all have joined; from then on the process may end though the thread runs. */
  private async started(join: () => Promise<void>): Promise<this> {
    try {
      await join();
    } catch (error) {
      await this.close();
      throw error;
    }
    this.worker.unref();
    return this;
  }

  private announcement(group: string, call: Call, value: unknown, blocks: boolean) {
    if (this.failure !== null) throw new Error(this.failure);
    const sequence = (this.sequences.get(group) ?? 0) + 1;
    this.sequences.set(group, sequence);
    return {group, channel: 'values' as const, sequence, call, value, blocks};
  }

  private order(order: Order): void {
    this.worker.postMessage(order);
  }

  private await(order: Order, milliseconds: number): Report | undefined {
    Atomics.store(this.word, 0, 0);
    this.order(order);
    Atomics.wait(this.word, 0, 0, milliseconds);
    const received = receiveMessageOnPort(this.port) as {message: Report} | undefined;
    return received?.message;
  }

  private expect(id: string): Promise<Report> {
    return new Promise((resolve, reject) => {
      if (this.failure !== null) reject(new Error(this.failure));
      // A process that waits must not end.
      this.worker.ref();
      this.waiting.set(id, {resolve, reject});
    });
  }

  private hear(report: Report): void {
    if (report.kind === 'failed') {
      this.fail(report.message);
      return;
    }
    const id = report.kind === 'values' ? report.id : report.kind;
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (this.waiting.size === 0) this.worker.unref();
    waiting?.resolve(report);
  }

  private fail(message: string): void {
    this.failure ??= message;
    for (const {reject} of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
    this.worker.unref();
  }

  /** This process ends by an error: the others hear which. */
  private tellError(error: unknown): void {
    if (this.failure !== null) return;
    const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    this.await({kind: 'error', message}, LAST_WORDS_MS);
  }
}
