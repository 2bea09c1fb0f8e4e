/** @file A socket that carries messages: one JSON text a line. */
import type {Socket} from 'node:net';

/** How often each side shows that it is there, and how long the other waits for that. */
const BEAT_MS = 5000;
const SILENCE_MS = 60000;

export interface Lines<Out> {
  send(message: Out): void;
  /** Ends the connection after what was sent. */
  end(): void;
}

/** What happens on a connection. `closed` comes once, with the reason in words. */
export interface Listener<In> {
  message: (message: In) => void;
  closed: (why: string) => void;
}

/** Sends and receives messages on a connected socket. */
export function linesOn<In extends {kind: string}, Out>(socket: Socket, {message, closed}: Listener<In>): Lines<Out> {
  let rest = '';
  let heard = performance.now();
  let late = heard;
  let open = true;
  const send = (content: unknown): void => {
    if (open) socket.write(`${JSON.stringify(content)}\n`);
  };
  const close = (why: string): void => {
    if (!open) return;
    open = false;
    clearInterval(beats);
    socket.destroy();
    closed(why);
  };
  const beats = setInterval(() => {
    const now = performance.now();
    // A process that was stopped itself has not listened meanwhile.
    if (now - late > 2 * BEAT_MS) heard = now;
    late = now;
    if (now - heard > SILENCE_MS) close(`no sign of life for ${SILENCE_MS / 1000} s`);
    else send({kind: 'beat'});
  }, BEAT_MS);
  socket.setEncoding('utf8').setNoDelay(true);
  socket.on('data', (text: string) => {
    heard = performance.now();
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const parsed = parse(line) as In | null;
      if (parsed === null) close('a message that is none of this library');
      else if (parsed.kind !== 'beat' && open) message(parsed);
    }
  });
  socket.on('close', () => close('the end of its connection'));
  socket.on('error', ({message: reason}) => close(`the end of its connection (${reason})`));
  return {
    send,
    end: () => {
      open = false;
      clearInterval(beats);
      socket.end();
    },
  };
}

function parse(line: string): {kind: string} | null {
  try {
    const message = JSON.parse(line) as {kind: string} | null;
    return typeof message?.kind === 'string' ? message : null;
  } catch {
    return null;
  }
}
