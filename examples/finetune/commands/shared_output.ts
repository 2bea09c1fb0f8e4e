/** @file The output folder of several ranks: rank 0 writes it, and the others must see what it writes. */
import {setTimeout as sleep} from 'node:timers/promises';
import type {Session} from '../io.js';
import {type OutputFolder, lockText} from '../train/output_folder.js';
import {type Ranks, together} from '../train/ranks.js';
import {openOutput} from './opening.js';

/** How long a new file may be unseen on another machine, in milliseconds: network folders are cached. */
const SEEN_MS = 10_000;
const POLL_MS = 200;

interface SharedOutputOptions {
  /** The folder, if this rank has it already. */
  opened?: OutputFolder | null;
  /** How long other ranks wait for what rank 0 writes, in milliseconds. */
  patience?: number;
}

/** Opens the folder on rank 0; null on other ranks, where it must be the same folder. */
export async function openSharedOutput(
  path: string,
  session: Session,
  ranks: Ranks,
  {opened, patience = SEEN_MS}: SharedOutputOptions = {},
): Promise<OutputFolder | null> {
  if (ranks.size === 1) return opened ?? openOutput(path, session);
  let output: OutputFolder | null = null;
  const [lock] = await together(ranks, () => {
    if (ranks.rank !== 0) return null;
    output = opened ?? openOutput(path, session);
    return lockText(path);
  });
  await together(ranks, async () => {
    for (let waited = 0; lockText(path) !== lock; waited += POLL_MS) {
      if (waited >= patience) {
        throw new Error(`--output: ${path} must be one folder of all ranks, got another than rank 0 has. ${REMEDY}`);
      }
      await sleep(POLL_MS);
    }
  });
  return output;
}

const REMEDY = 'Give a folder that all machines share, by its whole path.';
