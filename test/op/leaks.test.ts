/** @file Memory: constant over 100 training steps, and intermediate tensors and buffers returned at once. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {HEAD_SIZE} from '../support/cases.js';
import {type Device, onEachDevice} from '../support/devices.js';

const [S, H, D] = [40, 2, HEAD_SIZE];

interface Level {
  tensors: number;
  buffers: number;
  bytes: number;
  gpuBytes: number;
}

/** What tfjs holds now. Only webgpu has `numBytesInGPU`. */
function level(): Level {
  const {
    numTensors,
    numDataBuffers,
    numBytes,
    numBytesInGPU = 0,
  } = tf.memory() as tf.MemoryInfo & {numBytesInGPU?: number};
  return {tensors: numTensors, buffers: numDataBuffers, bytes: numBytes, gpuBytes: numBytesInGPU};
}

async function settled(device: Device): Promise<Level> {
  expect(await device.hiddenErrors()).to.deep.equal([]);
  return level();
}

/** One attention layer with trained projections. */
class Model {
  readonly weights = ['query', 'key', 'value'].map((name, i) =>
    tf.variable(tf.randomNormal([D, H * D], 0, 0.5, 'float32', i + 1), true, `${name}-${Math.random()}`),
  );
  readonly optimizer = tf.train.adam(0.01);
  readonly x = tf.randomNormal([S, D], 0, 1, 'float32', 9);
  readonly mask = masks.causalDocument([10, 25, 5]);

  /** Runs a training step and returns its loss. */
  async step(): Promise<number> {
    const cost = this.optimizer.minimize(() => this.loss(), true)!;
    const [value] = await cost.data();
    cost.dispose();
    return value;
  }

  loss(): tf.Scalar {
    const [q, k, v] = this.weights.map(
      (w) => tf.reshape(tf.matMul(this.x, w as tf.Tensor2D), [1, S, H, D]) as tf.Tensor4D,
    );
    const [out, lse] = flashMaskAttention(q, k, v, this.mask, {returnLogSumExp: true, dropout: 0.1, seed: 7});
    return tf.add(tf.mean(tf.squaredDifference(out, 1)), tf.mul(0.001, tf.mean(tf.square(lse)))) as tf.Scalar;
  }

  dispose(): void {
    this.optimizer.dispose();
    tf.dispose([this.x, ...this.weights]);
  }
}

describe('memory', () => {
  onEachDevice((device) => {
    it('is level over 100 training steps, and the loss falls', async () => {
      const model = new Model();
      const first = await model.step();
      await model.step();
      const before = await settled(device);
      let last = first;
      for (let i = 0; i < 100; i++) {
        last = await model.step();
      }
      expect(await settled(device)).to.deep.equal(before);
      expect(last).to.be.below(first);
      model.dispose();
    });

    it('goes back at once, forward and backward, without tf.tidy', async () => {
      const shape: [number, number, number, number] = [1, S, H, D];
      const [q, k, v] = [3, 4, 5].map((seed) => tf.randomNormal<tf.Rank.R4>(shape, 0, 1, 'float32', seed));
      const mask = masks.causalDocument([10, 25, 5]);
      const differentiate = tf.grads((a, b, c) =>
        flashMaskAttention(a as tf.Tensor4D, b as tf.Tensor4D, c as tf.Tensor4D, mask),
      );
      // The first run fills the cache of the mask, its bounds and bounds maps, which all layers and steps share.
      tf.dispose(differentiate([q, k, v]));
      const before = await settled(device);

      const [out, lse] = flashMaskAttention(q, k, v, mask, {returnLogSumExp: true});
      await Promise.all([out.data(), lse.data()]);
      const during = await settled(device);
      expect(during.tensors - before.tensors, 'tensors of a call: out and lse').to.equal(2);
      expect(during.buffers - before.buffers, 'buffers of a call: out and lse').to.equal(2);
      expect(during.bytes - before.bytes, 'bytes of a call').to.equal(4 * (S * H * D + H * S));
      tf.dispose([out, lse]);
      expect(await settled(device), 'after freeing the outputs').to.deep.equal(before);

      const gradients = differentiate([q, k, v]);
      await Promise.all(gradients.map((x) => x.data()));
      expect((await settled(device)).tensors - before.tensors, 'tensors of a gradient').to.equal(3);
      tf.dispose(gradients);
      expect(await settled(device), 'after freeing the gradients').to.deep.equal(before);
      tf.dispose([q, k, v]);
    });

    it('stays bounded when every call has a new mask', async () => {
      const q = tf.randomNormal<tf.Rank.R4>([1, S, H, D], 0, 1, 'float32', 3);
      const call = async (i: number) => {
        const out = flashMaskAttention(q, q, q, masks.causalDocument([i % S || 1, S - (i % S || 1)]));
        await out.data();
        out.dispose();
      };
      for (let i = 1; i <= 20; i++) {
        await call(i);
      }
      const before = await settled(device);
      for (let i = 21; i < 39; i++) {
        await call(i);
      }
      expect(await settled(device)).to.deep.equal(before);
      q.dispose();
    });

    it('keeps no more than the bounds map of the latest mask tensor that the user freed', async () => {
      const q = tf.randomNormal<tf.Rank.R4>([1, S, H, D], 0, 1, 'float32', 3);
      const call = async (start: number) => {
        const bounds = tf.fill<tf.Rank.R4>([1, 1, S, 1], start, 'int32');
        const out = flashMaskAttention(q, q, q, bounds, {causal: true});
        await out.data();
        tf.dispose([out, bounds]);
      };
      await call(16);
      const before = await settled(device);
      for (let start = 17; start < 30; start++) {
        await call(start);
      }
      expect(await settled(device)).to.deep.equal(before);
      q.dispose();
    });

    it('is level after an error', async () => {
      const q = tf.randomNormal<tf.Rank.R4>([1, S, H, D], 0, 1, 'float32', 3);
      const before = await settled(device);
      expect(() => flashMaskAttention(q, q, q, masks.causal(S + 1))).to.throw(/flashMaskAttention/);
      expect(await settled(device)).to.deep.equal(before);
      expect(q.isDisposed).to.equal(false);
      q.dispose();
    });
  });
});
