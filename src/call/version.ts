/** @file The version of this package. Caches written by one version are ignored by another. */

export const VERSION = '0.1.0';
