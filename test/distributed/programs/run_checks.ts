/**
 * @file Runs the checks in one of several processes, and prints how each ended, a line of JSON each. Then the group
 * ends in the way that the first argument names; a second argument leaves the checks out.
 */
import {init} from '../../../src/entries/distributed.js';
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-node';
import {checks} from '../checks.js';

const world = await init();
const [, , end, without] = process.argv;
for (const [name, check] of without ? [] : Object.entries(checks)) {
  let error: string | undefined;
  try {
    await check(world);
  } catch (thrown) {
    error = (thrown as Error).stack;
  }
  console.log(JSON.stringify({name, error}));
}

/** How the last call of rank 1 differs. */
const ends: Record<string, () => unknown> = {
  finalize: () => undefined,
  'another shape': () => world.allReduce(tf.zeros([2, 3])),
  killed: () => process.kill(process.pid, 'SIGKILL'),
};
if (world.rank === 1) ends[end]();
if (end !== 'finalize') world.allReduce(tf.zeros([3, 2]));
await Promise.all([world.finalize(), world.finalize()]);
await world.finalize();
console.log(JSON.stringify({name: 'finalize'}));
