/**
 * @file Dense masked attention from tfjs ops, as a user without this library writes it, with tfjs's automatic gradient.
 * Its error against the oracle, on the device under test, sets the tolerance of the kernels. If the kernels' products
 * read fewer bits, its products read as few.
 */
import * as tf from '@tensorflow/tfjs';
import {onSoftwareAdapter, useWasm} from './devices.js';
import {type AttentionCall, type AttentionResult, type OracleResult, resultNames} from './oracle.js';

const MASKED = -1e30;

/**
 * Forward and gradients of `sum(out dOut) + sum(lse dLse)` on the current tfjs backend.
 *
 * @param bits Precision of the operands of the matrix multiplications.
 */
export async function denseFloat32(call: AttentionCall, bits = 24): Promise<AttentionResult> {
  if (!onSoftwareAdapter()) return denseHere(call, bits);
  // A software adapter compiles tfjs's shaders for each shape. wasm runs on the same CPU and adds in float32 too: the
  // kernels' errors are the same share of those that it allows.
  const backend = tf.getBackend();
  await useWasm();
  const result = await denseHere(call, bits);
  await tf.setBackend(backend);
  return result;
}

/**
 * The same, each number the farthest from `expected` of several draws. Products that read few bits round q times
 * another factor in each draw, as kernels also do. In a result of few elements a single rounding would be luck.
 */
export async function worstDense(call: AttentionCall, bits: number, expected: OracleResult): Promise<AttentionResult> {
  const worst = await denseFloat32(call, bits);
  if (bits === 24) return worst;
  for (const factor of [0.7, 0.8, 0.9]) {
    const scaled = Float32Array.from(call.q, (x) => x * factor);
    const draw = await denseFloat32({...call, q: scaled, scale: call.scale / factor}, bits);
    draw.dq = draw.dq.map((x) => x * factor);
    for (const name of resultNames) {
      const error = (x: number, i: number): number => Math.abs(x - expected[name][i]);
      worst[name] = worst[name].map((x, i) => (error(draw[name][i], i) > error(x, i) ? draw[name][i] : x));
    }
  }
  return worst;
}

async function denseHere(call: AttentionCall, bits: number): Promise<AttentionResult> {
  const matMul = bits < 24 ? matMulOfBits(bits) : tf.matMul;
  const results = tf.tidy(() => {
    const {B, H, Hkv, Sq, Sk, D, Dv} = call;
    const tensor = (data: ArrayLike<number>, S: number, heads: number, channels: number) =>
      toHeadsFirst(tf.tensor4d(Float32Array.from(data), shapeOf(call, S, heads, channels)), call);
    const q = tensor(call.q, Sq, H, D);
    const k = tensor(call.k, Sk, Hkv, D);
    const v = tensor(call.v, Sk, Hkv, Dv);
    const dOut = tensor(call.dOut, Sq, H, Dv);
    const dLse = tf.tensor3d(Float32Array.from(call.dLse), [B, H, Sq]);
    const weights = pairWeights(call);
    const forward = (qi: tf.Tensor, ki: tf.Tensor, vi: tf.Tensor) => attention(qi, ki, vi, weights, call, matMul);
    const {out, lse} = forward(q, k, v);
    const [dq, dk, dv] = tf.grads((qi, ki, vi) => {
      const result = forward(qi, ki, vi);
      return tf.add(tf.sum(tf.mul(result.out, dOut)), tf.sum(tf.mul(result.lse, dLse)));
    })([q, k, v]);
    return {
      out: back(out, call),
      lse,
      dq: back(dq, call),
      dk: back(dk, call),
      dv: back(dv, call),
      ...emptyRows(weights),
    };
  });
  const host: Record<string, Float64Array> = {};
  for (const [name, tensor] of Object.entries(results)) {
    host[name] = Float64Array.from(await tensor.data());
    tensor.dispose();
  }
  const {empty, ...values} = host;
  values.lse.forEach((_, i) => {
    values.lse[i] = empty[i] ? -Infinity : values.lse[i];
  });
  return values as unknown as AttentionResult;
}

interface PairWeights {
  /** 1 where visible, `[B, H, Sq, Sk]`. */
  visible: tf.Tensor4D;
  /** 1 / (1 - dropout) where kept, else 0. */
  keep: tf.Tensor4D | null;
}

