/**
 * @file The whole of tfjs with `tf.flashMaskAttention` in it: replace `import * as tf from '@tensorflow/tfjs'` by
 * `import * as tf from 'tfjs-flashmask/tf'`.
 */
export * from '@tensorflow/tfjs';
export {FlashMask, flashMaskAttention, masks} from './index.js';
