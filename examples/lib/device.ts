/** @file Starts the backend, and says what a run on it can afford. */
import * as tf from '@tensorflow/tfjs';
import {useWebGPU} from '../../src/node-webgpu.js';
import {useSoftwareMatMul} from './software_matmul.js';

export type BackendName = 'webgpu' | 'cpu';

/** What a run does unless the command line says otherwise. */
export interface Defaults {
  steps: number;
  /** Rows of a step. */
  batch: number;
  rowTokens: number;
}

const GPU: Defaults = {steps: 300, batch: 8, rowTokens: 1024};
/** WebGPU on two CPU cores: as many steps as fit into 4 minutes, the twin's dense ones included. */
const SOFTWARE: Defaults = {steps: 20, batch: 1, rowTokens: 1024};
const CPU: Defaults = {steps: 24, batch: 1, rowTokens: 256};

/** Makes a backend current. `webgpu` prints a line about its adapter. */
export async function startBackend(name: BackendName): Promise<Defaults> {
  if (name === 'cpu') {
    await tf.setBackend('cpu');
    return CPU;
  }
  const {software} = await useWebGPU();
  if (software) {
    useSoftwareMatMul();
  }
  return software ? SOFTWARE : GPU;
}
