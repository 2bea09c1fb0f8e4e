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

const end = process.argv[2];
if (end !== 'finalize') {
  if (world.rank === 1 && end === 'killed') process.kill(process.pid, 'SIGKILL');
  // Asleep, while the thread of its control plane says that it lives.
  if (world.rank === 1 && end === 'late') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 15_000);
  const shape = world.rank === 1 && end === 'misfit' ? [2, 3] : [3, 2];
  // On GPUs the call is only queued.
  world.allReduce(tf.zeros(shape)).dataSync();
}
await Promise.all([world.finalize(), world.finalize()]);
await world.finalize();
console.log(JSON.stringify({name: 'finalize'}));
