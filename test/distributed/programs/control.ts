/**
 * @file A process of the control plane alone, without TensorFlow. Rank 1 ends as the first argument says, while rank 0
 * waits for it.
 */
import {ControlPlane} from '../../../src/distributed/control/control_plane.js';
import {WORLD} from '../../../src/distributed/control/hub.js';
import {findPlace} from '../../../src/distributed/launcher.js';
import {ownEndpoint, publish} from '../../../src/distributed/rendezvous.js';

const [, , end, file] = process.argv;
const {rank, size} = findPlace(process.env)!;
const introduction = {rank, size, token: 'test', about: 'a test'};
const options = {introduction, timeout: 300_000, addon: null, blocks: true};
const control =
  rank === 0
    ? await ControlPlane.listen(options, {port: 0, loopback: true}, (port) => publish(file, ownEndpoint(port, 'test')))
    : await ControlPlane.join(options, {file});
await control.exchange(WORLD, {kind: 'exchange'}, rank);
if (rank === 1) {
  if (end === 'throws') throw new TypeError('the loss is NaN');
  if (end === 'is killed') process.kill(process.pid, 'SIGKILL');
  if (end === 'exits') process.exit(0);
}
control.exchangeSync(WORLD, {kind: 'barrier'}, null);
