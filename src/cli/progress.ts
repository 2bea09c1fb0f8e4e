/** @file Shows how far a download or an unpacking is: a bar in a terminal, else one line at its start. */
import cliProgress from 'cli-progress';
import {formatBytes} from './platform.js';

/** The console to which a command reports its work. */
export interface Console {
  /** One line on standard error. */
  say: (line: string) => void;
  /** Starts to show a task of `total` bytes, or of an unknown number. */
  start(task: string, total?: number): Progress;
}

export interface Progress {
  /** Sets the bytes done so far and, once it is known, the total. */
  update(done: number, total?: number): void;
  stop(): void;
}

const FORMAT = '{task} [{bar}] {done} of {all}';

function startBar(task: string, total: number): Progress {
  const bar = new cliProgress.SingleBar(
    {format: FORMAT, clearOnComplete: false, hideCursor: false, barsize: 24, stream: process.stderr},
    cliProgress.Presets.shades_classic,
  );
  let done = 0;
  const payload = (all: number) => ({task, done: formatBytes(done), all: all ? formatBytes(all) : '?'});
  bar.start(total || 1, 0, payload(total));
  return {
    update(bytes, all = total) {
      done = bytes;
      total = all;
      bar.setTotal(Math.max(total, done, 1));
      bar.update(total ? done : 0, payload(total));
    },
    stop() {
      bar.stop();
    },
  };
}

/** A console without a terminal, which prints one line when a task starts. */
export function plainConsole(say: Console['say']): Console {
  return {
    say,
    start(task, total = 0) {
      say(`${task}${total ? ` (${formatBytes(total)})` : ''} ...`);
      return {update: () => undefined, stop: () => undefined};
    },
  };
}

const plain = plainConsole((line) => {
  console.error(line);
});

/** The real console, on standard error. */
export const terminal: Console = {
  say: plain.say,
  start: (task, total = 0) => (process.stderr.isTTY ? startBar(task, total) : plain.start(task, total)),
};
