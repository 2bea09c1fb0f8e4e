/** @file Sets up tfjs-node and the native addon of this repository for a command that runs on them. */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';

const SCRIPT = fileURLToPath(new URL('../../scripts/setup_native.mjs', import.meta.url));

/** Says what it does. What cannot be set up is skipped, with the reason: the command then takes another backend. */
export function setUpTensorFlow(): void {
  spawnSync(process.execPath, [SCRIPT], {stdio: ['ignore', 'inherit', 'inherit']});
}
