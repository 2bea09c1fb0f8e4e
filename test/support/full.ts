/** @file Whether the tests run whole: `npm run test:all` asks for it, and then for what docs/testing.md lists. */

/** Set by `FLASHMASK_FULL=1`. */
export const full: boolean = process.env.FLASHMASK_FULL === '1';
