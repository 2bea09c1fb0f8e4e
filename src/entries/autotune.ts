/** @file `autotune` with the op that it tries: entries alone import ops. */
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {type AutotuneOptions, type TunedPass, autotuneWith} from '../backends/webgpu/autotune/autotune.js';

/**
 * Measures which tiles make attention of one kind (head sizes, causal or not, ...) the fastest on the current WebGPU device, forward
 * and backward; all later calls of that kind take them. Results stay the same but for rounding. The choice is kept for later runs of the
 * program: after `useWebGPU()` in a file of the user's cache folder, in a page in localStorage. It holds for this adapter, these limits
 * and this version of the library, until {@link clearAutotuneCache}.
 *
 * It takes some seconds on a GPU and is never done unasked; without it, calls take tiles that suit most devices.
 *
 * ```js
 * await autotune({D: 64, causal: true});
 * ```
 *
 * @returns what was found, pass by pass.
 * @throws Error if the current backend is not WebGPU, and for options that no call could have.
 */
export function autotune(options: AutotuneOptions): Promise<TunedPass[]> {
  return autotuneWith(flashMaskAttention as Parameters<typeof autotuneWith>[0], options);
}
