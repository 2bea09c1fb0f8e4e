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
  /** Tokens of the row on which one step of each attention is timed. */
  timedTokens: number;
}

const GPU: Defaults = {steps: 300, batch: 8, rowTokens: 1024, timedTokens: 1024};
/** WebGPU on two CPU cores: half a row a step, so that 20 dense steps fit into the run's 4 minutes. */
const SOFTWARE: Defaults = {steps: 40, batch: 1, rowTokens: 512, timedTokens: 1024};
const CPU: Defaults = {steps: 24, batch: 1, rowTokens: 256, timedTokens: 256};

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
