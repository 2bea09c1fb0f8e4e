/** @file The part of its process that a command uses: output, Ctrl-C, and what to free at its end. */

/** The process, as a command sees it. Tests pass their own. */
export interface Io {
  /** Writes a text to standard output. */
  write: (text: string) => void;
  /** Writes a line to standard output. */
  say: (line: string) => void;
  /** Writes a line to standard error. */
  warn: (line: string) => void;
  /** The terminal for bars and colours. Null where standard output is a file or a pipe. */
  terminal: NodeJS.WriteStream | null;
  /** Calls `listener` at the next Ctrl-C. The returned function cancels that. */
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

/** One running command. What it opens and allocates is freed at its end, whether it succeeds or fails. */
export class Session {
  private readonly undo: (() => unknown)[] = [];

  constructor(readonly io: Io) {}

  /** Registers `undo` to run at the end of the command, in reverse order of registration. */
  atEnd(undo: () => unknown): void {
    this.undo.push(undo);
  }

  async end(): Promise<void> {
    for (const undo of this.undo.splice(0).reverse()) {
      await undo();
    }
  }
}
