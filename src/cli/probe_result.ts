/** @file The message from the separate program src/cli/probe.ts to the doctor. */
import type {AddonInfo} from '../backends/tensorflow/load.js';

/** Marks its line of JSON, because drivers and libraries print other lines. */
export const PROBE_MARK = 'TFJS_FLASHMASK_PROBE ';

export interface ProbeResult {
  /** The kernels that ran, in words. */
  kernel: string;
  /** The hardware or library that it runs on, for example an adapter. */
  facts: string[];
  /** The reason why native kernels, if the backend has any, did not run. */
  notNative?: string;
  addon?: {path: string} & AddonInfo;
}
