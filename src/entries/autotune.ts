/** @file `autotune`, given the op that it measures: only entries import ops. */
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {type AutotuneOptions, type TunedPass, autotuneWith} from '../backends/webgpu/autotune/autotune.js';

/**
 * Measures which tile sizes are fastest for one kind of attention call (head sizes, causal or not, ...) on the current
 * WebGPU device, forward and backward. All later calls of that kind use them. Results change only by rounding. The
 * choice is kept for later runs of the program: after `useWebGPU()` in a file in the user's cache folder, in a page in
 * localStorage. It is valid for this adapter, its limits and this version of the library, until
 * {@link clearAutotuneCache}.
 *
 * It takes some seconds on a GPU, at most about `budgetMs`, and never runs by itself. A later call returns the
 * remembered choice at once, unless `force` is set. Without it, calls use tile sizes that suit most devices.
 *
 * ```js
 * await autotune({D: 64, causal: true, onProgress: ({done, total}) => console.log(`${done} of ${total}`)});
 * ```
 *
 * @returns the result for each pass.
 * @throws Error if the current backend is not WebGPU, and for invalid options.
 */
export function autotune(options: AutotuneOptions): Promise<TunedPass[]> {
  return autotuneWith(flashMaskAttention as Parameters<typeof autotuneWith>[0], options);
}
