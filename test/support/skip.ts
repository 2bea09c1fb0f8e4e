/** @file Skips a test that cannot run here, and prints the reason. */

/** Prints the reason and skips the test or, called in `before`, its suite. */
export function skip(test: Mocha.Context, reason: string): never {
  console.log(`      skipped: ${reason}`);
  return test.skip();
}
