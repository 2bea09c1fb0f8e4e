/**
 * @file Entry `tfjs-flashmask/masks`: the mask builders as named exports. `masks` of the main entry has the same ones.
 * From this entry a bundler keeps only the builders that a page imports, even if it keeps all members of a namespace.
 *
 * @module tfjs-flashmask/masks
 */
export * from '../mask/builders/index.js';
