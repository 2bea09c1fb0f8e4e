/**
 * @file Entry `tfjs-flashmask/layers`: layers for models of tf.layers. It imports the main entry, so they run on every
 * backend, and registers the classes, so that `tf.loadLayersModel` knows them.
 *
 * @module tfjs-flashmask/layers
 */
import './index.js';

export {FlashMaskMultiHeadAttention} from '../tf_layers/multi_head_attention.js';
export type {FlashMaskMultiHeadAttentionArgs} from '../tf_layers/arguments.js';
export type {BuilderOfLength, MaskBuilder, MaskConfig, WithoutLength} from '../tf_layers/builder_mask.js';
export {FlashMaskBounds, type FlashMaskBoundsArgs} from '../tf_layers/bounds_layer.js';
export {type DecoderBlockArgs, transformerDecoderBlock} from '../tf_layers/decoder_block.js';
export {KeyValueCache} from '../tf_layers/key_value_cache.js';
export {fromKeras} from '../tf_layers/from_keras.js';
