/** @file The processes that train one model together, as their training loops see them. */
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import {soloGroup} from '../../../src/distributed/solo_group.js';

/** A group of processes that also exchange values of the host. */
export interface Ranks extends ProcessGroup {
  /** Every member's value, a JSON value, in the order of ranks. NaN and infinities become null on the way. */
  exchange<T>(value: T): Promise<T[]>;
}

/** A process that trains by itself. */
export const alone: Ranks = {...soloGroup, exchange: (value) => Promise.resolve([value])};

/**
 * An error that every rank knows, so that one of them reports it. Errors that only one rank knows end the other ranks
 * too, with a message that names it.
 */
export class SharedError extends Error {}

/** How a piece of work ended on one rank. */
interface Outcome<T> {
  value?: T;
  error?: string;
}

/**
 * Every rank does `work`; returns all their results, JSON values, in the order of ranks. If a rank fails, all ranks
 * throw a `SharedError` with its message.
 */
export async function together<T>(ranks: Ranks, work: () => T | Promise<T>): Promise<T[]> {
  if (ranks.size === 1) return [await work()];
  let own: Outcome<T>;
  try {
    own = {value: await work()};
  } catch (error) {
    // The other ranks have it already.
    if (error instanceof SharedError) throw error;
    own = {error: error instanceof Error ? error.message : String(error)};
  }
  const outcomes = await ranks.exchange(own);
  const errors = outcomes.map(({error}) => error);
  if (errors.every((error) => error === undefined)) return outcomes.map(({value}) => value as T);
  throw new SharedError(messageOf(errors));
}

/** Every rank does `work`, rank 0 before all others: what it downloads, those of its machine find. */
export async function oneFirst<T>(ranks: Ranks, work: () => Promise<T>): Promise<T> {
  let own: Promise<T> | null = null;
  await together(ranks, async () => {
    if (ranks.rank === 0) await (own = work());
  });
  return own ?? work();
}

/** Each message once, with the ranks that have it unless rank 0 does, which speaks for all. */
function messageOf(errors: readonly (string | undefined)[]): string {
  const messages = new Set(errors.filter((error) => error !== undefined));
  return [...messages]
    .map((message) => {
      const having = [...errors.keys()].filter((rank) => errors[rank] === message);
      return having[0] === 0 ? message : `rank ${having.join()}: ${message}`;
    })
    .join('\n');
}

/**
 * Throws a `SharedError` on all ranks if their values are not equal.
 *
 * @param values By the names that the message uses; JSON values.
 * @param remedy The end of the message.
 */
export async function checkEqual(
  ranks: Ranks,
  values: Readonly<Record<string, unknown>>,
  remedy: string,
): Promise<void> {
  const all = await together(ranks, () => values);
  const text = (rank: number, name: string): string => JSON.stringify(all[rank][name]) ?? 'unset';
  for (const name of new Set(all.flatMap((each) => Object.keys(each)))) {
    const rank = all.findIndex((_, i) => text(i, name) !== text(0, name));
    if (rank === -1) continue;
    throw new SharedError(`${name} is ${text(0, name)} on rank 0 and ${text(rank, name)} on rank ${rank}. ${remedy}`);
  }
}
