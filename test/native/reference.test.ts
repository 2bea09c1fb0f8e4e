/**
 * @file Checks the Python reference of the CUDA checks (native/test/cuda/reference.py) with the shared vectors. Skipped
 * with the reason where Python has no torch. `FLASHMASK_PYTHON` names the interpreter.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {skip} from '../support/skip.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('../../native/test/cuda/vectors.py', import.meta.url));

describe('Python reference of the CUDA checks', () => {
  it('has the shared vectors of all languages', function () {
    if (spawnSync(python, ['-c', 'import torch']).status !== 0) skip(this, `${python} has no torch`);
    const {stdout} = spawnSync(python, [script], {encoding: 'utf8'});
    expect(stdout).to.equal('all vectors hold\n');
  });
});
