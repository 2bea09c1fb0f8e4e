/**
 * @file Runs test files on lanes: long-lived processes, as many as the cores allow. mocha's own `--parallel` mixes what
 * the tests of two files print, and does not end when a process hangs; here the output of a file is one block, and a
 * lane that crashes or hangs is a failure that names the file.
 */
import {fork} from 'node:child_process';
import {closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {availableParallelism, tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import Mocha from 'mocha';
import PlainSummary from './reporter.cjs';

const LANE = fileURLToPath(new URL('test_lane.mjs', import.meta.url));
/** More lanes than this do not pay: each takes a gigabyte. */
const MOST_LANES = 4;
/** A test file that takes longer hangs: mocha ends a test that waits, but not one that loops. */
const FILE_LIMIT_MS = 20 * 60 * 1000;
const SLOWEST_SHOWN = 20;

/**
 * A process, and the file that collects what it prints. Even native code and the commands that tests start print there.
 */
class Lane {
  constructor(folder, index) {
    this.log = join(folder, `lane-${index}.log`);
    writeFileSync(this.log, '');
    const output = openSync(this.log, 'a');
    this.process = fork(LANE, {
      execArgv: ['--import=tsx'],
      serialization: 'advanced',
      stdio: ['ignore', output, output, 'ipc'],
    });
    closeSync(output);
    this.read = 0;
    this.ended = new Promise((resolve) => {
      this.process.once('exit', (code, signal) => resolve(signal ?? code));
      this.process.once('error', (error) => resolve(error.message));
    });
  }

  /** The results of a file; a lane that ends before that is a failure. */
  async run(task) {
    const answer = new Promise((resolve) => this.process.once('message', resolve));
    const limit = setTimeout(() => this.process.kill('SIGKILL'), FILE_LIMIT_MS);
    this.process.send(task, () => {}); // A lane that is gone says so by `ended`.
    const result = await Promise.race([answer, this.ended.then((end) => crash(task.file, 'ran this file', end))]);
    clearTimeout(limit);
    return result;
  }

  /** What was printed since the last call. */
  output() {
    const printed = readFileSync(this.log).subarray(this.read);
    this.read += printed.length;
    return printed.toString();
  }

  /** Why the lane did not end in order; undefined if it did. */
  async stop() {
    this.process.disconnect();
    const limit = setTimeout(() => this.process.kill('SIGKILL'), FILE_LIMIT_MS / 20);
    const end = await this.ended;
    clearTimeout(limit);
    return end === 0 ? undefined : end;
  }
}

/** @param doing what the process was asked to do when it ended */
function crash(file, doing, end) {
  const how = typeof end === 'number' ? `exit code ${end}` : end;
  const message = `The process ended with ${how} while it ${doing}. Its output stands above, under the file's name.`;
  return {passes: 0, pending: 0, crashed: true, failures: [{titlePath: [file], err: {message, stack: ''}}]};
}

/**
 * Runs the files in this order, those that use WebGPU on the first lane; a lane without more of its own kind takes
 * those of the other.
 *
 * @returns the results of each file, with its seconds
 */
async function runAll(files, options, folder) {
  const queue = [...files];
  // Files that use WebGPU share compiled pipelines if they run in one process.
  const usesGpu = new Set(files.filter((file) => readFileSync(file, 'utf8').includes('support/devices.js')));
  const next = (index) => {
    const at = queue.findIndex((file) => usesGpu.has(file) === (index === 0));
    return queue.splice(Math.max(at, 0), 1)[0];
  };
  const results = [];
  const work = async (index) => {
    let lane;
    let file;
    while (queue.length > 0) {
      file = next(index);
      lane ??= new Lane(folder, index);
      const start = performance.now();
      const result = await lane.run({...options, file});
      const seconds = (performance.now() - start) / 1000;
      results.push({...result, file, seconds});
      console.log(`\n== ${file} (${seconds.toFixed(1)} s)${lane.output()}`);
      if (result.crashed) lane = undefined;
    }
    const end = await lane?.stop();
    if (end === undefined) return;
    console.log(`\n== after ${file}\n${lane.output()}`);
    results.push({
      ...crash(file, 'ended, after this and other files', end),
      file: `the end of lane ${index}`,
      seconds: 0,
    });
  };
  const lanes = Math.min(availableParallelism(), MOST_LANES, files.length);
  await Promise.all(Array.from({length: lanes}, (_, index) => work(index)));
  return results;
}

function printSlowest(results) {
  const slowest = [...results].sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST_SHOWN);
  console.log(`\nSlowest files, in seconds:`);
  for (const {file, seconds} of slowest) console.log(`${seconds.toFixed(1).padStart(8)}  ${file}`);
}

/** mocha's own list of failures and summary, and the plain line. */
function printSummary({passes, pending, failures, duration}) {
  const listed = failures.map(({titlePath, err}) => ({titlePath: () => titlePath, err, slow: () => 0}));
  const stats = {passes, pending, failures: listed.length, duration};
  Mocha.reporters.Base.prototype.epilogue.call({stats, failures: listed});
  console.log(PlainSummary.line(stats));
}

/**
 * Runs the files, prints their output and the summary.
 *
 * @param files in the order in which they start: the longest first
 * @param options `timeout` of a test in milliseconds
 * @returns the seconds of each file, and how many tests failed
 */
export async function runOnLanes(files, {timeout}) {
  const start = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-lanes-'));
  // The packed package, which the first test that needs it makes (test/support/packed_project.ts).
  process.env.FLASHMASK_TARBALL ||= join(folder, 'tfjs-flashmask.tgz');
  try {
    const results = await runAll(files, {timeout, color: process.stdout.isTTY === true}, folder);
    const sum = (name) => results.reduce((total, result) => total + result[name], 0);
    const failures = results.flatMap((result) => result.failures);
    printSlowest(results);
    printSummary({passes: sum('passes'), pending: sum('pending'), failures, duration: performance.now() - start});
    return {failed: failures.length, seconds: results.map(({file, seconds}) => [file, seconds])};
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}
