/** @file One GPU for each process: CUDA_VISIBLE_DEVICES, which CUDA reads when TensorFlow first asks for GPUs. */
import {engine} from '@tensorflow/tfjs-core';
import {fail} from '../call/errors.js';
import {type Place, findPlace} from './launcher.js';

/**
 * What `CUDA_VISIBLE_DEVICES` must be so that a process of a launcher sees its own GPU only; undefined to leave it.
 *
 * @param now the variable as it is. A list of several GPUs is that of all processes of the host.
 */
export function visibleDevicesOf({size, localRank}: Place, now: string | undefined): string | undefined {
  if (size === 1) return undefined;
  if (now === undefined) return String(localRank);
  const devices = now.split(',');
  // A launcher that gave one GPU to each process has done it already, and an empty list hides all GPUs. With too few,
  // CUDA tells.
  return devices.length > 1 && localRank < devices.length ? devices[localRank].trim() : undefined;
}

/** Whether tfjs-node had chosen its GPU before. */
let tooLate = false;

/** Gives a process of a launcher its own GPU, if tfjs-node is not loaded yet. */
export function chooseDevice(): void {
  const place = findPlace(process.env);
  const own = place && visibleDevicesOf(place, process.env.CUDA_VISIBLE_DEVICES);
  if (own == null) return;
  tooLate = 'tensorflow' in (engine() as unknown as {registryFactory: object}).registryFactory;
  if (!tooLate) process.env.CUDA_VISIBLE_DEVICES = own;
}

/** Throws if this process took the GPU of all others. */
export function requireOwnDevice(place: Place): void {
  if (!tooLate) return;
  const remedy =
    "Import 'tfjs-flashmask/distributed' before @tensorflow/tfjs-node-gpu, or set CUDA_VISIBLE_DEVICES for each process.";
  const rule = `each process must see its own GPU alone, this one number ${place.localRank} of its host`;
  fail('init', rule, 'all of them', remedy);
}
