/**
 * @file What rank 0 knows of all processes: which calls of groups they have started. It finds calls that do not fit,
 * processes that ended, that do not come or that wait for each other, and tells all of them. No sockets, no clock.
 */
import {type Call, brokenRule, describeCall} from './calls.js';
import type {Announcement, FromHub} from './messages.js';

/** The group of all processes. */
export const WORLD = '0';

/** The name of a part of a group: which call split it, and the part's color. */
export const partName = (group: string, sequence: number, color: number): string => `${group}.${sequence}:${color}`;

/** A call that some members have started, and not all. */
interface Pending {
  group: string;
  sequence: number;
  members: readonly number[];
  /** By rank in the world. */
  calls: Map<number, Announcement>;
  since: number;
}

export interface HubOptions {
  size: number;
  /** Milliseconds that members wait for others in a call. */
  timeout: number;
  /** Milliseconds of a clock that goes on. */
  now: () => number;
  send: (rank: number, message: FromHub) => void;
}

export class Hub {
  private readonly groups = new Map<string, readonly number[]>();
  private readonly pending = new Map<string, Pending>();
  /** The last call of each rank. */
  private readonly last = new Map<number, Announcement>();
  private failure: string | null = null;
  /** Whether all have called finalize(). */
  private over = false;

  constructor(private readonly options: HubOptions) {
    this.groups.set(
      WORLD,
      Array.from({length: options.size}, (_, rank) => rank),
    );
  }

  /** A process starts a call. */
  announce(rank: number, announcement: Announcement): void {
    if (this.failure !== null) return;
    const {group, channel, sequence, call} = announcement;
    this.last.set(rank, announcement);
    const key = `${group} ${channel} ${sequence}`;
    const members = this.groups.get(group)!;
    const started = {group, sequence, members, calls: new Map<number, Announcement>(), since: this.options.now()};
    const entry = this.pending.get(key) ?? started;
    this.pending.set(key, entry);
    for (const [other, {call: others}] of entry.calls) {
      const rule = brokenRule(others, members.indexOf(other), call, members.indexOf(rank));
      if (rule === null) continue;
      const got = `${describeCall(others)} of rank ${other} and ${describeCall(call)} of rank ${rank}`;
      this.fail(`${call.kind}: ${rule}, got ${got} (${placeOf(entry)}). ${SAME}`);
      return;
    }
    entry.calls.set(rank, announcement);
    if (entry.calls.size === members.length) this.complete(key, entry);
    else this.findCircle(rank);
  }

  /** The connection to a process is gone. */
  lost(rank: number, why: string): void {
    if (this.over) return;
    const last = this.last.get(rank);
    const waiting = [...this.pending.values()].find(({calls}) => !calls.has(rank));
    const what = waiting ? `, while ${waitersOf(waiting)}` : '';
    const before = last ? ` Its last call was ${describeCall(last.call)}.` : '';
    this.fail(
      `rank ${rank} must run until all have called finalize(), got ${why}${what}.${before} See what it printed.`,
    );
  }

  /** A process ends by an error, or gives up. */
  failed(rank: number, message: string): void {
    this.fail(`rank ${rank} must run until all have called finalize(), got an error: ${message}`);
  }

  /** Looks for calls that wait too long. */
  tick(): void {
    for (const entry of this.pending.values()) {
      if (this.options.now() - entry.since > this.options.timeout) {
        this.tooLate(entry);
        return;
      }
    }
  }

  /** Tells all processes of a failure. The first one counts. */
  fail(message: string): void {
    if (this.failure !== null || this.over) return;
    this.failure = message;
    for (let rank = 0; rank < this.options.size; rank++) this.options.send(rank, {kind: 'fail', message});
  }

  private complete(key: string, {group, sequence, members, calls}: Pending): void {
    this.pending.delete(key);
    const first = calls.get(members[0])!;
    if (first.channel === 'tensors') return;
    const values = members.map((rank) => calls.get(rank)!.value);
    if (first.call.kind === 'split') this.addParts(group, sequence, members, values as number[]);
    if (first.call.kind === 'finalize') this.over = true;
    for (const rank of members) this.options.send(rank, {kind: 'values', group, sequence, values});
  }

  private addParts(group: string, sequence: number, members: readonly number[], colors: readonly number[]): void {
    for (const color of new Set(colors)) {
      this.groups.set(
        partName(group, sequence, color),
        members.filter((_, i) => colors[i] === color),
      );
    }
  }

  private tooLate(entry: Pending): void {
    const missing = missingIn(entry);
    const seconds = this.options.timeout / 1000;
    const last = missing.map((rank) => {
      const call = this.last.get(rank)?.call;
      return `Rank ${rank}'s last call was ${call ? describeCall(call) : 'none'}.`;
    });
    const [{call}] = entry.calls.values();
    this.fail(
      `${call.kind}: every member must come within ${seconds} s, got nothing of ${ranksText(missing)}, while ` +
        `${waitersOf(entry)}. ${last.join(' ')} See what it does; or raise the option timeout of init.`,
    );
  }

  /**
   * Finds processes that wait for each other. What a process announced last is where it waits: it can only have gone on
   * if those that it waits for have come, and in a circle none of them can.
   */
  private findCircle(start: number): void {
    const path: number[] = [];
    const visit = (rank: number): number[] | null => {
      if (path.includes(rank)) return path.slice(path.indexOf(rank));
      const at = this.waitsIn(rank);
      if (!at) return null;
      path.push(rank);
      for (const next of missingIn(at)) {
        const circle = visit(next);
        if (circle) return circle;
      }
      path.pop();
      return null;
    };
    const circle = visit(start);
    if (!circle) return;
    const calls = circle.map((rank) => {
      const entry = this.waitsIn(rank)!;
      return `rank ${rank} in ${describeCall(entry.calls.get(rank)!.call)} (${placeOf(entry)})`;
    });
    const rule = 'all members must make their calls in the same order';
    this.fail(
      `${this.last.get(start)!.call.kind}: ${rule}, got ${calls.join(' and ')}, which wait for each other. ${SAME}`,
    );
  }

  /** The call in which a process waits, if others are missing in it. */
  private waitsIn(rank: number): Pending | undefined {
    const last = this.last.get(rank);
    return last?.blocks ? this.pending.get(`${last.group} ${last.channel} ${last.sequence}`) : undefined;
  }
}

const SAME = 'Make the same calls in the same order on every rank.';

const missingIn = ({members, calls}: Pending): number[] => members.filter((rank) => !calls.has(rank));

const ranksText = (ranks: readonly number[]): string => `rank${ranks.length > 1 ? 's' : ''} ${ranks.join(', ')}`;

/** "call 3 of the group of ranks 0, 1". */
function placeOf({group, sequence, members}: Pending): string {
  return `call ${sequence} of ${group === WORLD ? 'all ranks' : `the group of ${ranksText(members)}`}`;
}

/** "ranks 0, 1 wait in allReduce of [2, 3] (call 3 of all ranks)". */
function waitersOf(entry: Pending): string {
  const ranks = [...entry.calls.keys()].sort((a, b) => a - b);
  const call: Call = entry.calls.get(ranks[0])!.call;
  return `${ranksText(ranks)} wait${ranks.length > 1 ? '' : 's'} in ${describeCall(call)} (${placeOf(entry)})`;
}
