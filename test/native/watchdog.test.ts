/**
 * @file Checks the watchdog of the random calls of native/test/cuda/check.py, with programs that sleep and crash in
 * place of kernels. `FLASHMASK_PYTHON` names the interpreter.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {skip} from '../support/skip.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const watchdog = fileURLToPath(new URL('../../native/test/cuda/watchdog.py', import.meta.url));

/** Runs a program under a watchdog of two seconds. */
function watched(...lines: string[]): {status: number | null; stdout: string} {
  const program = ['import os, sys, time', 'say = lambda text: print(text, flush=True)', ...lines].join('\n');
  return spawnSync(python, [watchdog, '2', python, '-c', program], {encoding: 'utf8'});
}

describe('The watchdog of random calls', () => {
  before(function () {
    if (spawnSync(python, ['--version']).status !== 0) skip(this, `there is no ${python}`);
  });

  it('ends a process that makes no progress, and tells its call', () => {
    const {status, stdout} = watched('say("> call 1")', 'say("> call 2, causal")', 'time.sleep(1000)');
    expect(stdout).to.equal('FAILED: nothing happened for 2 s in call 2, causal\n');
    expect(status).to.equal(1);
  });

  it('lets one that goes on take as long as it likes', () => {
    const {status, stdout} = watched('for i in range(5): say(f"> call {i}"); time.sleep(0.6)', 'say("5 passed")');
    expect(stdout).to.equal('5 passed\n');
    expect(status).to.equal(0);
  });

  it('tells the call in which a process ended, and passes on its status', () => {
    expect(watched('say("> call 3")', 'os.abort()')).to.include({
      status: 1,
      stdout: 'FAILED: the process ended by signal 6 in call 3\n',
    });
    expect(watched('sys.exit(9)').status).to.equal(9);
  });
}).timeout(30_000);
