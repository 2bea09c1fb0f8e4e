/**
 * @file The package's main entry: the op on every backend. Importing it registers kernels and gradients, which is its
 * only side effect.
 *
 * @module tfjs-flashmask
 */
import {registerAll} from './register_all.js';

registerAll();

export * from './api.js';
