/**
 * @file The suite `tiles`: tile shapes of each WebGPU pass, fastest first, as autotune() times them. `dq` and `dkdv`
 * are timed within the whole backward pass.
 */
import {masks} from '../../src/entries/index.js';
import {autotune} from '../../src/entries/autotune.js';
import {setTuningStorage} from '../../src/backends/webgpu/device/tuned_tiles_store.js';
import {tflops, type Emit} from '../record.js';
import {Bench, type CommonOptions} from './suite.js';

export async function runTiles(options: CommonOptions, emit: Emit): Promise<void> {
  const {lengths, heads: H, dims, precision} = options;
  const bench = await Bench.start('tiles', options, emit);
  // Leave the results of the user's own tuning alone.
  setTuningStorage(undefined);
  for (const D of dims) {
    for (const N of lengths) {
      const masked = masks.causal(N).sparsity().maskedPairs;
      for (const {pass, tried} of await autotune({D, length: N, heads: H, intervals: false, precision})) {
        for (const {tiles, milliseconds: ms} of tried) {
          const key = pass === 'forward' ? 'forward' : 'backward';
          const figures = {masked, [`${key}Ms`]: ms, [`${key}Tflops`]: tflops({N, H, D, masked}, key, ms)};
          const shape = JSON.stringify(tiles).replace(/[{}"]/g, '');
          await bench.measure({part: pass, attention: 'flash', mask: 'causal', N, H, D, shape}, () => figures);
        }
      }
    }
  }
}
