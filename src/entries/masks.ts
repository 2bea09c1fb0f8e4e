/**
 * @file Entry `tfjs-flashmask/masks`: the builders of masks by their own names. `masks` of the main entry has the same ones; from here a
 * bundler takes only those that a page imports, even one that keeps all members of a namespace.
 *
 * @module tfjs-flashmask/masks
 */
export * from '../mask/builders/index.js';
