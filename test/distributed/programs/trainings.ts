/**
 * @file Trains several times as one rank of a launcher, without the start of processes between. Arguments: a list of
 * trainings as JSON; those with `alone` run on rank 0 by itself. Prints how each ended as a line of JSON.
 */
import {init} from '../../../src/entries/distributed.js';
import {startDevice} from '../../../examples/finetune/device.js';
import {alone} from '../../../examples/finetune/train/ranks.js';
import {type Training, trainAsRank} from '../../support/rank_training.js';

await startDevice('tensorflow');
const world = await init();
for (const training of JSON.parse(process.argv[2]) as (Training & {alone?: boolean})[]) {
  if (training.alone && world.rank > 0) continue;
  console.log(JSON.stringify(await trainAsRank(training.alone ? alone : world, training)));
}
await world.finalize();
