/** @file The version of this package, for what must not outlive it. */

export const VERSION = '0.1.0';
