/**
 * @file Runs the checks in one of several processes, and prints how each ended, a line of JSON each. Then the group
 * ends in the way that the argument names.
 */
import {init} from '../../../src/entries/distributed.js';
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-node';
import {checks} from '../checks.js';

const world = await init();
for (const [name, check] of Object.entries(checks)) {
  let error: string | undefined;
  try {
    await check(world);
  } catch (thrown) {
    error = (thrown as Error).stack;
  }
  console.log(JSON.stringify({name, error}));
}

if (process.argv[2] === 'killed') {
  if (world.rank === 1) process.kill(process.pid, 'SIGKILL');
  world.allReduce(tf.zeros([3, 2]));
}
await Promise.all([world.finalize(), world.finalize()]);
await world.finalize();
console.log(JSON.stringify({name: 'finalize'}));
