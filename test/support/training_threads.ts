/** @file Threads that train together, each as a rank, on the backend cpu. Processes of a launcher would do the same. */
import {fileURLToPath} from 'node:url';
import {Worker} from 'node:worker_threads';
import {build} from 'esbuild';
import type {Ended, Training} from './rank_training.js';
import {sharedMemory} from './thread_ranks.js';

/** How a training ended on one rank. */
export interface EndedThread extends Ended {
  /** Its calls of the group, with the shapes of tensors. */
  calls: string[];
}

export interface ThreadData {
  memory: SharedArrayBuffer;
  rank: number;
  size: number;
}

const THREAD = new URL('training_thread.ts', import.meta.url);

/** The program of a thread: one script, because a thread has not the loader of TypeScript that its process has. */
async function program(): Promise<string> {
  const bundled = await build({
    entryPoints: [fileURLToPath(THREAD)],
    ...{bundle: true, write: false, platform: 'node', packages: 'external', format: 'cjs'},
    define: {'import.meta.url': JSON.stringify(THREAD.href)},
  });
  return bundled.outputFiles[0].text;
}

export class TrainingThreads {
  private constructor(private readonly threads: readonly Worker[]) {}

  static async start(size: number): Promise<TrainingThreads> {
    const [code, memory] = [await program(), sharedMemory(size)];
    const start = (_: unknown, rank: number): Worker => {
      const workerData: ThreadData = {memory, rank, size};
      return new Worker(code, {eval: true, workerData});
    };
    return new TrainingThreads(Array.from({length: size}, start));
  }

  /** How the ranks end. */
  train(training: Training): Promise<EndedThread[]> {
    const ends = this.threads.map(
      (thread) =>
        new Promise<EndedThread>((resolve, reject) => {
          thread.once('error', reject).once('message', (ended: EndedThread) => {
            thread.off('error', reject);
            resolve(ended);
          });
        }),
    );
    this.threads.forEach((thread) => {
      thread.postMessage(training);
    });
    return Promise.all(ends);
  }

  async end(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.terminate()));
  }
}
