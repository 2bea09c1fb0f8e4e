/** @file The ops of the layers that the Node addon registers: they run, and refuse what does not fit. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {registerNativeLayers} from '../../src/backends/tensorflow/layers.js';
import {adamwStep} from '../../src/layers/adamw.js';
import {gatedUnit} from '../../src/layers/gated_unit.js';
import {rmsNorm} from '../../src/layers/rms_norm.js';
import {rotate} from '../../src/layers/rotate.js';
import {devices} from '../support/devices.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;

interface Backend {
  executeMultipleOutputs(name: string, attributes: unknown[], inputs: tf.Tensor[], outputs: number): tf.Tensor[];
}

const backendNow = (): Backend => tf.backend() as unknown as Backend;

/** Names of the addon's ops that `body` runs. */
function opsOf(body: () => void): string[] {
  const backend = backendNow();
  const names: string[] = [];
  const execute = backend.executeMultipleOutputs.bind(backend);
  backend.executeMultipleOutputs = (name, ...rest) => {
    names.push(name);
    return execute(name, ...rest);
  };
  try {
    tf.tidy(body);
  } finally {
    Reflect.deleteProperty(backend, 'executeMultipleOutputs');
  }
  return names.filter((name) => name.startsWith('FlashMask'));
}

(tensorflow.skip ? describe.skip : describe)(
  `layers on tfjs-node${tensorflow.skip ? ` (${tensorflow.skip})` : ''}`,
  () => {
    before(() => tensorflow.setup());

    const x = (): tf.Tensor2D => tf.ones([3, 8]);
    const table = (): tf.Tensor3D => tf.ones([3, 1, 4]);

    it('run as one op each, forward and backward', () => {
      const gamma = tf.variable(tf.ones([8])) as tf.Variable<tf.Rank.R1>;
      const tables = {cosines: tf.keep(table()), sines: tf.keep(table())};
      const sum = (y: tf.Tensor): tf.Scalar => tf.sum(y);
      expect(opsOf(() => void tf.variableGrads(() => sum(rmsNorm(x(), gamma, 1e-5))))).to.deep.equal([
        'FlashMaskRmsNorm',
        'FlashMaskRmsNormGrad',
        'FlashMaskRmsNormGammaGrad',
      ]);
      expect(opsOf(() => tf.grad((y) => sum(rotate(y as tf.Tensor2D, tables)))(x()))).to.deep.equal([
        'FlashMaskRotate',
        'FlashMaskRotate',
      ]);
      expect(opsOf(() => tf.grad((y) => sum(gatedUnit(y as tf.Tensor2D, x())))(x()))).to.deep.equal([
        'FlashMaskGatedUnit',
        'FlashMaskGatedUnitGrad',
      ]);
      const rates = {beta1: 0.9, beta2: 0.99, decays: false};
      const step = (): unknown =>
        adamwStep({gradient: x(), m: x(), v: x(), value: x()}, tf.scalar(1), tf.tensor1d([1, 1, 1]), rates);
      expect(opsOf(() => void step())).to.deep.equal(['FlashMaskAdamW']);
      tf.dispose([gamma, tables.cosines, tables.sines]);
    });

    it('keep the kernels of another copy of this library', () => {
      const before = tf.getKernel('FlashMaskRotate', 'tensorflow');
      registerNativeLayers();
      expect(tf.getKernel('FlashMaskRotate', 'tensorflow')).to.equal(before);
    });

    const wrong: [string, () => tf.Tensor[], RegExp][] = [
      ['FlashMaskRmsNorm', () => [x(), tf.ones([7])], /gamma must have a number a channel, got \[7\]/],
      [
        'FlashMaskRmsNormGrad',
        () => [x(), tf.ones([8]), tf.ones([3]), x()],
        /inverse must have a number a row, got \[3\]/,
      ],
      ['FlashMaskRmsNormGammaGrad', () => [x(), tf.ones([3, 1]), tf.ones([3, 7])], /inputs must fit, got \[3, 7\]/],
      ['FlashMaskRotate', () => [x(), tf.ones([3, 4]), table()], /cosines must be \[N, 1, headSize\], got \[3, 4\]/],
      ['FlashMaskRotate', () => [x(), table(), tf.ones([2, 1, 4])], /sines must fit cosines, got \[2, 1, 4\]/],
      ['FlashMaskRotate', () => [x(), tf.ones([3, 1, 3]), tf.ones([3, 1, 3])], /channels must be heads of even size/],
      ['FlashMaskGatedUnit', () => [x(), tf.ones([8, 3])], /inputs must fit, got \[8, 3\]/],
      ['FlashMaskGatedUnitGrad', () => [x(), x(), tf.ones([3, 0])], /inputs must fit, got \[3, 0\]/],
      [
        'FlashMaskGatedUnit',
        () => [tf.ones([0, 4]), tf.ones([0, 4])],
        /the first input must be a matrix, got \[0, 4\]/,
      ],
      [
        'FlashMaskAdamW',
        () => [x(), x(), x(), tf.ones([24]), tf.scalar(1), tf.ones([3])],
        /inputs must fit, got \[24\]/,
      ],
      [
        'FlashMaskAdamW',
        () => [x(), x(), x(), x(), tf.ones([2]), tf.ones([3])],
        /shrink must be one number, got \[2\]/,
      ],
      [
        'FlashMaskAdamW',
        () => [x(), x(), x(), x(), tf.scalar(1), tf.ones([2])],
        /factors must be three numbers, got \[2\]/,
      ],
    ];
    for (const [name, inputs, message] of wrong) {
      it(`${name} refuses what does not fit: ${message.source}`, () => {
        const {binding} = tf.backend() as unknown as {binding: Record<string, number>};
        const float = (key: string) => ({name: key, type: binding.TF_ATTR_FLOAT, value: 0.5});
        const bool = (key: string) => ({name: key, type: binding.TF_ATTR_BOOL, value: false});
        const attributes = name === 'FlashMaskAdamW' ? [float('beta1'), float('beta2'), bool('decays')] : [];
        const outputs = {FlashMaskRmsNorm: 2, FlashMaskGatedUnitGrad: 2, FlashMaskAdamW: 3}[name] ?? 1;
        const run = (): unknown =>
          tf.tidy(() => backendNow().executeMultipleOutputs(name, attributes, inputs(), outputs));
        expect(run).to.throw(message);
      });
    }
  },
);
