/** @file FlashMaskMultiHeadAttention on every device: values and gradients of every kind of call against float64. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {masks} from '../../src/entries/index.js';
import {
  FlashMaskBounds,
  FlashMaskMultiHeadAttention,
  type FlashMaskMultiHeadAttentionArgs,
} from '../../src/entries/layers.js';
import {HEAD_SIZE} from '../support/cases.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {type LayerCall, type Numbers, layerOracle} from '../support/layer_oracle.js';
import {normals, seeded} from '../support/random.js';

const B = 2;
/** More than the few queries that have shaders of their own on WebGPU. */
const S = 18;
/** Length of the value of another text. */
const OTHER = 5;

interface Case {
  name: string;
  args?: Partial<FlashMaskMultiHeadAttentionArgs>;
  /** Shapes of query, and of value and key where there are such. */
  shapes?: number[][];
  /** The last input. */
  mask?: () => tf.Tensor;
  visible: LayerCall['visible'];
  /** A device that leaves it out. */
  except?: string;
}

const causal = (_b: number, r: number, j: number): boolean => j <= r;
const DOCUMENTS = [
  Array.from({length: S}, (_, i) => (i < 7 ? 0 : i < 15 ? 1 : -1)),
  Array.from({length: S}, (_, i) => (i < 2 ? 2 : 5)),
];
const ids = (): tf.Tensor => tf.tensor2d(DOCUMENTS, [B, S], 'int32');
const sameDocument = (b: number, r: number, j: number): boolean =>
  DOCUMENTS[b][r] >= 0 && DOCUMENTS[b][r] === DOCUMENTS[b][j];
const VALUE_TOKENS = [
  [4, 2, 0, 0, 0],
  [0, 1, 0, 8, 9],
];

const cases: Case[] = [
  {name: 'self-attention', visible: () => true},
  {name: 'a causal mask', args: {useCausalMask: true}, visible: causal},
  {
    name: 'grouped heads without bias, of another output size',
    args: {numKeyValueHeads: 2, useBias: false, outputShape: 5, useCausalMask: true},
    visible: causal,
  },
  // SwiftShader compiles for seconds for each size.
  {name: 'another value size', args: {valueDim: 6}, except: 'webgpu', visible: () => true},
  {name: 'rotary positions', args: {ropeMaxWavelength: 100, useCausalMask: true}, visible: causal},
  {name: 'a value of another text', shapes: [[S, 6], [OTHER, 3]], visible: () => true}, // prettier-ignore
  {name: 'a key of its own', shapes: [[S, 6], [OTHER, 3], [OTHER, 2]], args: {numKeyValueHeads: 1}, visible: () => true}, // prettier-ignore
  {
    name: 'a mask by the name of its builder',
    args: {mask: {builder: 'slidingWindow', args: [3]}},
    visible: (_b, r, j) => j <= r && r - j < 3,
  },
  {
    name: 'a mask on both sides by the name of its builder',
    args: {mask: {builder: 'window', args: [[2, 1]]}},
    visible: (_b, r, j) => r - j <= 2 && j - r <= 1,
  },
  {
    name: 'a mask of fixed lengths by the name of its builder',
    except: 'webgpu', // as others, for the device
    args: {mask: {builder: 'causalDocument', args: [[[3, S - 3], [S]]]}}, // prettier-ignore
    visible: (b, r, j) => j <= r && (b === 1 || j < 3 === r < 3),
  },
  {name: 'document ids', mask: ids, visible: sameDocument},
  {
    name: 'document ids, causally',
    args: {useCausalMask: true},
    mask: ids,
    visible: (b, r, j) => j <= r && sameDocument(b, r, j),
  },
  {
    name: 'document ids and a window',
    args: {mask: {builder: 'slidingWindow', args: [2]}},
    mask: () => ids().toFloat(),
    visible: (b, r, j) => j <= r && r - j < 2 && sameDocument(b, r, j),
  },
  {
    name: 'document ids and a window on both sides',
    except: 'webgpu', // as others, for the device
    args: {mask: {builder: 'window', args: [[1, 2]]}},
    mask: ids,
    visible: (b, r, j) => r - j <= 1 && j - r <= 2 && sameDocument(b, r, j),
  },
  {
    name: 'bounds of one vector',
    except: 'webgpu', // as others, for the device
    args: {useCausalMask: true},
    mask: () => masks.causalDocument([[3, S - 3], [S]]).toTensor(), // prettier-ignore
    visible: (b, r, j) => j <= r && (b === 1 || j < 3 === r < 3),
  },
  {
    name: 'bounds of two vectors that are causal',
    args: {useCausalMask: true},
    mask: () => masks.qkSparse(S, [[2, 5]]).toTensor(),
    visible: (_b, r, j) => j <= r && !(r >= 2 && r < 5 && j >= 2 && j < 5),
  },
  {
    name: 'bounds of two vectors that are not causal',
    except: 'webgpu', // as others, for the device
    args: {useCausalMask: false},
    mask: () => masks.document([[3, S - 3], [S]]).toTensor(), // prettier-ignore
    visible: (b, r, j) => b === 1 || j < 3 === r < 3,
  },
  {
    name: 'bounds of four vectors',
    mask: () => masks.globalSlidingWindow(S, 1, 2).toTensor(),
    visible: (_b, r, j) => r < 2 || j < 2 || Math.abs(r - j) <= 1,
  },
  {
    name: 'bounds of the tokens of another text',
    args: {useCausalMask: false},
    shapes: [[S, 6], [OTHER, 3]], // prettier-ignore
    mask: () => {
      const layer = new FlashMaskBounds({of: 'tokens', crossAttention: true});
      return layer.apply(tf.tensor2d(VALUE_TOKENS, [B, OTHER], 'int32')) as tf.Tensor;
    },
    visible: (b, _r, j) => VALUE_TOKENS[b][j] > 0,
  },
];

