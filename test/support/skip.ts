/** @file Leaving out a test that cannot run here: the run says why. */

/** Prints the reason and ends the test, or, called in `before`, its suite. */
export function skip(test: Mocha.Context, reason: string): never {
  console.log(`      skipped: ${reason}`);
  return test.skip();
}
