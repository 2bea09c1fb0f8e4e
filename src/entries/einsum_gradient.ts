/**
 * @file Entry `tfjs-flashmask/einsum-gradient`: importing it gives `tf.einsum` a gradient, which tfjs 4.22 lacks, so
 * that layers made of it train. A gradient that tfjs registers itself stays.
 *
 * @module tfjs-flashmask/einsum-gradient
 */
import {gradientOfEinsum} from '../../gradients/einsum_grad.js';
import {registerGradients} from './register.js';

registerGradients([gradientOfEinsum]);
