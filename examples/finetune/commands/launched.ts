/** @file Processes that a launcher started (mpiexec, torchrun, srun) train together. */
import {init} from '../../../src/entries/distributed.js';
import {type Place, findPlace} from '../../../src/distributed/launcher.js';
import type {Io, Session} from '../io.js';
import {type Ranks, alone} from '../train/ranks.js';
import {openDevice} from './opening.js';
import type {TrainOptions} from './train_options.js';

/** Ranks, and how to leave them. */
export interface Joined {
  ranks: Ranks;
  /** All ranks call it, when they need each other no more. */
  leave: () => Promise<void>;
}

/** The place of this process among those of a launcher; null if it runs alone. */
export function placeAmongRanks(): Place | null {
  const place = findPlace(process.env);
  return place === null || place.size === 1 ? null : place;
}

/** Joins the other processes of the launcher. */
export async function joinRanks({backend}: TrainOptions, session: Session): Promise<Joined> {
  const place = placeAmongRanks();
  if (place === null) return {ranks: alone, leave: () => Promise.resolve()};
  if (backend !== 'auto' && backend !== 'tensorflow') {
    throw new Error(
      `--backend ${backend}: ${place.size} processes of ${place.launcher} can train together on tensorflow alone. Leave ` +
        'it out, or start one process.',
    );
  }
  await openDevice('tensorflow', session);
  const world = await init();
  return {ranks: world, leave: () => world.finalize()};
}

/** What a command of a rank may say: rank 0 speaks for all. */
export function ioOfRank(io: Io, rank: number): Io {
  if (rank === 0) return io;
  const nothing = (): void => {};
  return {write: nothing, say: nothing, warn: nothing, terminal: null, onStop: (listener) => io.onStop(listener)};
}

/** The lines of an error, with the rank that has it unless that is rank 0. */
export function ofRank(rank: number, text: string): string {
  return rank === 0 ? text : text.replace(/^/gm, `[rank ${rank}] `);
}
