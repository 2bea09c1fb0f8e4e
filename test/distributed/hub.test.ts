/** @file What rank 0 finds: calls that do not fit, and processes that end, do not come, or wait for each other. */
import {expect} from 'chai';
import type {Call} from '../../src/distributed/control/calls.js';
import {Hub, WORLD, partName} from '../../src/distributed/control/hub.js';
import type {FromHub} from '../../src/distributed/control/messages.js';

/** A hub with a clock that the test sets; what it told each rank. */
class Room {
  now = 0;
  readonly told: FromHub[][];
  readonly hub: Hub;
  private readonly sequences = new Map<string, number>();

  constructor(size: number) {
    this.told = Array.from({length: size}, () => []);
    const send = (rank: number, message: FromHub): void => void this.told[rank].push(message);
    this.hub = new Hub({size, timeout: 1000, now: () => this.now, send});
  }

  /** A rank calls a function of a group on tensors. */
  call(rank: number, call: Call, {group = WORLD, blocks = true} = {}): void {
    this.hub.announce(rank, {group, channel: 'tensors', sequence: this.next(`${rank} ${group}`), call, blocks});
  }

  /** A rank gives a value. */
  give(rank: number, kind: string, value: unknown = null, {group = WORLD, blocks = true} = {}): void {
    const sequence = this.next(`${rank} ${group} values`);
    this.hub.announce(rank, {group, channel: 'values', sequence, call: {kind}, value, blocks});
  }

  /** The failure, if all ranks were told the same one, once. */
  failure(): string | undefined {
    const all = this.told.map((messages) => messages.flatMap((each) => (each.kind === 'fail' ? [each.message] : [])));
    expect(new Set(all.map((messages) => messages.join()))).to.have.length(1);
    expect(all[0].length).to.be.at.most(1);
    return all[0][0];
  }

  private next(key: string): number {
    this.sequences.set(key, (this.sequences.get(key) ?? 0) + 1);
    return this.sequences.get(key)!;
  }
}

const sum = (...shape: number[]): Call => ({kind: 'allReduce', shape, reduction: 'sum'});
const SAME = 'Make the same calls in the same order on every rank.';

