/**
 * @file The tile map on the device, computed once per mask and shared by all layers, forward and backward (paper section 4.2).
 * It is cached by the identity of the bounds tensor's data; a few masks are kept.
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {MAP_BLOCK} from '../plan.js';
import type {Problem} from '../problem.js';
import {bufferOf, type WebGPUBackend} from './backend.js';
import {checkBindable} from './errors.js';
import type {PassRun} from './dispatch.js';
import type {UniformValues} from './wgsl/header.js';
import {TILE_MAP_BINDINGS, TILE_MAP_THREADS, tileMapKey, tileMapShader} from './wgsl/tile_map.js';

/** Masks whose tile maps a backend keeps: the oldest goes first. */
const KEPT = 8;

interface Entry {
  dataId: object;
  key: string;
  buffer: GPUBuffer;
}

const caches = new WeakMap<WebGPUBackend, Entry[]>();

/**
 * The mask buffer of src/webgpu/wgsl/tiles.ts for `bounds`: from the cache, else with a pass that fills it pushed on `passes`.
 */
export function tileMap(
  backend: WebGPUBackend,
  bounds: TensorInfo,
  p: Problem,
  uniforms: UniformValues,
  passes: PassRun[],
): GPUBuffer {
  const form = {causal: p.causal, n: p.n};
  const key = tileMapKey(form);
  const entries = evictDisposed(backend, caches.get(backend) ?? []);
  // At once: what follows may throw, and what is evicted must not be given back twice.
  caches.set(backend, entries);
  const found = entries.findIndex((e) => e.dataId === bounds.dataId && e.key === key);
  const entry = found >= 0 ? entries.splice(found, 1)[0] : {dataId: bounds.dataId, key, buffer: acquire(backend, p)};
  entries.push(entry);
  if (entries.length > KEPT) backend.bufferManager.releaseBuffer(entries.shift()!.buffer);
  if (found < 0) {
    passes.push({
      key,
      code: () => tileMapShader(form),
      bindings: TILE_MAP_BINDINGS,
      buffers: [bufferOf(backend, bounds), entry.buffer],
      uniforms,
      items: p.maskB * p.Hm * Math.ceil(p.Sk / MAP_BLOCK),
      itemsPerWorkgroup: TILE_MAP_THREADS,
      flopsPerWorkgroup: TILE_MAP_THREADS * MAP_BLOCK * 16,
    });
  }
  return entry.buffer;
}

/** Bytes of the mask buffer: linear in the key length. */
export function tileMapBytes(p: Problem): number {
  return 16 * p.maskB * p.Hm * (2 * Math.ceil(p.Sk / MAP_BLOCK) + p.Sk);
}

function acquire(backend: WebGPUBackend, p: Problem): GPUBuffer {
  const bytes = tileMapBytes(p);
  checkBindable(backend.device, {'the tile map of the mask': bytes});
  return backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
}

/** Gives back the maps of masks whose bounds are gone. */
function evictDisposed(backend: WebGPUBackend, entries: Entry[]): Entry[] {
  return entries.filter(({dataId, buffer}) => {
    const alive = backend.tensorMap.has(dataId);
    if (!alive) backend.bufferManager.releaseBuffer(buffer);
    return alive;
  });
}