const draw = (shape: number[], seed: number): Numbers => {
  const size = shape.reduce((a, b) => a * b, 1);
  return {shape, data: Float64Array.from(normals(seeded(seed), size, 0.7))};
};
const upload = ({data, shape}: Numbers): tf.Tensor => tf.tensor(Float32Array.from(data), shape, 'float32');
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((sum, x, i) => sum + x * b[i], 0);

/** A layer with drawn weights, its inputs, and the same call for the oracle. */
function prepare({args, shapes = [[S, 6]], mask, visible}: Case) {
  const layer = new FlashMaskMultiHeadAttention({numHeads: 4, keyDim: HEAD_SIZE, ...args});
  const sequences = shapes.map((shape, i) => draw([B, ...shape], 10 + i));
  const tensors = [...sequences.map(upload), ...(mask ? [mask()] : [])];
  layer.apply(tensors);
  const weights = layer.weights.map(({shape}, i) => draw(shape as number[], 20 + i));
  layer.setWeights(weights.map(upload));
  const [query, value = query, key = value] = sequences;
  const {numKeyValueHeads, ropeMaxWavelength} = args ?? {};
  const call: LayerCall = {
    numHeads: 4,
    numKeyValueHeads: numKeyValueHeads ?? 4,
    ropeMaxWavelength: ropeMaxWavelength ?? undefined,
    ...{query, value, key, weights, visible},
  };
  return {layer, tensors, sequences, call};
}

/** The derivative of the sum of output · dOut, in float64, if `moved` goes along `direction`. */
function slope(call: LayerCall, moved: Numbers, direction: Numbers, dOut: Numbers): number {
  const at = (step: number): number => {
    const {data} = moved;
    const before = data.slice();
    data.forEach((_, i) => (data[i] += step * direction.data[i]));
    const sum = dot(layerOracle(call).data, dOut.data);
    data.set(before);
    return sum;
  };
  return (at(1e-4) - at(-1e-4)) / 2e-4;
}

interface Truth {
  expected: Numbers;
  dOut: Numbers;
  /** A random direction for each sequence and weight, and the loss's derivative along it. */
  slopes: {direction: Numbers; slope: number}[];
}

/** Worked out once for all devices: what is drawn depends on the case alone. */
const truths = new Map<string, Truth>();

function truthOf(name: string, call: LayerCall, sequences: Numbers[]): Truth {
  const known = truths.get(name);
  if (known) return known;
  const expected = layerOracle(call);
  const dOut = draw(expected.shape, 30);
  const slopes = [...sequences, ...call.weights].map((moved, i) => {
    const direction = draw(moved.shape, 40 + i);
    return {direction, slope: slope(call, moved, direction, dOut)};
  });
  const truth = {expected, dOut, slopes};
  truths.set(name, truth);
  return truth;
}

onEachDevice((device) => {
  const slack = slackOf(device);

  describe('FlashMaskMultiHeadAttention', () => {
    for (const testCase of cases.filter(({except}) => except !== device.name)) {
      it(`${testCase.name}: values, and gradients of weights and inputs`, async () => {
        const {layer, tensors, sequences, call} = prepare(testCase);
        const {expected, dOut, slopes} = truthOf(testCase.name, call, sequences);
        const shapes = tensors.map(({shape}) => shape);
        expect(layer.computeOutputShape(shapes)).to.deep.equal(expected.shape);

        const inputs = tensors.slice(0, sequences.length).map((x) => tf.variable(x));
        const variables = [...inputs, ...layer.trainableWeights.map((weight) => weight.read() as tf.Variable)];
        let out: tf.Tensor | undefined;
        const {grads} = tf.variableGrads(() => {
          out = tf.keep(layer.apply([...inputs, ...tensors.slice(sequences.length)]) as tf.Tensor);
          return out.mul(upload(dOut)).sum();
        }, variables);
        expect(out!.shape).to.deep.equal(expected.shape);
        const got = await out!.data();
        expected.data.forEach((value, i) => expect(got[i], `at ${i}`).to.be.closeTo(value, 2e-5 * slack));
        for (const [i, {direction, slope}] of slopes.entries()) {
          const gradient = await grads[variables[i].name].data();
          const scale = Math.sqrt(dot(gradient, gradient) * gradient.length) + 10;
          expect(dot(gradient, direction.data), `gradient ${i}`).to.be.closeTo(slope, 1e-5 * slack * scale);
        }
        expect(await device.hiddenErrors()).to.deep.equal([]);
      });
    }
  });
});
