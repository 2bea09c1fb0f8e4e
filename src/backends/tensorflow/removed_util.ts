/**
 * @file Puts back two functions of `node:util` that Node 23 removed and that tfjs-node 4.22 calls in every operation.
 */
import util from 'node:util';

const functions = util as {isNullOrUndefined?: (x: unknown) => boolean; isArray?: (x: unknown) => boolean};

/**
 * Does nothing before Node 23. tfjs-node looks the functions up when it calls them, so it may be loaded before or
 * after.
 */
export function restoreRemovedUtil(): void {
  functions.isNullOrUndefined ??= (x) => x === null || x === undefined;
  functions.isArray ??= Array.isArray;
}
