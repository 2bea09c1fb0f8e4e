/** @file Whether the tests run in full: `npm run test:all` does, and docs/testing.md lists what it adds. */

/** Set by `FLASHMASK_FULL=1`. */
export const full: boolean = process.env.FLASHMASK_FULL === '1';
