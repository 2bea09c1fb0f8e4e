/** @file A layer that makes bounds of token ids or document ids once, for all attention layers of a model. */
import {type Tensor, serialization} from '@tensorflow/tfjs-core';
import {type SymbolicTensor, layers} from '@tensorflow/tfjs-layers';
import {checkFlag, checkOptions, describe, fail} from '../call/errors.js';
import {padding, segments} from '../mask/builders/on_device.js';
import {LAYER_ARGS, type LayerArgs} from './arguments.js';

const WHO = 'FlashMaskBounds';

/** Arguments of {@link FlashMaskBounds}. */
export interface FlashMaskBoundsArgs extends LayerArgs {
  /** What the input holds: document ids (negative for padding), or token ids or a padding mask (0 for padding). */
  of: 'documents' | 'tokens';
  /** Also hide the keys after the query's position. The attention layers need the same argument. Default false. */
  useCausalMask?: boolean;
  /** The queries are other tokens than these. For `of: 'tokens'`. Default false. */
  crossAttention?: boolean;
}

/**
 * Makes the bounds of a batch on the device, `[batch, length]` to int32 `[batch, 1, length, 1 or 2]`. Attention layers
 * take them as their last input.
 *
 * @example
 * const bounds = new FlashMaskBounds({of: 'documents', useCausalMask: true}).apply(ids);
 * const y = new FlashMaskMultiHeadAttention({numHeads: 4, keyDim: 16, useCausalMask: true}).apply([x, bounds]);
 */
export class FlashMaskBounds extends layers.Layer {
  /** @ignore */
  static className = WHO;

  private readonly options: Required<Pick<FlashMaskBoundsArgs, 'of' | 'useCausalMask' | 'crossAttention'>>;

  /** @throws Error naming the argument, the rule, the value and the remedy. */
  constructor(args: FlashMaskBoundsArgs) {
    super(args);
    const own = ['of', 'useCausalMask', 'crossAttention'] as const;
    const known = [...own, ...LAYER_ARGS] as (keyof FlashMaskBoundsArgs)[];
    const {of, useCausalMask = false, crossAttention = false} = checkOptions(WHO, args, known);
    if (of !== 'documents' && of !== 'tokens') {
      fail(WHO, "of must be 'documents' or 'tokens'", describe(of), 'Say what the input holds.');
    }
    checkFlag(WHO, 'useCausalMask', useCausalMask);
    checkFlag(WHO, 'crossAttention', crossAttention);
    this.options = {of, useCausalMask, crossAttention};
  }

  /** @ignore */
  override computeOutputShape([batch, length]: (number | null)[]): (number | null)[] {
    return [batch, 1, length, this.options.useCausalMask ? 1 : 2];
  }

  /** @ignore */
  override apply(inputs: Tensor | Tensor[] | SymbolicTensor | SymbolicTensor[], kwargs?: serialization.ConfigDict) {
    const output = super.apply(inputs, kwargs);
    // Else models would convert the bounds to float32 for each layer that reads them.
    if (!('dataId' in output)) Object.assign(output, {dtype: 'int32'});
    return output;
  }

  /** @ignore */
  override call(inputs: Tensor | Tensor[]): Tensor {
    const [ids] = [inputs].flat();
    const {of, useCausalMask: causal, crossAttention} = this.options;
    return of === 'documents' ? segments(ids, {causal}) : padding(ids, {causal, crossAttention});
  }

  /** @ignore */
  override getConfig(): serialization.ConfigDict {
    return {...super.getConfig(), ...this.options};
  }
}

serialization.registerClass(FlashMaskBounds);
