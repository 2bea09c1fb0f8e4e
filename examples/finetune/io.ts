/** @file The part of its process that a command uses: output, wishes to stop, and what to free at its end. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Why a command should stop: Ctrl-C and the other signals that ask for it, or nobody reads its output any more. */
export type StopReason = (typeof SIGNALS)[number] | 'closed output';

/** The customary exit codes of a stopped command. */
export const EXIT_CODES: Readonly<Record<StopReason, number>> = {
  ...{SIGINT: 130, SIGTERM: 143, SIGHUP: 129},
  'closed output': 141,
};

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
  /** Calls `listener` once, at the next wish to stop. The returned function cancels that. */
  onStop: (listener: (reason: StopReason) => void) => () => void;
}

/** A process group and npm both pass a signal on. Only a repetition that comes later is a second wish. */
const REPEATED_MS = 500;

const outputListeners = new Set<() => void>();
let firstReason: StopReason | null = null;

/** Calls `listener` at the first wish to stop. A signal after that ends the process at once. */
function onStop(listener: (reason: StopReason) => void): () => void {
  let since: number | null = null;
  const stop = (reason: StopReason): void => {
    firstReason ??= reason;
    if (since === null) {
      since = performance.now();
      listener(reason);
    } else if (reason !== 'closed output' && performance.now() - since > REPEATED_MS) {
      cancel();
      process.kill(process.pid, reason);
    }
  };
  const onClosed = (): void => stop('closed output');
  const signals = SIGNALS.map((signal) => ({signal, onSignal: () => stop(signal)}));
  const cancel = (): void => {
    signals.forEach(({signal, onSignal}) => process.removeListener(signal, onSignal));
    outputListeners.delete(onClosed);
  };
  signals.forEach(({signal, onSignal}) => process.on(signal, onSignal));
  outputListeners.add(onClosed);
  return cancel;
}

/**
 * Turns an output that nobody reads any more, as after `| head -1` or in a closed terminal, into a wish to stop. A
 * command that does not listen ends at once. Without this call Node would end any command, with a stack.
 */
export function watchOutput(): void {
  process.stdout.on('error', () => {
    // A command that was told to stop is about to end.
    if (outputListeners.size === 0 && firstReason === null) process.exit(EXIT_CODES['closed output']);
    [...outputListeners].forEach((listener) => listener());
  });
  process.stderr.on('error', () => {});
}

/** The real process. */
export const processIo: Io = {
  write: (text) => void process.stdout.write(text),
  say: (line) => console.log(line),
  warn: (line) => console.error(line),
  get terminal() {
    return process.stdout.isTTY ? process.stdout : null;
  },
  onStop,
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
