/** @file Process groups on the ops of the addon (native/tensorflow/collectives.cc), with their gradients. */
import {
  type Tensor,
  customGrad,
  engine,
  getBackend,
  mul,
  reshape,
  scalar,
  slice,
  tidy,
  zerosLike,
} from '@tensorflow/tfjs-core';
import {describe, fail} from '../call/errors.js';
import {isTensor} from '../call/values.js';
import {COLLECTIVES} from '../backends/tensorflow/collectives.js';
import type {Attribute, Backend} from '../backends/tensorflow/kernel.js';
import {statusOf} from '../backends/tensorflow/status.js';
import {isRecording} from '../backends/tensorflow/traced/recorder.js';
import type {GroupAddon} from './addon.js';
import type {ControlPlane} from './control/control_plane.js';
import {partName} from './control/hub.js';
import type {Partners, ProcessGroup, Reduction} from './process_group.js';
import {soloGroup} from './solo_group.js';

/** What all groups of a process share. */
export interface Connection {
  addon: GroupAddon;
  control: ControlPlane;
  /** Whether tensors are on a GPU, and groups on NCCL. */
  gpu: boolean;
}

type Kind = keyof typeof COLLECTIVES;

/** The members of the binding that make functions, if setup-node built it. */
interface FunctionBinding {
  waitForFunctions?(): void;
}

let nextId = 0;

/** Waits for functions that run on another thread: they may have calls of groups in them, which come first. */
export function waitForFunctions(): void {
  const {binding} = engine().backend as unknown as {binding?: FunctionBinding};
  binding?.waitForFunctions?.();
}

export class NativeGroup implements ProcessGroup {
  private readonly id = nextId++;

  /**
   * Makes the group in the addon; all members do it at the same time.
   *
   * @param name the same in all members and in no other group.
   * @param part of which group it is a part, and which; null for all processes.
   */
  constructor(
    protected readonly connection: Connection,
    protected readonly name: string,
    readonly rank: number,
    readonly size: number,
    part: {of: number; color: number} | null,
    ncclId: string,
  ) {
    connection.addon.addGroup(this.id, name, rank, size, part?.of ?? -1, part?.color ?? 0, ncclId);
  }

  allReduce<T extends Tensor>(x: T, reduction: Reduction = 'sum'): T {
    check('allReduce', x);
    if (!['sum', 'mean', 'max'].includes(reduction)) {
      fail('allReduce', "reduction must be 'sum', 'mean' or 'max'", describe(reduction), 'Leave it out for the sum.');
    }
    if (reduction === 'mean') return mul(this.allReduce(x), scalar(1 / this.size));
    const max = reduction === 'max';
    return this.differentiable('allReduce', x, {max}, (dy) =>
      max
        ? fail('allReduce', "'max' has no gradient", 'a gradient that is asked for', 'Take it outside of the loss.')
        : this.allReduce(dy),
    );
  }

  allGather<T extends Tensor>(x: T): T {
    checkRows('allGather', x);
    return this.differentiable('allGather', x, {}, (dy) => this.reduceScatter(dy));
  }

  reduceScatter<T extends Tensor>(x: T): T {
    checkRows('reduceScatter', x);
    if (x.shape[0] % this.size !== 0) {
      const rule = `the first axis must be a multiple of the group's ${this.size} members`;
      fail('reduceScatter', rule, describe(x.shape), 'Pad it.');
    }
    return this.differentiable('reduceScatter', x, {}, (dy) => this.allGather(dy));
  }

  broadcast<T extends Tensor>(x: T, root = 0): T {
    check('broadcast', x);
    this.checkRank('broadcast', 'root', root);
    return this.differentiable('broadcast', x, {root}, (dy) => {
      const sum = this.allReduce(dy);
      return this.rank === root ? sum : zerosLike(sum);
    });
  }

  allToAll<T extends Tensor>(x: T, sends: readonly number[], receives: readonly number[]): T {
    checkRows('allToAll', x);
    this.checkCounts('sends', sends);
    this.checkCounts('receives', receives);
    const rows = sends.reduce((a, b) => a + b, 0);
    if (rows !== x.shape[0]) {
      fail('allToAll', `sends must add up to the ${x.shape[0]} rows of x`, describe(sends), 'Correct one of them.');
    }
    return this.differentiable('allToAll', x, {}, (dy) => this.allToAll(dy, receives, sends), [...sends, ...receives]);
  }

  sendReceive<T extends Tensor>(x: T, {to, from}: Partners): T {
    check('sendReceive', x);
    for (const [name, rank] of Object.entries({to, from}))
      if (rank !== undefined) this.checkRank('sendReceive', name, rank);
    // Differentiated as a whole: also members without a partner take part in the gradient.
    return withGradient(
      x,
      () => this.transfer(x, {to, from}),
      (dy) => this.sendReceive(dy, {to: from, from: to}),
    );
  }

  barrier(): void {
    this.exchangeSync('barrier', null);
  }

