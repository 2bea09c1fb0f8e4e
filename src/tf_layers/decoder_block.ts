/** @file A block of a decoder-only transformer, of layers of tfjs. */
import {type SymbolicTensor, layers} from '@tensorflow/tfjs-layers';
import {FlashMaskMultiHeadAttention} from './multi_head_attention.js';
import type {FlashMaskMultiHeadAttentionArgs, LayerArgs} from './arguments.js';

/** Arguments of {@link transformerDecoderBlock}: those of its attention, and these. */
export interface DecoderBlockArgs extends Omit<FlashMaskMultiHeadAttentionArgs, keyof LayerArgs | 'outputShape'> {
  /** Channels of the hidden layer of the feed-forward part. */
  intermediateDim: number;
  /** Its activation. Default 'gelu'. */
  activation?: Parameters<typeof layers.dense>[0]['activation'];
  /** Added to the variance in the norms. Default 1e-5. */
  epsilon?: number;
}

/**
 * A block of a decoder: `x + attention(norm(x))`, then the same with two dense layers. It consists of ordinary layers,
 * so models with it are saved and loaded as any.
 *
 * @param inputs `[batch, length, channels]`, or that and document ids or bounds.
 * @returns `[batch, length, channels]`.
 * @example
 * const args = {numHeads: 4, keyDim: 16, intermediateDim: 256, ropeMaxWavelength: 10000};
 * x = transformerDecoderBlock([x, documents], args);
 */
export function transformerDecoderBlock(
  inputs: SymbolicTensor | SymbolicTensor[],
  {intermediateDim, activation = 'gelu', epsilon = 1e-5, ...attention}: DecoderBlockArgs,
): SymbolicTensor {
  const [x, ...mask] = [inputs].flat();
  const {kernelInitializer, biasInitializer, useBias} = attention;
  const norm = (input: SymbolicTensor): SymbolicTensor =>
    layers.layerNormalization({epsilon}).apply(input) as SymbolicTensor;
  const dense = (units: number, input: SymbolicTensor, given: object = {}): SymbolicTensor =>
    layers.dense({units, kernelInitializer: 'glorotUniform', ...given}).apply(input) as SymbolicTensor;
  const plus = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => layers.add().apply([a, b]) as SymbolicTensor;

  const attend = new FlashMaskMultiHeadAttention({useCausalMask: attention.mask ? undefined : true, ...attention});
  const seen = plus(x, attend.apply([norm(x), ...mask]) as SymbolicTensor);
  const weights = {...(kernelInitializer && {kernelInitializer}), ...(biasInitializer && {biasInitializer}), useBias};
  const hidden = dense(intermediateDim, norm(seen), {...weights, activation});
  return plus(seen, dense(x.shape.at(-1)!, hidden, weights));
}
