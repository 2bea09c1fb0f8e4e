/** @file In pages this is src/backends/tensorflow/load.ts: there is no addon, and nothing asks for one. */

/** Why the native kernels do not run on a backend. */
export const whyNotNative = (): string => 'there is no addon in a page';
