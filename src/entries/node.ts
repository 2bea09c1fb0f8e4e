/**
 * @file Entry `tfjs-flashmask/node`: importing it gives the backend 'tensorflow' of tfjs-node and tfjs-node-gpu the
 * native kernels. It may be imported before or after tfjs-node. It exports everything that the main entry exports, and
 * `nativeInfo`, `setThreads` and `traced`.
 *
 * @module tfjs-flashmask/node
 */
import {registerNativeKernels} from '../backends/tensorflow/kernel.js';
import {type AddonInfo, findAddon} from '../backends/tensorflow/load.js';
import {registerNativeLayers} from '../backends/tensorflow/layers.js';
import {restoreRemovedUtil} from '../backends/tensorflow/removed_util.js';

restoreRemovedUtil();
registerNativeKernels();
registerNativeLayers();

export * from './index.js';
export {setThreads} from '../backends/tensorflow/kernel.js';
export type {TracedResults} from '../backends/tensorflow/traced/gradients.js';
export {type Traced, type TracedOptions, traced} from '../backends/tensorflow/traced/traced.js';
export type {AddonInfo} from '../backends/tensorflow/load.js';

/** The Node addon that was found. */
export interface NativeAddon extends AddonInfo {
  /** Path of its file. */
  path: string;
}

/** No Node addon, and why. */
export interface NoNativeAddon {
  /** Null, because there is no addon to use. */
  path: null;
  /** What is missing or does not match. */
  reason: string;
}

/** The Node addon, or why there is none. */
export type NativeInfo = NativeAddon | NoNativeAddon;

/**
 * Tells how the native kernels of the backend 'tensorflow' were built, and what they find on this machine. Works
 * without tfjs-node.
 *
 * @example
 * ```ts
 * import {nativeInfo} from 'tfjs-flashmask/node';
 *
 * // {path: '...', version: '0.1.0', cuda: {built: true, ...}, instructionSet: 'avx512', threads: 8, ...}
 * console.log(nativeInfo());
 * ```
 */
export function nativeInfo(): NativeInfo {
  const found = findAddon();
  return found.addon ? {path: found.path, ...found.addon.info()} : {path: null, reason: found.reason};
}
