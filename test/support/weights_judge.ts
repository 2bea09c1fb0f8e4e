/**
 * @file Runs test/support/weights_judge.py, which uses Python's own packages. `FLASHMASK_PYTHON` names the interpreter.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('weights_judge.py', import.meta.url));

/** Why the judge cannot use these packages; '' if it can. */
export function reasonToSkipJudge(...packages: string[]): string {
  const probe = spawnSync(python, ['-c', `import ${packages.join(', ')}`], {encoding: 'utf8'});
  if (probe.error) {
    return `${python} cannot be run: ${probe.error.message}`;
  }
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

/** The judge's answer to a task. */
export function askJudge(task: string, fields: Record<string, unknown>): unknown {
  const options = {input: JSON.stringify({task, ...fields}), encoding: 'utf8', maxBuffer: 2 ** 28} as const;
  const judge = spawnSync(python, [script], {...options, env: {...process.env, HF_HUB_OFFLINE: '1'}});
  if (judge.status !== 0) {
    throw new Error(`${task}: ${judge.stderr.trim().split('\n').slice(-5).join('\n')}`);
  }
  return JSON.parse(judge.stdout);
}
