/** @file Rank 0's side of the control plane: the processes join it, and the hub hears and answers them. */
import {type AddressInfo, type Socket, createServer} from 'node:net';
import {Hub} from './hub.js';
import {type Lines, linesOn} from './lines.js';
import type {FromHub, Introduction, ToHub} from './messages.js';

export interface ServerOptions {
  /** What rank 0 says of itself. The others must say the same, but for the rank. */
  introduction: Introduction;
  /** Milliseconds for joining, and for members that wait in a call. */
  timeout: number;
  /** 0 for any free port. */
  port: number;
  /** Listens to processes of this host alone. */
  loopback: boolean;
  /** What the hub tells rank 0 itself. */
  receive: (message: FromHub) => void;
}

const TICK_MS = 250;

export class Server {
  private readonly links = new Map<number, Lines<FromHub>>();
  private readonly hub: Hub;
  private readonly server = createServer((socket) => this.accept(socket));
  private readonly timers: NodeJS.Timeout[] = [];

  constructor(private readonly options: ServerOptions) {
    const {introduction, timeout} = options;
    const send = (rank: number, message: FromHub): void => this.sendTo(rank, message);
    this.hub = new Hub({size: introduction.size, timeout, now: () => performance.now(), send});
  }

  /** Listens; returns the port. Rejects if it cannot be had. */
  async listen(): Promise<number> {
    const {port, loopback, timeout} = this.options;
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject).listen(port, loopback ? '127.0.0.1' : undefined, resolve);
    });
    this.timers.push(
      setTimeout(() => this.endJoining(), timeout),
      setInterval(() => this.hub.tick(), TICK_MS),
    );
    this.joined();
    return (this.server.address() as AddressInfo).port;
  }

  /** A process tells the hub something. */
  tell(rank: number, message: ToHub): void {
    if (message.kind === 'call') this.hub.announce(rank, message);
    if (message.kind === 'error') this.hub.failed(rank, message.message);
  }

  /** Ends all connections, after what was sent. */
  end(): void {
    this.timers.forEach((timer) => clearTimeout(timer));
    this.server.close();
    this.links.forEach((link) => link.end());
  }

  private sendTo(rank: number, message: FromHub): void {
    if (rank === 0) this.options.receive(message);
    else this.links.get(rank)?.send(message);
  }

  private accept(socket: Socket): void {
    let rank: number | null = null;
    const link = linesOn<ToHub, FromHub>(socket, {
      message: (message) => {
        if (rank !== null) {
          this.tell(rank, message);
          return;
        }
        const refusal = message.kind === 'join' ? this.whyNot(message) : 'processes must say who they are';
        if (refusal !== null || message.kind !== 'join') {
          link.send({kind: 'refuse', message: refusal!});
          link.end();
          return;
        }
        ({rank} = message);
        this.links.set(rank, link);
        this.joined();
      },
      closed: (why) => {
        if (rank !== null && this.links.delete(rank)) this.hub.lost(rank, why);
      },
    });
  }

  /** Why a process may not join, or null. */
  private whyNot({rank, size, token, about}: Introduction): string | null {
    const own = this.options.introduction;
    if (token !== own.token) return 'it belongs to another run';
    if (size !== own.size) return `rank 0 is one of ${own.size} processes, and rank ${rank} one of ${size}`;
    if (about !== own.about) return `rank 0 runs ${own.about}, and rank ${rank} ${about}`;
    if (rank < 1 || rank >= size || this.links.has(rank)) return `rank ${rank} is there already`;
    return null;
  }

  private joined(): void {
    const {size} = this.options.introduction;
    if (this.links.size < size - 1) return;
    clearTimeout(this.timers[0]);
    for (let rank = 0; rank < size; rank++) this.sendTo(rank, {kind: 'joined'});
  }

  private endJoining(): void {
    const {introduction, timeout} = this.options;
    const others = Array.from({length: introduction.size - 1}, (_, i) => i + 1);
    const missing = others.filter((rank) => !this.links.has(rank)).join(', ');
    this.hub.fail(
      `init: all ${introduction.size} processes must join within ${timeout / 1000} s, got nothing of rank ${missing}. ` +
        'See what it printed; it must reach rank 0 over the network.',
    );
  }
}
