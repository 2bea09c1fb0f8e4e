/** @file What a command touches of the process that it runs in: where it writes, how Ctrl-C reaches it, what it frees at its end. */

/** The process, as a command sees it. Tests give their own. */
export interface Io {
  /** Writes a text to standard output. */
  write: (text: string) => void;
  /** Writes a line to standard output. */
  say: (line: string) => void;
  /** Writes a line to standard error. */
  warn: (line: string) => void;
  /** The terminal that bars and colours are for; null where standard output is a file or a pipe. */
  terminal: NodeJS.WriteStream | null;
  /** Calls `listener` at the next Ctrl-C. The function returned takes that back. */
  onInterrupt: (listener: () => void) => () => void;
}

/** The real process. */
export const processIo: Io = {
  write: (text) => void process.stdout.write(text),
  say: (line) => console.log(line),
  warn: (line) => console.error(line),
  get terminal() {
    return process.stdout.isTTY ? process.stdout : null;
  },
  onInterrupt(listener) {
    process.once('SIGINT', listener);
    return () => void process.removeListener('SIGINT', listener);
  },
};

/** One command that runs. What it opens and allocates is freed at its end, whether it succeeds or fails. */
export class Session {
  private readonly undo: (() => unknown)[] = [];

  constructor(readonly io: Io) {}

  /** Calls `undo` at the end of the command, before those that were given earlier. */
  atEnd(undo: () => unknown): void {
    this.undo.push(undo);
  }

  async end(): Promise<void> {
    for (const undo of this.undo.splice(0).reverse()) {
      await undo();
    }
  }
}
