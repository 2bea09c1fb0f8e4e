/**
 * @file Times tile shapes of the WebGPU passes against each other: what `candidates` in src/backends/webgpu/plan/vector_plan.ts is chosen by. A user's `autotune`
 * takes the same tiles (src/backends/webgpu/plan/tuned_tiles.ts) and the same clock.
 *
 *     npm run bench:tune -- --pass forward --d 64 --n 8192 --heads 32 --mask causal
 *
 * Every shape's result is compared with the first one's; a line per shape: compile milliseconds, TFLOP/s over visible pairs.
 */
import * as tf from '@tensorflow/tfjs-core';
import {Command} from 'commander';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import {
  MAP_BLOCK,
  plan,
  workgroupBytes,
  type Pass,
  type PassPlan,
  type TileShape,
  type Variant,
} from '../src/backends/webgpu/plan/vector_plan.js';
import {hasWholeMapBlocks, tilesToTry} from '../src/backends/webgpu/plan/tuned_tiles.js';
import type {WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import {submitPasses, type PassRun} from '../src/backends/webgpu/run/dispatch.js';
import {timeRuns, type Timing} from '../src/backends/webgpu/autotune/timing.js';
import {uniformsOf} from '../src/backends/webgpu/run/uniforms.js';
import {backwardBindings, dkdvShader, dqShader} from '../src/backends/webgpu/wgsl/vector/backward.js';
import {forwardBindings, forwardShader} from '../src/backends/webgpu/wgsl/vector/forward.js';
import {DELTA_THREADS, deltaBindings, deltaKey, deltaShader} from '../src/backends/webgpu/wgsl/vector/delta.js';
import type {Problem} from '../src/call/problem.js';

interface Options {
  pass: string;
  d: string;
  n: string;
  heads: string;
  mask: string;
  shapes?: string;
  dawn?: string;
}

const shape = (rows: number, cols: number, threadsX: number, threadsY: number): TileShape => ({
  rows,
  cols,
  threadsX,
  threadsY,
});

const parseShapes = (text: string): TileShape[] =>
  text.split(',').map((one) => {
    const [rows, cols, x, y] = one.split(':').map(Number);
    return shape(rows, cols, x, y);
  });

class Bench {
  private readonly buffers = new Map<string, GPUBuffer>();
  private readonly backend: WebGPUBackend;

  constructor(
    private readonly device: GPUDevice,
    private readonly p: Problem,
  ) {
    this.backend = {
      device,
      queue: device.queue,
      bufferManager: {
        acquireBuffer: (size: number, usage: number) => device.createBuffer({size, usage}),
        releaseBuffer: (buffer: GPUBuffer) => buffer.destroy(),
      },
    } as unknown as WebGPUBackend;
  }

  /** A buffer of so many floats by name, filled with normal noise unless it is a result. */
  buffer(name: string, floats: number, noise: boolean): GPUBuffer {
    let buffer = this.buffers.get(name);
    if (!buffer) {
      buffer = this.device.createBuffer({
        size: 4 * floats,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
      });
      if (noise) this.device.queue.writeBuffer(buffer, 0, normal(floats, name.length + name.charCodeAt(0)));
      this.buffers.set(name, buffer);
    }
    return buffer;
  }

  run(pass: PassPlan | 'delta', variant: Variant, suffix = ''): PassRun {
    const {B, H, Sq, Sk, D} = this.p;
    const floats = B * H * Sq * D;
    const attrs = {
      causal: variant.causal,
      scale: 1 / Math.sqrt(D),
      layout: 'bshd',
      dropout: 0,
      seed: 0,
      precision: 'auto',
      deterministic: false,
    } as const;
    const [q, k, v, dOut] = ['q', 'k', 'v', 'dOut'].map((name) => this.buffer(name, floats, true));
    const terms = this.buffer('rowTerms', 4 * B * H * Sq, false);
    const stats = this.buffer('rowStats' + suffix, 2 * B * H * Sq, false);
    const lse = this.buffer('lse' + suffix, B * H * Sq, false);
    const common = {itemsPerWorkgroup: 1, flopsPerWorkgroup: 1};
    if (pass === 'delta') {
      const delta = {Dv: D, lseGradient: false, rounded: false};
      return {
        ...common,
        key: deltaKey(delta),
        code: () => deltaShader(delta),
        bindings: deltaBindings(delta),
        uniforms: uniformsOf(this.p, attrs),
        buffers: [this.buffer('out', floats, false), dOut, stats, terms],
        items: B * H * Sq,
        itemsPerWorkgroup: DELTA_THREADS,
      };
    }
    const uniforms = uniformsOf(this.p, attrs);
    const result = (name: string): GPUBuffer => this.buffer(name + suffix, floats, false);
    if (pass.pass === 'forward') {
      return {
        ...common,
        key: pass.key,
        code: () => forwardShader(pass),
        bindings: forwardBindings(pass),
        uniforms,
        buffers: [q, k, v, result('out'), lse, stats],
        items: B * H * Math.ceil(Sq / pass.blockQ),
      };
    }
    const dq = pass.pass === 'dq';
    return {
      ...common,
      key: pass.key,
      code: () => (dq ? dqShader(pass) : dkdvShader(pass)),
      bindings: backwardBindings(pass),
      uniforms,
      buffers: [q, k, v, dOut, terms, ...(dq ? [result('dq')] : [result('dk'), result('dv')])],
      items: B * H * Math.ceil(dq ? Sq / pass.blockQ : Sk / pass.blockK),
    };
  }

  time(run: PassRun): Promise<Timing> {
    return timeRuns(this.device, () => submitPasses(this.backend, [run]));
  }

  async wait(runs: PassRun[]): Promise<void> {
    submitPasses(this.backend, runs);
    await this.device.queue.onSubmittedWorkDone();
  }

  async read(name: string, floats: number): Promise<Float32Array> {
    const staging = this.device.createBuffer({
      size: 4 * floats,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.buffers.get(name)!, 0, staging, 0, 4 * floats);
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(staging.getMappedRange().slice(0));
    staging.destroy();
    return values;
  }
}

/** Normal noise by Box-Muller over a small linear generator. */
function normal(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed >>> 0;
  const uniform = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32 + 2 ** -33;
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

async function main(): Promise<void> {
  const options = new Command()
    .option('--pass <names>', 'forward, dq, dkdv', 'forward,dq,dkdv')
    .option('--d <sizes>', 'head sizes', '64,128')
    .option('--n <length>', 'sequence length', '8192')
    .option('--heads <count>', 'heads', '32')
    .option('--mask <name>', 'full or causal', 'causal')
    .option('--shapes <list>', 'rows:cols:threadsX:threadsY, comma separated')
    .option('--dawn <flags>', 'Dawn features')
    .parse()
    .opts<Options>();
  await useWebGPU(options.dawn ? {dawnFlags: [`enable-dawn-features=${options.dawn}`]} : {});
  const {device} = tf.backend() as unknown as WebGPUBackend;
  device.addEventListener('uncapturederror', (event) => {
    console.error(event.error.message);
    process.exit(1);
  });
  const causal = options.mask === 'causal';
  const [N, H] = [Number(options.n), Number(options.heads)];
  for (const D of options.d.split(',').map(Number)) {
    const p: Problem = {B: 1, H, Hkv: H, Sq: N, Sk: N, D, Dv: D, layout: 'bshd', causal, maskB: 1, Hm: 1, n: 0};
    const variant: Variant = {D, Dv: D, causal, intervals: false, dropout: false, parts: 0, fewQueries: false};
    const bench = new Bench(device, p);
    await bench.wait([bench.run(plan('forward', variant, device.limits), variant), bench.run('delta', variant)]);
    const pairs = H * (causal ? (N * (N + 1)) / 2 : N * N);
    for (const pass of options.pass.split(',') as Pass[])
      await tune(bench, device, pass, variant, pairs, options.shapes, N * H * D);
  }
}

async function tune(
  bench: Bench,
  device: GPUDevice,
  pass: Pass,
  variant: Variant,
  pairs: number,
  list: string | undefined,
  floats: number,
): Promise<void> {
  const result = {forward: 'out', dq: 'dq', dkdv: 'dk'}[pass];
  // Of the 10 D operations a pair of the backward: the share of each pass by its products, without what it recomputes.
  const flops = {forward: 4, dq: 6, dkdv: 8}[pass] * variant.D * pairs;
  let reference: Float32Array | undefined;
  const shapes = list ? parseShapes(list) : tilesToTry(pass, variant);
  for (const tiles of shapes) {
    const name = `${pass} D${variant.D} ${tiles.rows}:${tiles.cols}:${tiles.threadsX}:${tiles.threadsY}`;
    const bytes = workgroupBytes(pass, tiles);
    if (bytes > device.limits.maxComputeWorkgroupStorageSize) {
      console.log(`${name.padEnd(40)} needs ${bytes} bytes`);
      continue;
    }
    if (!hasWholeMapBlocks(pass, tiles)) {
      console.log(`${name.padEnd(40)} has blocks of keys that are not multiples of ${MAP_BLOCK}`);
      continue;
    }
    const run = bench.run(plan(pass, variant, device.limits, [tiles]), variant, '_tune');
    const {firstMs, ms} = await bench.time(run);
    const values = await bench.read(`${result}_tune`, Math.min(floats, 1 << 20));
    reference ??= values;
    const error = values.reduce((worst, x, i) => Math.max(worst, Math.abs(x - reference![i])), 0);
    console.log(
      `${name.padEnd(40)} ${String(bytes).padStart(6)} B  compile ${firstMs.toFixed(0).padStart(6)} ms  ${ms.toFixed(2).padStart(8)} ms  ` +
        `${(flops / ms / 1e9).toFixed(2).padStart(6)} TFLOP/s raw  difference ${error.toExponential(1)}`,
    );
  }
}

await main();
process.exit(0);