function pairWeights(call: AttentionCall): PairWeights {
  const {B, H, Sq, Sk} = call;
  const visible = new Float32Array(B * H * Sq * Sk);
  const keep = new Float32Array(call.dropout > 0 ? visible.length : 0);
  let i = 0;
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let r = 0; r < Sq; r++) {
        for (let j = 0; j < Sk; j++, i++) {
          visible[i] = call.visible(b, h, r, j) ? 1 : 0;
          if (call.dropout > 0) {
            keep[i] = call.kept(b, h, r, j) ? 1 / (1 - call.dropout) : 0;
          }
        }
      }
    }
  }
  const shape: [number, number, number, number] = [B, H, Sq, Sk];
  return {visible: tf.tensor4d(visible, shape), keep: call.dropout > 0 ? tf.tensor4d(keep, shape) : null};
}

/** 1 for each row `[B, H, Sq]` that sees no key. */
function emptyRows({visible}: PairWeights): {empty: tf.Tensor} {
  return {empty: tf.sub(1, tf.max(visible, -1))};
}

/**
 * All tensors have shape `[B, heads, S, channels]`. The log-sum-exp of an empty row stays finite, so that no gradient
 * becomes NaN.
 */
function attention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  weights: PairWeights,
  call: AttentionCall,
  matMul: MatMul,
) {
  const {visible, keep} = weights;
  const products = matMul(q, perQueryHead(k, call), false, true);
  const scores = tf.where(tf.cast(visible, 'bool'), tf.mul(products, call.scale), tf.fill(products.shape, MASKED));
  const max = withoutGradient(scores, (x) => tf.max(x, -1, true));
  const exponentials = tf.mul(tf.exp(tf.sub(scores, max)), visible);
  const sum = tf.add(tf.sum(exponentials, -1, true), tf.expandDims(emptyRows(weights).empty, -1));
  const p = tf.div(exponentials, sum);
  return {
    out: matMul(keep ? tf.mul(p, keep) : p, perQueryHead(v, call)),
    lse: tf.squeeze(tf.add(tf.log(sum), max), [-1]),
  };
}

type MatMul = (a: tf.Tensor, b: tf.Tensor, transposeA?: boolean, transposeB?: boolean) => tf.Tensor;

/** A matrix multiplication that rounds its operands to so many bits, also in its gradient, as tensor cores do. */
function matMulOfBits(bits: number): MatMul {
  // Adds and subtracts a large multiple of x: the rounding leaves the upper bits (Veltkamp splitting).
  const keep = (x: tf.Tensor) => {
    const large = tf.mul(x, 2 ** (24 - bits) + 1);
    return tf.sub(large, tf.sub(large, x));
  };
  return (a, b, transposeA = false, transposeB = false) => {
    if (transposeA) {
      throw new Error('matMulOfBits: transposeA must be false. Transpose the tensor before.');
    }
    const product = tf.customGrad((...args) => {
      const save = args.pop() as tf.GradSaveFunc;
      const [x, y] = args.map((t) => keep(t as tf.Tensor));
      save([x, y]);
      const gradFunc = (dz: tf.Tensor, saved: tf.Tensor[]): tf.Tensor[] => {
        const [g, [u, w]] = [keep(dz), saved];
        return transposeB
          ? [tf.matMul(g, w), tf.matMul(g, u, true)]
          : [tf.matMul(g, w, false, true), tf.matMul(u, g, true)];
      };
      return {value: tf.matMul(x, y, false, transposeB), gradFunc};
    });
    return product(a, b);
  };
}

/** Repeats each key head for the query heads of its group: `[B, Hkv, S, C]` to `[B, H, S, C]`. */
function perQueryHead(x: tf.Tensor, {B, H, Hkv}: AttentionCall): tf.Tensor {
  const [, , S, channels] = x.shape;
  const grouped = tf.reshape(x, [B, Hkv, 1, S * channels]);
  return tf.reshape(tf.tile(grouped, [1, 1, H / Hkv, 1]), [B, H, S, channels]);
}

function withoutGradient(x: tf.Tensor, f: (x: tf.Tensor) => tf.Tensor): tf.Tensor {
  return tf.customGrad((y) => ({value: f(y as tf.Tensor), gradFunc: () => tf.zerosLike(x)}))(x);
}

function shapeOf({B, layout}: AttentionCall, S: number, heads: number, channels: number) {
  return (layout === 'bshd' ? [B, S, heads, channels] : [B, heads, S, channels]) as [number, number, number, number];
}

function toHeadsFirst(x: tf.Tensor4D, {layout}: AttentionCall): tf.Tensor {
  return layout === 'bshd' ? tf.transpose(x, [0, 2, 1, 3]) : x;
}

/** From `[B, heads, S, channels]` to the call's layout. */
function back(x: tf.Tensor, {layout}: AttentionCall): tf.Tensor {
  return layout === 'bshd' ? tf.transpose(x, [0, 2, 1, 3]) : tf.clone(x);
}