  split(color: number): ProcessGroup {
    if (!Number.isInteger(color) || color < 0) {
      fail('split', 'the color must be a whole number of at least 0', describe(color), 'Number the parts from 0.');
    }
    const {values: colors, sequence} = this.exchangeSync('split', color);
    const members = colors.flatMap((other, rank) => (other === color ? [rank] : []));
    const name = partName(this.name, sequence, color);
    const rank = members.indexOf(this.rank);
    const ncclId = this.connection.gpu ? ncclIdFor(this.connection, name, rank) : '';
    const part = new NativeGroup(this.connection, name, rank, members.length, {of: this.id, color}, ncclId);
    return members.length === 1 ? soloGroup : part;
  }

  /** The work of sendReceive: a tensor is one row. */
  private transfer<T extends Tensor>(x: T, {to, from}: Partners): T {
    return tidy(() => {
      const countsOf = (partner?: number): number[] => Array.from({length: this.size}, (_, i) => Number(i === partner));
      const row = reshape(x, [1, x.size]);
      const given = to === undefined ? slice(row, [0, 0], [0, x.size]) : row;
      const got = this.run('allToAll', given, {}, [...countsOf(to), ...countsOf(from)]);
      return (from === undefined ? zerosLike(x) : reshape(got, x.shape)) as T;
    });
  }

  /** A value of each member, while this thread waits. */
  private exchangeSync(kind: string, value: unknown): {values: unknown[]; sequence: number} {
    if (isRecording()) fail('traced', `${kind}() must not run inside`, 'a call of it', 'Call it outside.');
    waitForFunctions();
    return this.connection.control.exchangeSync(this.name, {kind}, value);
  }

  /** Runs an op with its gradient. */
  private differentiable<T extends Tensor>(
    kind: Kind,
    x: T,
    attributes: {max?: boolean; root?: number},
    gradient: (dy: T) => Tensor,
    counts?: number[],
  ): T {
    return withGradient(x, () => this.run(kind, x, attributes, counts) as T, gradient);
  }

  private run(kind: Kind, x: Tensor, {max, root}: {max?: boolean; root?: number}, counts?: number[]): Tensor {
    if (getBackend() !== 'tensorflow') {
      fail(
        kind,
        "tensors must be on the backend 'tensorflow'",
        describe(getBackend()),
        "Call tf.setBackend('tensorflow').",
      );
    }
    const backend = engine().backend as unknown as Backend;
    const {TF_ATTR_BOOL, TF_ATTR_INT} = backend.binding;
    const attributes: Attribute[] = [{name: 'group', type: TF_ATTR_INT, value: this.id}];
    if (max !== undefined) attributes.push({name: 'max', type: TF_ATTR_BOOL, value: max});
    if (root !== undefined) attributes.push({name: 'root', type: TF_ATTR_INT, value: root});
    const rows = counts && engine().makeTensor(Int32Array.from(counts), [2, this.size], 'int32');
    try {
      waitForFunctions();
      return backend.executeMultipleOutputs(COLLECTIVES[kind], attributes, rows ? [x, rows] : [x], 1)[0];
    } catch (error) {
      throw readable(kind, error, this.connection.addon.failure());
    } finally {
      rows?.dispose();
    }
  }

  private checkRank(who: string, name: string, rank: number): void {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.size) return;
    fail(who, `${name} must be a rank of the group, 0 to ${this.size - 1}`, describe(rank), 'Correct it.');
  }

  private checkCounts(name: string, counts: readonly number[]): void {
    const right = Array.isArray(counts) && counts.length === this.size;
    if (right && counts.every((count: unknown) => Number.isInteger(count) && (count as number) >= 0)) return;
    fail(
      'allToAll',
      `${name} must be ${this.size} numbers of rows, one for each member`,
      describe(counts),
      'Correct it.',
    );
  }
}

/** Computes a tensor of `x` that has its own gradient. */
function withGradient<T extends Tensor>(x: T, value: () => T, gradient: (dy: T) => Tensor): T {
  return customGrad(() => ({value: value(), gradFunc: (dy: Tensor) => gradient(dy as T)}))(x) as T;
}

/** What the members of a group of NCCL find each other by. */
function ncclIdFor({addon, control}: Connection, name: string, rank: number): string {
  const {values} = control.exchangeSync(name, {kind: 'id of NCCL'}, rank === 0 ? addon.newNcclId() : null);
  return values[0] as string;
}

function check(who: string, x: Tensor): void {
  if (!isTensor(x) || x.dtype !== 'float32') {
    fail(who, 'x must be a float32 tensor', describe(x), 'Pass a tensor, or tf.cast it.');
  }
}

function checkRows(who: string, x: Tensor): void {
  check(who, x);
  if (x.rank === 0) fail(who, 'x must have a first axis', describe(x), 'Reshape it to [1].');
}

/** TensorFlow's error of an op, in the library's form. That of a failure of the group says all by itself. */
function readable(who: string, error: unknown, failure: string | null): Error {
  return new Error(failure ?? `${who}: ${statusOf(error).message}`);
}
