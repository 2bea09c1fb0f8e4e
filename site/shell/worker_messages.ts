/** @file The two ends of a worker's messages. Each page has the types of its own orders and answers. */

/** What any worker may answer. */
export interface Failed {
  type: 'failed';
  message: string;
}

/** In a worker: answers the page. */
export function post(message: object): void {
  (globalThis as unknown as {postMessage: (message: object) => void}).postMessage(message);
}

/** In a worker: calls `work` with each order of the page; an error becomes an answer. */
export function onOrder(work: (order: never) => Promise<void>): void {
  addEventListener('message', ({data}: MessageEvent) => {
    work(data as never).catch((error: unknown) => {
      post({type: 'failed', message: error instanceof Error ? error.message : String(error)} satisfies Failed);
    });
  });
}

/** In the page: calls `hear` with each answer, also where the worker does not start. */
export function onAnswer(worker: Worker, hear: (answer: never) => void): void {
  worker.addEventListener('message', ({data}: MessageEvent) => {
    hear(data as never);
  });
  worker.addEventListener('error', ({message}) => {
    const failed: Failed = {type: 'failed', message: message || 'The worker did not start.'};
    hear(failed as never);
  });
}
