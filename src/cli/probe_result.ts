/** @file What src/cli/probe.ts, a program of its own, tells the doctor. */
import type {AddonInfo} from '../backends/tensorflow/load.js';

/** Before its line of JSON: drivers and libraries print lines of their own. */
export const PROBE_MARK = 'TFJS_FLASHMASK_PROBE ';

export interface ProbeResult {
  /** The kernels, in words. */
  kernel: string;
  /** What it runs on, such as an adapter. */
  facts: string[];
  /** Why the kernels are not the native ones, where there are such. */
  notNative?: string;
  addon?: {path: string} & AddonInfo;
}
