/** @file The side of all other ranks: finds rank 0, and joins it. */
import {readFileSync} from 'node:fs';
import {type Socket, connect} from 'node:net';
import {hostname} from 'node:os';
import {setTimeout as sleep} from 'node:timers/promises';
import {type Lines, linesOn} from './lines.js';
import type {FromHub, Introduction, ToHub} from './messages.js';

/** Where rank 0 listens. */
export interface Endpoint {
  /** The name of its host, if its addresses are those that it knows itself. */
  host?: string;
  /** Names or addresses, best first. */
  addresses: string[];
  port: number;
  token: string;
}

export interface ClientOptions {
  /** Its token is that of where rank 0 is. */
  introduction: Introduction;
  /** Where rank 0 is, or the file in which it says so. */
  where: Endpoint | {file: string};
  /** Milliseconds for joining. */
  timeout: number;
  receive: (message: FromHub) => void;
  /** The connection is gone, with the reason. */
  closed: (why: string) => void;
}

const AGAIN_MS = 100;
const CONNECT_MS = 5000;

/** Joins. Rank 0 may not listen yet, so this tries again until it does. */
export async function join(options: ClientOptions): Promise<Lines<ToHub>> {
  const {where, timeout} = options;
  const end = performance.now() + timeout;
  let problem: string;
  do {
    try {
      const endpoint = 'file' in where ? (JSON.parse(readFileSync(where.file, 'utf8')) as Endpoint) : where;
      for (const address of addressesOf(endpoint)) {
        const socket = await open(address, endpoint.port).catch((error: unknown) => error as Error);
        if (!(socket instanceof Error)) return await introduce(socket, endpoint, options);
        problem = socket.message;
      }
      problem ??= 'no address';
    } catch (error) {
      // Also a file that is not there yet, or that an earlier run left.
      problem = error instanceof Error ? error.message : String(error);
      if (error instanceof Refused && !('file' in where)) break;
    }
    await sleep(AGAIN_MS);
  } while (performance.now() < end);
  throw new Error(
    `init: rank ${options.introduction.rank} must reach rank 0 within ${timeout / 1000} s, got ${problem!}. ` +
      'See what rank 0 printed; or set FLASHMASK_RENDEZVOUS.',
  );
}

class Refused extends Error {}

/** On the host itself the way is short, and open. */
const addressesOf = ({host, addresses}: Endpoint): string[] =>
  host === hostname() ? ['127.0.0.1', ...addresses] : addresses;

function open(host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({host, port, timeout: CONNECT_MS});
    socket.once('connect', () => {
      socket.setTimeout(0);
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', reject);
    socket.once('timeout', () => socket.destroy(new Error(`no answer of ${host} at port ${port}`)));
  });
}

/** Resolves when all processes have joined. */
function introduce(socket: Socket, {token}: Endpoint, options: ClientOptions): Promise<Lines<ToHub>> {
  return new Promise((resolve, reject) => {
    let joined = false;
    const lines = linesOn<FromHub, ToHub>(socket, {
      message: (message) => {
        if (message.kind === 'refuse') reject(new Refused(message.message));
        else if (message.kind === 'fail' && !joined) reject(new Error(message.message));
        else if (message.kind !== 'joined') options.receive(message);
        else {
          joined = true;
          resolve(lines);
        }
      },
      closed: (why) => {
        if (joined) options.closed(why);
        else reject(new Error(why));
      },
    });
    lines.send({kind: 'join', ...options.introduction, token});
  });
}
