/**
 * @file Entry of the script-tag bundle with layers, which a page loads in place of the one without: its global
 * `flashmask` also has what `tfjs-flashmask/layers` exports, and `tf.einsum` has its gradient.
 */
import './einsum_gradient.js';

export * from './script_tag.js';
export * from './layers.js';
