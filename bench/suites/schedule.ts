/** @file The suite `schedule`: the cost of a mask's bounds map and schedule, next to the forward that uses them. */
import * as tf from '@tensorflow/tfjs';
import type {FlashMaskAttentionAttrs} from '../../src/call/kernel_names.js';
import type {Problem} from '../../src/call/problem.js';
import {variantOf} from '../../src/backends/webgpu/plan/choose_plan.js';
import {maskBuffer} from '../../src/backends/webgpu/passes/mask_buffer.js';
import {vectorPlan, type Pass} from '../../src/backends/webgpu/plan/vector_plan.js';
import {submitPasses, type PassRun} from '../../src/backends/webgpu/run/dispatch.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {uniformsOf} from '../../src/backends/webgpu/run/uniforms.js';
import type {FlashMask} from '../../src/entries/index.js';
import {boundsTensorOf} from '../../src/mask/bounds/bounds_cache.js';
import {flashAttention, inputsOf, type Sizes} from '../attention.js';
import {time} from '../clock.js';
import {maskOf} from '../masks.js';
import type {Emit} from '../record.js';
import {Bench, callsOf, type CommonOptions} from './suite.js';

/** The passes that fill the mask buffer of `pass`. They can run repeatedly. */
function maskPasses(mask: FlashMask, {N, H, D}: Sizes, pass: Pass): PassRun[] {
  const {causal} = mask;
  const p: Problem = {
    B: 1, H, Hkv: H, Sq: N, Sk: N, D, Dv: D, layout: 'bhsd', causal, maskB: 1, Hm: mask.heads, n: mask.vectors,
  }; // prettier-ignore
  const attrs: FlashMaskAttentionAttrs = {
    causal, scale: 1 / Math.sqrt(D), layout: 'bhsd', dropout: 0, seed: 0, precision: 'auto', deterministic: false,
  }; // prettier-ignore
  const backend = tf.backend() as unknown as WebGPUBackend;
  const passes: PassRun[] = [];
  const blocks = vectorPlan(pass, variantOf(p, attrs), backend.device.limits);
  maskBuffer(backend, boundsTensorOf(mask, N), p, uniformsOf(p, attrs), passes, blocks);
  return passes;
}

async function passesMs(passes: PassRun[], seconds: number): Promise<number> {
  const run = (): tf.Tensor[] => {
    submitPasses(tf.backend() as unknown as WebGPUBackend, passes);
    return [];
  };
  return (await time(run, seconds)).ms;
}

export async function runSchedule(options: CommonOptions, emit: Emit): Promise<void> {
  const {seconds} = options;
  const bench = await Bench.start('schedule', options, emit);
  for (const call of callsOf(options)) {
    await bench.measure({attention: 'flash', ...call}, async () => {
      const mask = maskOf(call.mask, call.N, 'table');
      if (mask.vectors === 0) throw new Error('bench: a mask without intervals has neither map nor schedule.');
      const [q, k, v] = inputsOf(call);
      return {
        queryMapMs: await passesMs(maskPasses(mask, call, 'forward'), seconds),
        keyMapMs: await passesMs(maskPasses(mask, call, 'dkdv'), seconds),
        forwardMs: (await time(() => [flashAttention(mask)(q, k, v)], seconds)).ms,
      };
    });
  }
}
