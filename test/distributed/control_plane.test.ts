/** @file The control plane on sockets: several ranks in this process, each with its thread; and real processes. */
import {writeFileSync} from 'node:fs';
import {type AddressInfo, connect, createServer} from 'node:net';
import {join as joinPath} from 'node:path';
import {expect} from 'chai';
import {type ClientOptions, type Endpoint, join} from '../../src/distributed/control/client.js';
import {ControlPlane} from '../../src/distributed/control/control_plane.js';
import {WORLD} from '../../src/distributed/control/hub.js';
import type {FromHub} from '../../src/distributed/control/messages.js';
import {Server} from '../../src/distributed/control/server.js';
import {ownEndpoint, publish} from '../../src/distributed/rendezvous.js';
import {temporaryFolder} from '../support/packed_project.js';
import {runAlone} from '../support/ranks.js';

/** Far more than anything takes that must succeed. */
const LONG_MS = 300_000;

const about = 'a test';
const optionsOf = (rank: number, size: number, {timeout = LONG_MS, token = 'secret', ...more} = {}) => ({
  introduction: {rank, size, token, about, ...more},
  timeout,
  addon: null,
  blocks: true,
});

/** A port that `tell` tells later. */
function portToCome(): {port: Promise<number>; tell: (port: number) => void} {
  let tell!: (port: number) => void;
  const port = new Promise<number>((resolve) => (tell = resolve));
  return {port, tell};
}

/** The ranks of a group, joined at a port of this host. */
async function joined(size: number, timeout = LONG_MS): Promise<ControlPlane[]> {
  const {port, tell} = portToCome();
  const first = ControlPlane.listen(optionsOf(0, size, {timeout}), {port: 0, loopback: true}, tell);
  const where = {addresses: ['127.0.0.1'], port: await port, token: 'secret'};
  const others = Array.from({length: size - 1}, (_, i) => ControlPlane.join(optionsOf(i + 1, size, {timeout}), where));
  return Promise.all([first, ...others]);
}

const messageOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'no error',
    (error: unknown) => (error as Error).message,
  );

const exchange = (all: readonly ControlPlane[], kind = 'exchange') =>
  Promise.all(all.map((control, rank) => control.exchange(WORLD, {kind}, {rank})));

async function finalize(all: readonly ControlPlane[]): Promise<void> {
  await exchange(all, 'finalize');
  await Promise.all(all.map((control) => control.close()));
}

describe('the control plane', () => {
  it('exchanges values, also a megabyte with every kind of text, and ends', async () => {
    const all = await joined(2);
    for (let i = 1; i <= 3; i++) {
      const expected = {values: [{rank: 0}, {rank: 1}], sequence: i};
      expect(await exchange(all)).to.deep.equal([expected, expected]);
    }
    const text = '\u2028 \n " \\ \u00e4 \u{1f600}'.repeat(1e5);
    const [long] = await Promise.all(all.map((control) => control.exchange(WORLD, {kind: 'exchange'}, text)));
    expect(long.values.every((value) => value === text)).to.equal(true);
    await finalize(all);
  });

  it('tells all of a rank that ended, in what they wait for and in all later calls', async () => {
    const all = await joined(3);
    const waits = [0, 2].map((rank) => messageOf(all[rank].exchange(WORLD, {kind: 'exchange'}, null)));
    await all[1].close();
    const rule = /^rank 1 must run until all have called finalize\(\), got the end of its connection/;
    for (const message of await Promise.all(waits)) expect(message).to.match(rule);
    expect(await messageOf(all[0].exchange(WORLD, {kind: 'exchange'}, null))).to.match(rule);
    expect(() => all[2].exchangeSync(WORLD, {kind: 'barrier'}, null)).to.throw(rule);
    await Promise.all([0, 2].map((rank) => all[rank].close()));
  });

  it('tells all of a rank that does not come in time', async () => {
    // Long enough for joining on a slow machine.
    const all = await joined(2, 10_000);
    const wait = messageOf(all[1].exchange(WORLD, {kind: 'exchange'}, null));
    const message =
      'exchange: every member must come within 10 s, got nothing of rank 0, while rank 1 waits in exchange (call 1 of ' +
      "all ranks). Rank 0's last call was none. See what it does; or raise the option timeout of init.";
    expect(await wait).to.equal(message);
    expect(() => all[0].exchangeSync(WORLD, {kind: 'exchange'}, null)).to.throw(message);
    await Promise.all(all.map((control) => control.close()));
  });

  it('tells all if rank 0 ended', async () => {
    const all = await joined(2);
    const waits = messageOf(all[1].exchange(WORLD, {kind: 'exchange'}, null));
    await all[0].close();
    expect(await waits).to.match(/^rank 0 must run until all have called finalize\(\), got the end of its connection/);
    await all[1].close();
  });

  it('says which port cannot be had', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const {port} = server.address() as AddressInfo;
    const control = ControlPlane.listen(optionsOf(0, 2), {port, loopback: true}, () => undefined);
    expect(await messageOf(control)).to.match(/EADDRINUSE/);
    server.close();
  });

  const ends: [string, RegExp][] = [
    ['throws', /^rank 1 must run until .*, got an error: TypeError: the loss is NaN$/],
    ['is killed', /^rank 1 must run until all have called finalize\(\), got the end of its connection/],
    ['exits', /^rank 1 must run until all have called finalize\(\), got the end of its connection/],
  ];
  for (const [end, error] of ends) {
    it(`ends a process that waits for one that ${end}`, async () => {
      const file = joinPath(temporaryFolder(), 'rank0');
      const [first] = await runAlone({ranks: 2, program: 'test/distributed/programs/control.ts', args: [end, file]});
      expect(first.code).to.equal(1);
      expect(/^Error: (.*)$/m.exec(first.stderr)?.[1]).to.match(error);
    });
  }
});

