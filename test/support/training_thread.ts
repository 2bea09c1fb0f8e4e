/** @file The thread of `training_threads.ts`: one rank of several, on the backend cpu. */
import {parentPort, workerData} from 'node:worker_threads';
import {type Training, trainAsRank} from './rank_training.js';
import {threadRanks} from './thread_ranks.js';
import type {ThreadData} from './training_threads.js';

const {memory, rank, size} = workerData as ThreadData;

parentPort!.on('message', (training: Training) => {
  const ranks = threadRanks(memory, rank, size);
  void trainAsRank(ranks, training).then((ended) => {
    parentPort!.postMessage({...ended, calls: ranks.calls});
  });
});
