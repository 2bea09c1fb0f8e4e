/**
 * @file One lane of `npm test`: a process that runs the test files that its parent names, one after the other, each
 * with a Mocha of its own. Libraries are loaded once per lane.
 */
import {setTimeout} from 'node:timers/promises';
import Mocha from 'mocha';

/** What a test left running has this time to fail, so that the error is that of its file and not of the next. */
const LATE_ERRORS_MS = 50;

/** Prints what mocha's spec reporter does, but for the summary: the parent prints one of all files. */
class FileReporter extends Mocha.reporters.Spec {
  static latest;

  constructor(runner, options) {
    super(runner, options);
    FileReporter.latest = this;
  }

  epilogue() {}
}

/** What mocha's list of failures reads of an error, as values that a message can carry. */
function plainError(error) {
  if (typeof error !== 'object' || error === null) return {message: String(error)};
  const {name, message, stack, uncaught, showDiff, actual, expected, cause, multiple} = error;
  const diff = typeof actual === 'string' && typeof expected === 'string' ? {showDiff, actual, expected} : {};
  return {
    name,
    message: String(message),
    stack,
    uncaught,
    ...diff,
    ...(cause instanceof Error ? {cause: plainError(cause)} : {}),
    ...(multiple ? {multiple: multiple.map(plainError)} : {}),
  };
}

/** As mocha's own command does: the test that runs fails. */
function fail(reason) {
  throw reason;
}

async function runFile({file, devices, timeout, color}) {
  process.env.FLASHMASK_LANE = devices; // test/support/devices.ts
  const mocha = new Mocha({reporter: FileReporter, timeout, color});
  mocha.addFile(file);
  await mocha.loadFilesAsync();
  await new Promise((resolve) => {
    mocha.run(resolve);
  });
  // mocha leaves one of its own after each run.
  process.removeAllListeners('unhandledRejection').on('unhandledRejection', fail);
  const {stats, failures} = FileReporter.latest;
  const ofTests = failures.map((test) => ({titlePath: test.titlePath(), err: plainError(test.err)}));
  const late = (await lateErrors()).map((error) => ({titlePath: [file, 'after its tests'], err: plainError(error)}));
  return {passes: stats.passes, pending: stats.pending, failures: [...ofTests, ...late]};
}

/** What goes wrong in the moment after the tests of a file. */
async function lateErrors() {
  const errors = [];
  const add = (error) => errors.push(error);
  // mocha's own, which would throw the error again.
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', add);
  await setTimeout(LATE_ERRORS_MS);
  process.off('uncaughtException', add);
  return errors;
}

process.on('message', async (task) => {
  let result;
  try {
    result = await runFile(task);
  } catch (error) {
    result = {passes: 0, pending: 0, failures: [{titlePath: [task.file, 'is loaded'], err: plainError(error)}]};
  }
  process.send(result);
});
process.on('unhandledRejection', fail);
// Without this, what a test left open (a GPU device) would keep the process.
process.on('disconnect', () => process.exit());
