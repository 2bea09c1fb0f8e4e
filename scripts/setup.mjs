/**
 * @file Installs the dependencies, unless they are already installed for the current lock file, so that `npm start` and
 * `npm test` work right after a clone. This is plain JavaScript without dependencies, because none are installed yet.
 */
import {fileURLToPath} from 'node:url';
import {installPackages} from './install.mjs';

const OLDEST_NODE = 20;

function fail(message) {
  console.error(message);
  process.exit(1);
}

if (Number(process.versions.node.split('.')[0]) < OLDEST_NODE) {
  fail(`tfjs-flashmask needs Node ${OLDEST_NODE} or newer, got ${process.versions.node}. Install a newer one.`);
}
try {
  installPackages(fileURLToPath(new URL('..', import.meta.url)), 'the development dependencies, about a minute');
} catch (error) {
  fail(error.message);
}
