/**
 * @file Measures attention in a worker, call by call as the suite `masks` of `npm run bench` does: dense attention,
 * then flashMaskAttention on the same inputs.
 */
import {denseObstacle, difference, flashAttention, inputsOf, withDense} from '../../bench/attention.js';
import {failureOf} from '../../bench/failure.js';
import {figuresOf} from '../../bench/figures.js';
import {maskOf} from '../../bench/masks.js';
import type {Call, Figures} from '../../bench/record.js';
import {capabilitiesOf} from '../../src/backends/webgpu/device/capabilities.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {deviceOfBackend, startBackend} from '../shell/webgpu.js';
import {onOrder, post} from '../shell/worker_messages.js';
import type {Answer, Order} from './messages.js';

const answer = (message: Answer): void => {
  post(message);
};

onOrder(run);

async function run(order: Order): Promise<void> {
  const {backend, kind} = order;
  const check = await startBackend(backend, kind);
  const {matrix, float16} = backend === 'webgpu' ? capabilitiesOf(deviceOfBackend()) : {matrix: null, float16: false};
  answer({type: 'started', matrices: matrix !== null, float16});
  for (const name of order.masks) await measureMask(name, order, check);
  answer({type: 'done'});
}

/** Emits two records of a mask. */
async function measureMask(name: string, order: Order, check: () => void): Promise<void> {
  const {backend, kind, precision, machine, N, H, D} = order;
  const mask = maskOf(name, N, 'paper');
  const call: Omit<Call, 'attention'> = {
    ...{suite: 'masks', backend, device: machine},
    ...(backend === 'webgpu' ? {kind} : {}),
    ...(precision === 'auto' ? {} : {precision}),
    ...{mask: name, N, H, D},
  };
  const measure = async (attention: 'dense' | 'flash', work: () => Promise<Figures>): Promise<void> => {
    answer({type: 'measuring', mask: name, attention});
    let figures: Figures;
    try {
      figures = await work();
      check();
    } catch (error) {
      figures = failureOf(error);
    }
    answer({type: 'record', record: {...call, attention, ...figures}});
  };
  const against: Figures = {};
  await measure('dense', () => denseFigures(mask, order, against));
  await measure('flash', async () => ({...(await flashFigures(mask, order)), ...against}));
}

const sizesOf = (mask: FlashMask, {N, H, D}: Order) => ({N, H, D, masked: mask.sparsity().maskedPairs});

/** Figures of dense attention. Puts its difference from flash, which only this run can tell, into `against`. */
async function denseFigures(mask: FlashMask, order: Order, against: Figures): Promise<Figures> {
  const obstacle = denseObstacle(order, order.backend === 'webgpu');
  if (obstacle !== undefined) return {outcome: 'skipped', reason: obstacle};
  return withDense(mask, async (dense) => {
    const figures = await figuresOf(dense, sizesOf(mask, order), {seconds: order.seconds, countBytes: true});
    against.difference = await difference(mask, dense, inputsOf(order), {precision: order.precision});
    return figures;
  });
}

const flashFigures = (mask: FlashMask, order: Order): Promise<Figures> =>
  figuresOf(flashAttention(mask, {precision: order.precision}), sizesOf(mask, order), {
    seconds: order.seconds,
    countBytes: true,
  });
