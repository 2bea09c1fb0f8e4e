/** @file Types of what tests import from build_native.mjs. */

/** Compiles files of native/, with these flags and those of their instruction sets; returns their objects in the cache. */
export function compileForTests(paths: string[], flags: string[]): Promise<string[]>;
