/**
 * @file Reads back the schedule that the WebGPU backend computes for a mask and compares it with the host's, which
 * calls `classifyTile` for each tile. Also tests when a schedule is computed.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {maskTable} from '../support/mask_table.js';
import type {HostBounds} from '../../src/mask/bounds/intervals.js';
import {tileKinds} from '../../src/mask/bounds/classify.js';
import {type VectorPlan, type Variant, candidates, vectorPlan} from '../../src/backends/webgpu/plan/vector_plan.js';
import type {Problem} from '../../src/call/problem.js';
import {submitRecorded, type WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {type PassRun, submitPasses} from '../../src/backends/webgpu/run/dispatch.js';
import {maskBuffer, maskBufferBytes} from '../../src/backends/webgpu/passes/mask_buffer.js';
import {uniformsOf} from '../../src/backends/webgpu/run/uniforms.js';
import {scheduleOf, scheduleRanges} from '../../src/backends/webgpu/wgsl/mask/schedule.js';
import {specialize} from '../../src/backends/webgpu/wgsl/shader.js';
import {ATTRS} from '../support/attend.js';
import {HEAD_SIZE, forms, randomBounds, styles} from '../support/cases.js';
import {devices} from '../support/devices.js';
import {seeded} from '../support/random.js';

/**
 * Row blocks of each mask head as [first live tile, end of the live tiles, number of live tiles], and the orders by
 * mask head.
 */
interface Schedule {
  ranges: number[][][];
  orders: Record<number, number[]>;
}

/** Heads and the tiles of a pass. */
interface Call {
  H: number;
  Hkv: number;
  blocks: VectorPlan;
}

const anyLimits = {maxComputeWorkgroupStorageSize: Infinity, maxComputeInvocationsPerWorkgroup: Infinity};

/** Every plan of forward (dq has the same tiles) and of dkdv, for masks with intervals. */
function plansOf(causal: boolean, fewQueries = false): VectorPlan[] {
  const variant: Variant = {D: 8, Dv: 8, causal, intervals: true, dropout: false, halvesPerNumber: 0, fewQueries};
  return (['forward', 'dkdv'] as const).flatMap((pass) =>
    candidates(pass, variant).map((shape) => vectorPlan(pass, variant, anyLimits, [shape])),
  );
}

/** The number of mask heads whose sums give one order: in dkdv those of the query heads that share a key head. */
const headsOfOrder = (mask: HostBounds, {Hkv, blocks}: Call): number =>
  blocks.pass === 'dkdv' ? Math.max(1, mask.heads / Hkv) : 1;

/** The schedule computed on the host. */
function scheduleOnHost(mask: HostBounds, call: Call): Schedule {
  const {pass, blockQ, blockK} = call.blocks;
  const ranges: number[][][] = [];
  for (let index = 0; index < mask.batch * mask.heads; index++) {
    const {kinds, rows, columns} = tileKinds(mask, blockQ, blockK, Math.floor(index / mask.heads), index % mask.heads);
    const isLive = (row: number, column: number): boolean => kinds[row * columns + column] !== 'empty';
    const [blocks, tiles] = pass === 'dkdv' ? [columns, rows] : [rows, columns];
    ranges.push(
      Array.from({length: blocks}, (_, block) => {
        const all = Array.from({length: tiles}, (_, tile) => tile);
        const live = all.filter((tile) => (pass === 'dkdv' ? isLive(tile, block) : isLive(block, tile)));
        return live.length === 0 ? [0, 0, 0] : [live[0], live.at(-1)! + 1, live.length];
      }),
    );
  }
  const heads = headsOfOrder(mask, call);
  const orders: Schedule['orders'] = {};
  for (let first = 0; first < ranges.length; first += heads) {
    const live = ranges[first].map((_, block) =>
      ranges.slice(first, first + heads).reduce((sum, ofHead) => sum + ofHead[block][2], 0),
    );
    // Array.prototype.sort is stable: ties stay in the order of their blocks.
    orders[first] = live.map((_, block) => block).sort((a, b) => live[b] - live[a]);
  }
  return {ranges, orders};
}

const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

function problemOf(mask: HostBounds, {H, Hkv}: Call): Problem {
  return {
    B: mask.batch, H, Hkv, Sq: mask.queryLength, Sk: mask.keyLength, D: HEAD_SIZE, Dv: HEAD_SIZE, layout: 'bshd',
    causal: mask.causal, maskB: mask.batch, Hm: mask.heads, n: mask.vectors,
  }; // prettier-ignore
}

const tensorOf = (mask: HostBounds): tf.Tensor4D =>
  tf.tensor4d(Int32Array.from(mask.bounds!), [mask.batch, mask.heads, mask.keyLength, mask.vectors], 'int32');