describe('joining', () => {
  /** Rank 0, and what the hub tells it. */
  async function served(size: number, timeout = LONG_MS) {
    const told: FromHub[] = [];
    const receive = (message: FromHub): void => void told.push(message);
    const server = new Server({...optionsOf(0, size, {timeout}), port: 0, loopback: true, receive});
    return {server, told, port: await server.listen()};
  }

  /** Another rank. */
  const joins = (rank: number, size: number, where: ClientOptions['where'], more: object = {}) => {
    const none = (): void => undefined;
    return join({...optionsOf(rank, size, more), where, receive: none, closed: none});
  };

  const whereIs = (port: number, token = 'secret'): Endpoint => ({addresses: ['127.0.0.1'], port, token});

  it('finds rank 0 by a file, also where an earlier run left one', async () => {
    const file = joinPath(temporaryFolder(), 'rank0');
    // Nobody listens at this port any more.
    const old = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => old.once('listening', resolve));
    const {port} = old.address() as AddressInfo;
    await new Promise((resolve) => old.close(resolve));
    writeFileSync(file, JSON.stringify(whereIs(port, 'old')));
    const second = joins(1, 2, {file});
    const {server, told, port: now} = await served(2);
    publish(file, ownEndpoint(now, 'secret'));
    (await second).end();
    expect(told[0]).to.deep.equal({kind: 'joined'});
    server.end();
  });

  it('refuses processes of another run, size, version or rank, and what is none', async () => {
    const {server, port} = await served(2);
    const refused: [object, string | undefined, string][] = [
      [{}, 'other', 'it belongs to another run'],
      [{size: 3}, undefined, 'rank 0 is one of 2 processes, and rank 1 one of 3'],
      [{about: 'another test'}, undefined, 'rank 0 runs a test, and rank 1 another test'],
      [{rank: 0}, undefined, 'rank 0 is there already'],
    ];
    for (const [introduction, token, reason] of refused) {
      const message = await messageOf(joins(1, 2, whereIs(port, token), introduction));
      expect(message).to.contain(`got ${reason}. See what rank 0 printed`);
    }
    const stranger = connect(port, '127.0.0.1');
    await new Promise((resolve) => stranger.once('close', resolve).end('GET / HTTP/1.1\n\n'));
    (await joins(1, 2, whereIs(port))).end();
    server.end();
  });

  it('says who did not join, and where rank 0 was looked for', async () => {
    const {server, told} = await served(3, 1);
    while (told.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(told).to.deep.equal([
      {
        kind: 'fail',
        message:
          'init: all 3 processes must join within 0.001 s, got nothing of rank 1, 2. See what it printed; it must reach ' +
          'rank 0 over the network.',
      },
    ]);
    server.end();
    const lost = joins(1, 2, {file: joinPath(temporaryFolder(), 'nothing')}, {timeout: 1});
    expect(await messageOf(lost)).to.match(/^init: rank 1 must reach rank 0 within 0.001 s, got ENOENT/);
  });
});
