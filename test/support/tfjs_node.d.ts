/**
 * @file tfjs-node without its types, because it is installed only where a test or a program needs it
 * (scripts/setup_native.mjs).
 */
declare module '@tensorflow/tfjs-node';
