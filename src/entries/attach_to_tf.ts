/**
 * @file Entry of the package in Node, where all of tfjs is CommonJS: adds `flashMaskAttention` to the `tf` objects of
 * `require('@tensorflow/tfjs')` and its like, which are also the default exports that ESM sees.
 */
import {flashMaskAttention} from './index.js';

/**
 * tfjs-core comes first: packages loaded later copy all its exports. Other packages are extended only if they are
 * already loaded.
 */
const CORE = '@tensorflow/tfjs-core';
const AROUND_CORE = ['@tensorflow/tfjs', '@tensorflow/tfjs-node', '@tensorflow/tfjs-node-gpu'];

function loaded(name: string): unknown {
  try {
    // eslint-disable-next-line @typescript-eslint/no-require-imports -- this file is built as CommonJS
    return name === CORE ? require(CORE) : require.cache[require.resolve(name)]?.exports;
  } catch {
    return undefined; // Not installed, or inside a bundle, where users can only import the op.
  }
}

for (const name of [CORE, ...AROUND_CORE]) {
  const tf = loaded(name);
  if (typeof tf === 'object' && tf !== null && Object.isExtensible(tf) && !('flashMaskAttention' in tf)) {
    Object.defineProperty(tf, 'flashMaskAttention', {value: flashMaskAttention, enumerable: true});
  }
}
