/**
 * @file A group of threads in place of processes: collectives over shared memory, for tests of what is built on them.
 * Every call is a barrier, and a thread that does not come is an error of the others.
 */
import * as tf from '@tensorflow/tfjs';
import type {Ranks} from '../../examples/finetune/train/ranks.js';
import type {ProcessGroup} from '../../src/distributed/process_group.js';

/** Bytes of a thread's message. */
const ROOM = 2 ** 22;
const WAIT_MS = 120_000;
const HEADER = 16;

/** Memory for a group of `size` threads, and for as many parts of it. */
export function sharedMemory(size: number): SharedArrayBuffer {
  return new SharedArrayBuffer((1 + size) * bytesOf(size));
}

const bytesOf = (size: number): number => HEADER + size * (HEADER + ROOM);

/** The group as thread `rank` sees it, whose tensors are on the backend cpu. */
export function threadRanks(memory: SharedArrayBuffer, rank: number, size: number): Ranks & {calls: string[]} {
  return groupIn(memory, {rank, size, start: 0, calls: []});
}

/** A group with its memory from `start` on. All groups of a thread list their calls in one list. */
interface Place {
  rank: number;
  size: number;
  start: number;
  calls: string[];
}

function groupIn(memory: SharedArrayBuffer, {rank, size, start, calls}: Place): Ranks & {calls: string[]} {
  const counters = new Int32Array(memory, start, 2);
  const barrier = (): void => {
    const round = Atomics.load(counters, 1);
    if (Atomics.add(counters, 0, 1) === size - 1) {
      Atomics.store(counters, 0, 0);
      Atomics.add(counters, 1, 1);
      Atomics.notify(counters, 1);
    } else if (Atomics.wait(counters, 1, round, WAIT_MS) === 'timed-out') {
      throw new Error(`thread ${rank} waited in vain in ${calls.at(-1)}, call ${calls.length}`);
    }
  };
  /** What all threads give. They must call for the same. */
  const all = (call: string, own: Uint8Array): Uint8Array[] => {
    calls.push(call);
    const message = new TextEncoder().encode(call);
    const placeOf = (of: number): number => start + HEADER + of * (HEADER + ROOM);
    if (message.length + own.length > ROOM) throw new Error(`${call} of ${own.length} bytes is too large for a test`);
    new Int32Array(memory, placeOf(rank), 2).set([message.length, own.length]);
    new Uint8Array(memory, placeOf(rank) + HEADER).set([...message, ...own]);
    barrier();
    const given = Array.from({length: size}, (_, of) => {
      const [name, length] = new Int32Array(memory, placeOf(of), 2);
      const bytes = Uint8Array.from(new Uint8Array(memory, placeOf(of) + HEADER, name + length));
      return {call: new TextDecoder().decode(bytes.subarray(0, name)), bytes: bytes.slice(name)};
    });
    barrier();
    const other = given.find((each) => each.call !== call);
    if (other !== undefined) throw new Error(`thread ${rank} called ${call}, another ${other.call}`);
    return given.map(({bytes}) => bytes);
  };
  const tensors = (call: string, x: tf.Tensor): Float32Array[] =>
    all(`${call} [${x.shape.join()}]`, new Uint8Array(Float32Array.from(x.dataSync()).buffer)).map(
      (bytes) => new Float32Array(bytes.buffer),
    );
  const sum = (parts: readonly Float32Array[]): Float32Array =>
    parts[0].map((_, i) => parts.reduce((total, part) => total + part[i], 0));
  const unused = (): never => {
    throw new Error('training does not call this');
  };
  const allReduce = <T extends tf.Tensor>(x: T): T => {
    const run = tf.customGrad(() => ({
      value: tf.tensor(sum(tensors('allReduce', x)), x.shape) as tf.Tensor,
      gradFunc: (dy: tf.Tensor) => allReduce(dy),
    }));
    return run(x) as T;
  };
  const allToAll = <T extends tf.Tensor>(x: T, sends: readonly number[], receives: readonly number[]): T =>
    tf.customGrad(() => {
      const others = x.shape.slice(1);
      const row = tf.util.sizeFromShape(others);
      // Its counts, then its rows.
      const own = new Uint8Array(Float32Array.of(...sends, ...x.dataSync()).buffer);
      const parts = all('allToAll', own).map((bytes) => {
        const numbers = new Float32Array(bytes.buffer);
        const first = size + row * numbers.subarray(0, rank).reduce((a, b) => a + b, 0);
        return numbers.subarray(first, first + row * numbers[rank]);
      });
      const rows = receives.reduce((a, b) => a + b, 0);
      const value = tf.tensor(Float32Array.from(parts.flatMap((part) => [...part])), [rows, ...others]);
      if (parts.some((part, from) => part.length !== row * receives[from])) throw new Error('counts do not fit');
      return {value, gradFunc: (dy: tf.Tensor) => allToAll(dy, receives, sends)};
    })(x) as T;
  const split = (color: number): ProcessGroup => {
    const colors = all('split', Uint8Array.of(color)).map(([of]) => of);
    const members = [...colors.keys()].filter((of) => colors[of] === color);
    const place = {rank: members.indexOf(rank), size: members.length, start: (1 + color) * bytesOf(size), calls};
    return groupIn(memory, place);
  };
  return {
    ...{rank, size, calls, barrier: unused},
    ...{broadcast: unused, sendReceive: unused},
    allReduce,
    allToAll,
    split,
    allGather: <T extends tf.Tensor>(x: T): T =>
      tf.tensor(Float32Array.from(tensors('allGather', x).flatMap((part) => [...part])), [
        size * x.shape[0],
        ...x.shape.slice(1),
      ]) as T,
    reduceScatter: <T extends tf.Tensor>(x: T): T => {
      const piece = x.size / size;
      const own = sum(tensors('reduceScatter', x)).slice(rank * piece, (rank + 1) * piece);
      return tf.tensor(own, [x.shape[0] / size, ...x.shape.slice(1)]) as T;
    },
    exchange: <T>(value: T): Promise<T[]> => {
      const texts = all('exchange', new TextEncoder().encode(JSON.stringify([value])));
      return Promise.resolve(texts.map((text) => (JSON.parse(new TextDecoder().decode(text)) as [T])[0]));
    },
  };
}