describe('the hub of a process group', () => {
  it('says nothing while calls fit, in whatever order they arrive', () => {
    const room = new Room(3);
    for (const rank of [2, 0]) room.call(rank, sum(2));
    for (const rank of [0, 2]) room.call(rank, {kind: 'broadcast', shape: [], root: 1}, {blocks: false});
    room.call(1, sum(2));
    room.call(1, {kind: 'broadcast', shape: [], root: 1});
    room.now = 1e6;
    room.hub.tick();
    expect(room.told).to.deep.equal([[], [], []]);
  });

  it('answers with the values of all, in the order of ranks', () => {
    const room = new Room(2);
    room.give(1, 'exchange', 'b');
    room.give(0, 'exchange', 'a');
    const answer = {kind: 'values', group: WORLD, sequence: 1, values: ['a', 'b']};
    expect(room.told).to.deep.equal([[answer], [answer]]);
  });

  const misfits: [string, Call, Call, string][] = [
    ['shape', sum(2, 3), sum(3, 2), 'allReduce (sum) of [2, 3] of rank 0 and allReduce (sum) of [3, 2] of rank 1'],
    ['number of axes', sum(6), sum(6, 1), 'allReduce (sum) of [6] of rank 0 and allReduce (sum) of [6, 1] of rank 1'],
    [
      'reduction',
      sum(2),
      {kind: 'allReduce', shape: [2], reduction: 'max'},
      'allReduce (sum) of [2] of rank 0 and allReduce (max) of [2] of rank 1',
    ],
    [
      'root',
      {kind: 'broadcast', shape: [2], root: 0},
      {kind: 'broadcast', shape: [2], root: 1},
      'broadcast (root 0) of [2] of rank 0 and broadcast (root 1) of [2] of rank 1',
    ],
    [
      'kind',
      sum(2),
      {kind: 'allGather', shape: [2]},
      'allReduce (sum) of [2] of rank 0 and allGather of [2] of rank 1',
    ],
  ];
  for (const [what, a, b, got] of misfits) {
    it(`finds another ${what}`, () => {
      const room = new Room(3);
      room.call(0, a);
      room.call(1, b);
      const rule = `${b.kind}: all members must make the same call, with tensors that fit each other`;
      expect(room.failure()).to.equal(`${rule}, got ${got} (call 1 of all ranks). ${SAME}`);
    });
  }

  it('finds rows that are sent and not received, and takes tensors of other lengths', () => {
    const call = (sends: number[], receives: number[]): Call => ({
      kind: 'allToAll',
      shape: [sends[0] + sends[1], 4],
      sends,
      receives,
    });
    const room = new Room(2);
    room.call(0, call([1, 2], [1, 3]));
    room.call(1, call([3, 4], [2, 4]));
    expect(room.failure()).to.equal(undefined);
    room.call(1, call([3, 4], [1, 4]));
    room.call(0, call([1, 2], [1, 3]));
    expect(room.failure()).to.equal(
      'allToAll: a member must receive as many rows as the other one sends, got allToAll of [7, 4] that sends [3, 4] ' +
        'and receives [1, 4] rows of rank 1 and allToAll of [3, 4] that sends [1, 2] and receives [1, 3] rows of rank 0 ' +
        `(call 2 of all ranks). ${SAME}`,
    );
  });

  it('names the ranks that do not come in time, where the others wait, and what they did last', () => {
    const room = new Room(4);
    for (const rank of [0, 1, 2, 3]) room.call(rank, sum(2));
    for (const rank of [3, 0]) room.call(rank, {kind: 'allGather', shape: [5]});
    room.now = 1000;
    room.hub.tick();
    expect(room.failure()).to.equal(undefined);
    room.now = 1001;
    room.hub.tick();
    room.hub.tick();
    expect(room.failure()).to.equal(
      'allGather: every member must come within 1 s, got nothing of ranks 1, 2, while ranks 0, 3 wait in allGather of ' +
        "[5] (call 2 of all ranks). Rank 1's last call was allReduce (sum) of [2]. Rank 2's last call was allReduce (sum) " +
        'of [2]. See what it does; or raise the option timeout of init.',
    );
  });

  it('names a rank that ends, and where the others wait for it', () => {
    const room = new Room(3);
    room.call(0, sum(2));
    room.call(2, sum(2));
    room.hub.lost(1, 'the end of its connection');
    room.hub.lost(0, 'the end of its connection');
    expect(room.failure()).to.equal(
      'rank 1 must run until all have called finalize(), got the end of its connection, while ranks 0, 2 wait in ' +
        'allReduce (sum) of [2] (call 1 of all ranks). See what it printed.',
    );
  });

  it('tells the error by which a rank ends', () => {
    const room = new Room(2);
    room.hub.failed(1, 'TypeError: x');
    expect(room.failure()).to.equal('rank 1 must run until all have called finalize(), got an error: TypeError: x');
  });

  it('lets all end after finalize, and none before', () => {
    const room = new Room(2);
    room.give(0, 'finalize');
    room.give(1, 'finalize');
    room.hub.lost(1, 'the end of its connection');
    expect(room.failure()).to.equal(undefined);
    const early = new Room(2);
    early.give(0, 'finalize');
    early.hub.lost(1, 'the end of its connection');
    expect(early.failure()).to.match(/^rank 1 must run .* while rank 0 waits in finalize \(call 1 of all ranks\)/);
  });

  it('finds ranks that wait for each other, at once', () => {
    const room = new Room(3);
    room.call(2, sum(2));
    room.give(1, 'barrier');
    expect(room.failure()).to.match(
      /^barrier: all members must make their calls in the same order, got rank 1 in barrier \(call 1 of all ranks\) and rank 2 in allReduce/,
    );
  });

  it('finds it among parts of the processes, through a third rank', () => {
    const room = new Room(3);
    // Three groups of two ranks each: 0 and 1, 1 and 2, 2 and 0.
    const colors = [
      [0, 0, 1],
      [1, 0, 0],
      [0, 1, 0],
    ];
    for (const each of colors) each.forEach((color, rank) => room.give(rank, 'split', color));
    const groups = [1, 2, 3].map((sequence) => partName(WORLD, sequence, 0));
    groups.forEach((group, rank) => room.call(rank, sum(1), {group}));
    expect(room.failure()).to.match(/got rank 2 in .*the group of ranks 0, 2.* and rank 0 in .* and rank 1 in /);
  });

  it('does not take late news for a circle', () => {
    const room = new Room(2);
    // Rank 0 has gone on: the call of rank 1 was made, and is not heard of yet.
    room.call(0, sum(1));
    room.call(0, sum(2));
    room.give(0, 'barrier');
    room.call(1, sum(1));
    room.call(1, sum(2));
    room.give(1, 'barrier');
    expect(room.failure()).to.equal(undefined);
  });

  it('knows no circle of calls that do not wait', () => {
    const room = new Room(2);
    room.call(0, sum(1), {blocks: false});
    room.give(1, 'exchange', 1, {blocks: false});
    room.give(0, 'exchange', 1, {blocks: false});
    room.call(1, sum(1), {blocks: false});
    expect(room.failure()).to.equal(undefined);
  });
});