/** The mask buffer of a call, and the passes that must still run for it. */
function bufferOf(mask: HostBounds, bounds: tf.Tensor4D, call: Call): {buffer: GPUBuffer; passes: PassRun[]} {
  const p = problemOf(mask, call);
  const passes: PassRun[] = [];
  return {buffer: maskBuffer(backendNow(), bounds, p, uniformsOf(p, ATTRS), passes, call.blocks), passes};
}

async function readBack(buffer: GPUBuffer, bytes: number): Promise<Int32Array> {
  // The passes may only be recorded.
  submitRecorded(backendNow());
  const {device} = backendNow();
  const staging = device.createBuffer({size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST});
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Int32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return values;
}

/** The schedule computed on the device. */
async function scheduleOnDevice(mask: HostBounds, bounds: tf.Tensor4D, call: Call): Promise<Schedule> {
  const {buffer, passes} = bufferOf(mask, bounds, call);
  submitPasses(backendNow(), passes);
  const values = await readBack(buffer, maskBufferBytes(problemOf(mask, call), call.blocks));
  const {pass, blockQ, blockK} = call.blocks;
  const blocks = pass === 'dkdv' ? Math.ceil(mask.keyLength / blockK) : Math.ceil(mask.queryLength / blockQ);
  const maskHeads = mask.batch * mask.heads;
  // The schedule is at the end of the buffer.
  const entry = (maskHead: number, block: number): number[] => {
    const at = values.length - 4 * (maskHeads - maskHead) * blocks + 4 * block;
    return [...values.subarray(at, at + 4)];
  };
  const ranges: number[][][] = [];
  const orders: Schedule['orders'] = {};
  for (let head = 0; head < maskHeads; head++) {
    const entries = Array.from({length: blocks}, (_, block) => entry(head, block));
    ranges.push(entries.map((x) => x.slice(0, 3)));
    if (head % headsOfOrder(mask, call) === 0) orders[head] = entries.map((x) => x[3]);
  }
  return {ranges, orders};
}

/** Compares the schedules for all tiles of a mask with the host's; returns the latter. */
async function expectSame(mask: HostBounds, heads: {H: number; Hkv: number}): Promise<Schedule[]> {
  const bounds = tensorOf(mask);
  const found: Schedule[] = [];
  for (const blocks of plansOf(mask.causal)) {
    const expected = scheduleOnHost(mask, {...heads, blocks});
    expect(
      await scheduleOnDevice(mask, bounds, {...heads, blocks}),
      specialize(scheduleRanges, scheduleOf(blocks)).key,
    ).to.deep.equal(expected);
    found.push(expected);
  }
  bounds.dispose();
  return found;
}

/** A mask of random bounds. */
function randomMask(name: string, style: (typeof styles)[number], sizes: Omit<HostBounds, 'bounds'>): HostBounds {
  const {batch, heads, queryLength, keyLength, vectors} = sizes;
  const bounds = randomBounds(seeded(name), style, batch * heads, queryLength, keyLength, vectors);
  return {...sizes, bounds};
}

const webgpu = devices.find(({name}) => name === 'webgpu')!;

