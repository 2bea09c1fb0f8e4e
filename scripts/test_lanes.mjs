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

/** The devices of a task: those whose tests a lane runs of a file, or `all` where any lane may run the whole file. */
const devicesOf = (file, lanes) => {
  if (lanes === 1) return ['all'];
  const text = readFileSync(file, 'utf8');
  // Tests that are the same for each device.
  if (/^test\/(op|layers)\//.test(file) && text.includes('onEachDevice(')) return ['webgpu', 'others'];
  return [file.startsWith('test/webgpu/') && text.includes('support/devices.js') ? 'webgpu' : 'all'];
};

/**
 * What lanes run, the longest first. What needs WebGPU runs on one lane, where files share compiled pipelines.
 *
 * @param secondsOf the seconds that a task took when it was measured, by name
 */
function tasksOf(files, lanes, secondsOf) {
  const tasks = files.flatMap((file) =>
    devicesOf(file, lanes).map((devices) => ({
      file,
      devices,
      name: devices === 'all' ? file : `${file} on ${devices}`,
    })),
  );
  // A task that nobody has measured yet may be long: it comes first.
  const length = ({name}) => secondsOf[name] ?? Infinity;
  // Infinity - Infinity is NaN.
  return tasks.sort((a, b) => length(b) - length(a) || 0);
}

/**
 * Runs the files. A lane takes the tasks of its own devices first, then those of all.
 *
 * @returns the results of each task, with its seconds
 */
async function runAll(files, {secondsOf, ...options}, folder) {
  const lanes = Math.min(availableParallelism(), MOST_LANES, files.length);
  const queue = tasksOf(files, lanes, secondsOf);
  const next = (own) => {
    const at = [own, 'all'].map((wanted) => queue.findIndex(({devices}) => devices === wanted)).find((i) => i >= 0);
    return at === undefined ? undefined : queue.splice(at, 1)[0];
  };
  const results = [];
  const work = async (index) => {
    let lane;
    let last;
    for (let task; (task = next(index === 0 ? 'webgpu' : 'others')) !== undefined; last = task.name) {
      lane ??= new Lane(folder, index);
      const start = performance.now();
      const result = await lane.run({...options, ...task});
      const seconds = (performance.now() - start) / 1000;
      results.push({...result, name: task.name, seconds});
      console.log(`\n== ${task.name} (${seconds.toFixed(1)} s)${lane.output()}`);
      if (result.crashed) lane = undefined;
    }
    const end = await lane?.stop();
    if (end === undefined) return;
    console.log(`\n== after ${last}\n${lane.output()}`);
    const name = `the end of lane ${index}`;
    results.push({...crash(last, 'ended, after this and other files', end), name, seconds: 0});
  };
  await Promise.all(Array.from({length: lanes}, (_, index) => work(index)));
  return results;
}

function printSlowest(results) {
  const slowest = [...results].sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST_SHOWN);
  console.log(`\nSlowest files, in seconds:`);
  for (const {name, seconds} of slowest) console.log(`${seconds.toFixed(1).padStart(8)}  ${name}`);
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
 * @param options `timeout` of a test in milliseconds; `secondsOf` the measured seconds of tasks by name
 * @returns the seconds of each task by name, and how many tests failed
 */
export async function runOnLanes(files, {timeout, secondsOf}) {
  const start = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-lanes-'));
  // The packed package, which the first test that needs it makes (test/support/packed_project.ts).
  process.env.FLASHMASK_TARBALL ||= join(folder, 'tfjs-flashmask.tgz');
  try {
    const results = await runAll(files, {timeout, secondsOf, color: process.stdout.isTTY === true}, folder);
    const sum = (name) => results.reduce((total, result) => total + result[name], 0);
    const failures = results.flatMap((result) => result.failures);
    printSlowest(results);
    printSummary({passes: sum('passes'), pending: sum('pending'), failures, duration: performance.now() - start});
    return {failed: failures.length, seconds: results.map(({name, seconds}) => [name, seconds])};
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}
