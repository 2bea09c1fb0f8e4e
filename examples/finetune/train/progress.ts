/** @file Progress bars on a terminal. Where the output is a file or a pipe, plain lines now and then. */
import {Presets, SingleBar} from 'cli-progress';
import {type Io, processIo} from '../io.js';

/** Least time between two plain lines, in milliseconds. */
const LINE_MS = 5000;

export interface TrainingStatus {
  /** Optimizer steps done. */
  step: number;
  loss: number;
  learningRate: number;
  tokensPerSecond: number;
  /** If it was measured after this step. */
  heldOutLoss?: number;
}

export interface TrainingBar {
  update: (status: TrainingStatus) => void;
  /** Shows how many TensorFlow functions are compiled. */
  compiling: (made: number, known: number) => void;
  stop: () => void;
}

/**
 * A bar over `steps` steps, with loss, learning rate, tokens/s and time left. The time left assumes this process's
 * average pace.
 *
 * @param done Steps done before, by the run that this one resumes.
 */
export function trainingBar(steps: number, done: number, io: Io = processIo): TrainingBar {
  const started = performance.now();
  const fields = ({step, loss, learningRate, tokensPerSecond}: TrainingStatus) => ({
    loss: loss.toFixed(4),
    rate: learningRate.toExponential(2),
    speed: tokensPerSecond.toFixed(0),
    left: formatSeconds(((performance.now() - started) / 1000 / Math.max(1, step - done)) * (steps - step)),
  });
  const heldOut = ({heldOutLoss: value}: TrainingStatus): string =>
    value === undefined ? '' : `  held-out loss ${value.toFixed(4)}`;
  const {terminal} = io;
  if (terminal === null) {
    return plainBar(steps, io, (status) => {
      const {loss, rate, speed, left} = fields(status);
      const line = `step ${status.step}/${steps}  loss ${loss}  learning rate ${rate}  ${speed} tokens/s  ${left} left`;
      return `${line}${heldOut(status)}`;
    });
  }
  const format =
    'step {value}/{total} [{bar}] loss {loss}  learning rate {rate}  {speed} tokens/s  {left} left{heldOut}{note}';
  const bar = new SingleBar({format, hideCursor: true, stream: terminal, barsize: 24}, Presets.shades_classic);
  bar.start(steps, done, {loss: '-', rate: '-', speed: '-', left: '-', heldOut: '', note: ''});
  return {
    update(status) {
      // The last one measured stays in sight.
      const measured = status.heldOutLoss === undefined ? {} : {heldOut: heldOut(status)};
      bar.update(status.step, {...fields(status), ...measured});
    },
    compiling: (made, known) => bar.update({note: made < known ? `  compiling functions: ${made} of ${known}` : ''}),
    stop: () => bar.stop(),
  };
}

function plainBar(steps: number, {say}: Io, line: (status: TrainingStatus) => string): TrainingBar {
  let last = -Infinity;
  let compiles = false;
  return {
    update(status) {
      const measured = status.heldOutLoss !== undefined;
      if (measured || status.step === steps || performance.now() - last >= LINE_MS) {
        last = performance.now();
        say(line(status));
      }
    },
    compiling() {
      if (!compiles) say('Compiling functions in the first steps, which take longer (--eager: not)');
      compiles = true;
    },
    stop() {},
  };
}

export interface DownloadBar {
  update: (bytes: number) => void;
  say: (text: string) => void;
  stop: () => void;
}

/** A bar over the bytes of a download. It appears with the first byte, so that a cached file shows no bar. */
export function downloadBar(what: string, total: number, {terminal, say}: Io = processIo): DownloadBar {
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  const format = `downloading ${what} [{bar}] {done} of ${megabytes(total)} MB`;
  // Leave cursor and line wrapping alone: Ctrl-C ends a download at once, and nothing would restore them.
  const options = {format, hideCursor: false, linewrap: true, stream: terminal ?? process.stdout, barsize: 24};
  const bar = new SingleBar(options, Presets.shades_classic);
  let started = false;
  return {
    update(bytes) {
      const payload = {done: megabytes(bytes)};
      if (!started && terminal !== null) {
        bar.start(total, bytes, payload);
      } else if (!started) {
        say(`downloading ${what}, ${megabytes(total)} MB`);
      }
      started = true;
      bar.update(Math.min(bytes, total), payload);
    },
    say,
    stop: () => bar.stop(),
  };
}

/**
 * @example formatSeconds(95) // '1m35s'
 * @example formatSeconds(7322) // '2h02m'
 */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (count: number): string => String(count).padStart(2, '0');
  if (whole < 60) {
    return `${whole}s`;
  }
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes}m${two(whole % 60)}s` : `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
}