(webgpu.skip ? describe.skip : describe)(`schedule on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());
  afterEach(async () => expect(await webgpu.hiddenErrors()).to.deep.equal([]));

  for (const entry of maskTable) {
    const mask = entry.build(333, seeded(entry.name));
    // Without intervals there is no schedule.
    if (mask.vectors === 0) continue;
    it(`of ${entry.name}`, async () => {
      await expectSame(mask, {H: mask.heads, Hkv: mask.heads});
    });
  }

  for (const {causal, n: vectors} of forms) {
    for (const style of styles) {
      it(`of random bounds, causal ${causal}, n ${vectors}, ${style}`, async () => {
        const name = `${causal} ${vectors} ${style}`;
        for (const [queryLength, keyLength] of [[17, 1], [131, 197], [197, 131]]) {
          const sizes = {batch: 2, heads: 2, queryLength, keyLength, vectors, causal};
          await expectSame(randomMask(`${name} ${queryLength}`, style, sizes), {H: 4, Hkv: 2});
        } // prettier-ignore
      });
    }
  }

  it('of more tiles than a workgroup has threads', async () => {
    for (const [queryLength, keyLength] of [[70, 4129], [4129, 70]]) {
      const sizes = {batch: 1, heads: 1, queryLength, keyLength, vectors: 4, causal: false} as const;
      const [forward, , dkdv] = await expectSame(randomMask(`${queryLength}`, 'blocky', sizes), {H: 1, Hkv: 1});
      const ends = [forward, dkdv].flatMap(({ranges}) => ranges[0].map(([, end]) => end));
      const {threads} = specialize(scheduleRanges, scheduleOf(plansOf(false)[0]));
      expect(Math.max(...ends)).to.be.above(2 * threads);
    } // prettier-ignore
  });

  it('sums the mask heads of a group of query heads for the order of its key head', async () => {
    const sizes = {batch: 2, heads: 6, queryLength: 131, keyLength: 400, vectors: 4, causal: false} as const;
    const mask = randomMask('group', 'blocky', sizes);
    const [, , dkdv] = await expectSame(mask, {H: 6, Hkv: 2});
    expect(Object.keys(dkdv.orders)).to.deep.equal(['0', '3', '6', '9']);
    // The sum must matter: the first mask head alone gives another order.
    const alone = scheduleOnHost(mask, {H: 6, Hkv: 6, blocks: plansOf(false)[2]});
    expect(dkdv.orders).to.not.deep.equal(Object.fromEntries([0, 3, 6, 9].map((head) => [head, alone.orders[head]])));
  });

  it('gives blocks without a live tile no tiles, and puts them last', async () => {
    const keyLength = 200;
    const bounds = Int32Array.from({length: 4 * keyLength}, (_, i) => [0, 128, 0, 0][i % 4]);
    const mask: HostBounds = {batch: 1, heads: 1, queryLength: 200, keyLength, vectors: 4, causal: false, bounds};
    const [forward] = await expectSame(mask, {H: 1, Hkv: 1});
    expect(forward.ranges[0]).to.deep.equal([[0, 0, 0], [0, 0, 0], [0, 7, 7], [0, 7, 7]]); // prettier-ignore
    expect(forward.orders[0]).to.deep.equal([2, 3, 0, 1]);
  });

  it('is made once for a mask, tiles, lengths and groups', () => {
    const sizes = {batch: 1, heads: 4, queryLength: 131, keyLength: 131, vectors: 1, causal: true} as const;
    const mask = randomMask('cache', 'blocky', sizes);
    const bounds = tensorOf(mask);
    const [forward, small, dkdv] = plansOf(true);
    const madeFor = (of: HostBounds, call: Call): string[] => {
      const {passes} = bufferOf(of, bounds, call);
      submitPasses(backendNow(), passes);
      return passes.map(({shader}) => shader.key);
    };
    const all = (key: string): string[] => ['bounds_map causal n=1', `schedule_ranges ${key}`, `schedule_order ${key}`];
    const heads = {H: 4, Hkv: 4};
    expect(madeFor(mask, {...heads, blocks: forward})).to.deep.equal(all('blockQ=64 blockK=32 causal'));
    expect(madeFor(mask, {...heads, blocks: forward})).to.deep.equal([]);
    expect(madeFor(mask, {...heads, blocks: {...forward, pass: 'dq'}})).to.deep.equal([]);
    expect(madeFor(mask, {...heads, blocks: small})).to.deep.equal(all('blockQ=32 blockK=32 causal'));
    expect(madeFor(mask, {...heads, blocks: dkdv})).to.deep.equal(all('ofKeys blockQ=32 blockK=64 causal'));
    // Other lengths or groups of the same tensor give other schedules; those over queries do not depend on groups.
    const longer = {...mask, queryLength: 200};
    expect(madeFor(longer, {...heads, blocks: forward})).to.deep.equal(all('blockQ=64 blockK=32 causal'));
    expect(madeFor(mask, {H: 4, Hkv: 2, blocks: dkdv})).to.deep.equal(all('ofKeys blockQ=32 blockK=64 causal'));
    expect(madeFor(mask, {H: 4, Hkv: 2, blocks: forward})).to.deep.equal([]);
    bounds.dispose();
  });

  it('is not made for a few queries, whatever their number', () => {
    const sizes = {batch: 1, heads: 1, queryLength: 3, keyLength: 131, vectors: 1, causal: true} as const;
    const mask = randomMask('few', 'blocky', sizes);
    const bounds = tensorOf(mask);
    const [forward, dkdv] = plansOf(true, true);
    const made = (of: HostBounds, blocks: VectorPlan): string[] =>
      bufferOf(of, bounds, {H: 1, Hkv: 1, blocks}).passes.map(({shader}) => shader.key);
    expect(made(mask, forward)).to.deep.equal(['bounds_map causal n=1']);
    expect(made({...mask, queryLength: 4}, forward)).to.deep.equal([]);
    expect(made(mask, dkdv)).to.deep.equal([]);
    bounds.dispose();
  });

  it('takes memory that is linear in the length', () => {
    const [forward] = plansOf(true);
    const bytes = (S: number): number => {
      const sizes = {batch: 1, heads: 1, queryLength: S, keyLength: S, vectors: 1, causal: true, bounds: null} as const;
      return maskBufferBytes(problemOf(sizes, {H: 1, Hkv: 1, blocks: forward}), forward);
    };
    // Bytes per key column: 16 of bounds, one of bounds map, a quarter of schedule.
    expect(bytes(2 ** 20)).to.equal(2 ** 20 * 17.25);
    expect(bytes(2 ** 21)).to.equal(2 * bytes(2 ** 20));
  });
});
