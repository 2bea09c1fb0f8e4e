/** @file Processes that a launcher started (torchrun, mpiexec, srun) train together. */
import type {Session} from '../io.js';
import {type Ranks, alone} from '../train/ranks.js';
import type {TrainOptions} from './train_options.js';

/** Ranks, and how to leave them. */
export interface Joined {
  ranks: Ranks;
  leave: () => Promise<void>;
}

export async function joinRanks(_options: TrainOptions, _session: Session): Promise<Joined> {
  return Promise.resolve({ranks: alone, leave: () => Promise.resolve()});
}
