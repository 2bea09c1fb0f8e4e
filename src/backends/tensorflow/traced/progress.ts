/** @file Tells how many TensorFlow functions are made, of those that recordings ask for. */

type Listener = (made: number, known: number) => void;

const listeners = new Set<Listener>();
let made = 0;
let known = 0;

/** Calls `listener` after each change. The returned function ends that. */
export function onFunctions(listener: Listener): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Counts functions that were made, and those that are known to be needed; negative numbers take some away. */
export function countFunctions(change: {made?: number; known?: number}): void {
  made += change.made ?? 0;
  known += change.known ?? 0;
  for (const listener of listeners) listener(made, known);
}
