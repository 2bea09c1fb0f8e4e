/**
 * @file Rotary position embeddings (RoPE, Su et al., arXiv 2104.09864) as in transformers: channels i and i + headSize
 * / 2 of a head rotate together, by position times the channel's frequency.
 */
import * as tf from '@tensorflow/tfjs';
import type {RotaryTables} from '../../../src/layers/rotate.js';
import type {LlamaConfig, RopeScaling} from './config.js';

/**
 * Tables for the positions of the latest call: blocks ask again in the backward pass. They are rows of tables for all
 * positions, which stay on the device. `dispose()` frees both.
 */
export class Rotary {
  private positions: Int32Array | null = null;
  private tables: RotaryTables | null = null;
  private all: (PositionTables & {stretched: number}) | null = null;

  constructor(private readonly config: LlamaConfig) {}

  /**
   * @param positions One per token. The caller must not change the array later. The result is valid until the next
   *   call.
   */
  at(positions: Int32Array): RotaryTables {
    if (this.tables === null || this.positions !== positions) {
      if (this.tables !== null) tf.dispose([this.tables.cosines, this.tables.sines]);
      this.tables = rowsOf(this.upTo(largest(positions) + 1), positions);
      this.positions = positions;
    }
    return this.tables;
  }

  /** Tables for all positions below `length`, and more, so that a longer text seldom needs new ones. */
  private upTo(length: number): PositionTables {
    const {rope, maxPositions} = this.config;
    // Only the frequencies of `dynamic` depend on the length, from `maxPositions` on.
    const stretched = rope.scaling?.type === 'dynamic' ? Math.max(length, maxPositions) : 0;
    const {all} = this;
    if (all === null || all.rows < length || all.stretched !== stretched) {
      if (all !== null) tf.dispose([all.cosines, all.sines]);
      this.all = {stretched, ...makeTables(this.config, length, 2 ** Math.ceil(Math.log2(length)))};
    }
    return this.all!;
  }

  dispose(): void {
    tf.dispose([this.all, this.tables].flatMap((tables) => (tables ? [tables.cosines, tables.sines] : [])));
    this.tables = this.all = null;
  }
}

/** Cosines and signed sines of the positions from 0 on, `[rows, headSize]`. */
interface PositionTables {
  rows: number;
  cosines: tf.Tensor2D;
  sines: tf.Tensor2D;
}

function rowsOf({cosines, sines}: PositionTables, positions: Int32Array): RotaryTables {
  return tf.tidy(() => {
    const at = tf.tensor1d(positions, 'int32');
    const rows = (table: tf.Tensor2D): tf.Tensor3D => tf.keep(tf.gather(table, at).expandDims(1)) as tf.Tensor3D;
    return {cosines: rows(cosines), sines: rows(sines)};
  });
}

function makeTables(config: LlamaConfig, length: number, rows: number): PositionTables {
  const {headSize} = config;
  const half = headSize / 2;
  const {frequencies, scale} = rotaryFrequencies(config, length);
  const cosines = new Float32Array(rows * headSize);
  const sines = new Float32Array(cosines.length);
  for (let position = 0; position < rows; position++) {
    for (let i = 0; i < half; i++) {
      // transformers multiplies in float32. The model was trained with those angles, which differ at far positions.
      const angle = Math.fround(position * frequencies[i]);
      const at = position * headSize + i;
      cosines[at] = cosines[at + half] = Math.cos(angle) * scale;
      sines[at + half] = Math.sin(angle) * scale;
      sines[at] = -sines[at + half];
    }
  }
  const shape: [number, number] = [rows, headSize];
  return {rows, cosines: tf.keep(tf.tensor2d(cosines, shape)), sines: tf.keep(tf.tensor2d(sines, shape))};
}

function largest(positions: Int32Array): number {
  return positions.reduce((a, b) => Math.max(a, b), 0);
}

/**
 * Radians per position of each pair of channels, `[headSize / 2]`, in float32 as in transformers, and the scale that
 * its `_compute_*_parameters` call the attention factor.
 *
 * @param length The longest position of the call plus one. Only `dynamic` uses it.
 */
export function rotaryFrequencies(config: LlamaConfig, length: number): {frequencies: Float32Array; scale: number} {
  const {headSize, maxPositions} = config;
  const {theta, scaling} = config.rope;
  const plain = plainFrequencies(theta, headSize);
  switch (scaling?.type) {
    case undefined:
      return {frequencies: plain, scale: 1};
    case 'linear':
      return {frequencies: plain.map((frequency) => frequency / scaling.factor), scale: 1};
    case 'dynamic': {
      const stretch = (scaling.factor * Math.max(length, maxPositions)) / maxPositions - (scaling.factor - 1);
      return {frequencies: plainFrequencies(theta * stretch ** (headSize / (headSize - 2)), headSize), scale: 1};
    }
    case 'llama3':
      return {frequencies: plain.map((frequency) => llama3Frequency(frequency, scaling)), scale: 1};
    case 'yarn':
      return {frequencies: yarnFrequencies(plain, theta, scaling), scale: scaling.attentionFactor};
  }
}

function plainFrequencies(theta: number, headSize: number): Float32Array {
  return Float32Array.from({length: headSize / 2}, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / headSize)));
}

/** Long waves are stretched by the factor, short waves stay, and waves between are mixed. */
function llama3Frequency(frequency: number, scaling: RopeScaling & {type: 'llama3'}): number {
  const {factor, lowFactor, highFactor, originalMaxPositions} = scaling;
  const turns = (originalMaxPositions * frequency) / (2 * Math.PI);
  const share = Math.min(1, Math.max(0, (turns - lowFactor) / (highFactor - lowFactor)));
  return ((1 - share) * frequency) / factor + share * frequency;
}

/** "NTK-by-parts" of YaRN: channels that rotate fast keep their frequency, slow channels are stretched. */
function yarnFrequencies(plain: Float32Array, theta: number, scaling: RopeScaling & {type: 'yarn'}): Float32Array {
  const {factor, betaFast, betaSlow, originalMaxPositions, truncate} = scaling;
  const headSize = 2 * plain.length;
  const channelOf = (turns: number): number =>
    (headSize * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [channelOf(betaFast), channelOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, headSize - 1);
  // transformers avoids a division by zero in this way.
  const width = high === low ? 0.001 : high - low;
  return plain.map((frequency, i) => {
    const stretched = Math.min(1, Math.max(0, (i - low) / width));
    return (frequency / factor) * stretched + frequency * (1 - stretched);
  });
}
