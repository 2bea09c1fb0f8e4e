/**
 * @file The mask buffer on the device: tile map (paper section 4.2), columns and schedule. It is computed once per mask and shared by all
 * layers, forward and backward: cached by the identity of the bounds tensor's data, for a few masks.
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {MAP_BLOCK} from '../../../call/constants.js';
import type {Problem} from '../../../call/problem.js';
import {bufferOf, type WebGPUBackend} from '../run/tfjs_backend.js';
import {checkBindable} from '../run/device_errors.js';
import type {PassRun} from '../run/dispatch.js';
import {isCompileOnly} from '../run/pipelines.js';
import {headsOfOrder, scheduleLength, schedulePasses} from './schedule.js';
import type {UniformValues} from '../wgsl/header.js';
import type {RowBlocks} from '../wgsl/mask/row_blocks.js';
import {scheduleOf, scheduleRanges} from '../wgsl/mask/schedule.js';
import {boundsMap} from '../wgsl/mask/bounds_map.js';
import {specialize} from '../wgsl/shader.js';

/** Buffers that a backend keeps, those of eight masks: one for the passes over queries, one for dkdv. The oldest goes first. */
const KEPT = 16;

interface Entry {
  dataId: object;
  key: string;
  buffer: GPUBuffer;
}

const caches = new WeakMap<WebGPUBackend, Entry[]>();

/**
 * The mask buffer of src/backends/webgpu/wgsl/mask/tiles.ts for `bounds`, with the schedule of `blocks` if they take one: from the cache, else with
 * passes that fill it pushed on `passes`. Passes whose tiles are alike share a buffer; a buffer each, tile map and all, is what the
 * eight storage bindings of a stock device leave dkdv room for.
 */
export function tileMap(
  backend: WebGPUBackend,
  bounds: TensorInfo,
  p: Problem,
  uniforms: UniformValues,
  passes: PassRun[],
  blocks: RowBlocks,
): GPUBuffer {
  const key = bufferKey(p, blocks, uniforms);
  const entries = evictDisposed(backend, caches.get(backend) ?? []);
  // At once: what follows may throw, and what is evicted must not be given back twice.
  caches.set(backend, entries);
  const found = entries.findIndex((e) => e.dataId === bounds.dataId && e.key === key);
  const entry =
    found >= 0 ? entries.splice(found, 1)[0] : {dataId: bounds.dataId, key, buffer: acquire(backend, p, blocks)};
  // What is only compiled fills no buffer.
  if (isCompileOnly() && found < 0) backend.bufferManager.releaseBuffer(entry.buffer);
  else entries.push(entry);
  if (entries.length > KEPT) backend.bufferManager.releaseBuffer(entries.shift()!.buffer);
  if (found < 0) {
    passes.push(tileMapPass(p, bufferOf(backend, bounds), entry.buffer, uniforms));
    if (blocks.scheduled) passes.push(...schedulePasses(p, blocks, entry.buffer, uniforms));
  }
  return entry.buffer;
}

/** Names all that a mask buffer depends on besides the numbers in the bounds: a tensor of bounds may serve calls of several lengths. */
function bufferKey(p: Problem, blocks: RowBlocks, uniforms: UniformValues): string {
  const map = `${specialize(boundsMap, p).key}, Sk ${p.Sk}`;
  if (!blocks.scheduled) return map;
  const {key} = specialize(scheduleRanges, scheduleOf(blocks));
  return `${map}, Sq ${p.Sq}, ${key}, heads ${headsOfOrder(blocks, uniforms)}`;
}

function tileMapPass(p: Problem, bounds: GPUBuffer, mask: GPUBuffer, uniforms: UniformValues): PassRun {
  const shader = specialize(boundsMap, p);
  return {
    shader,
    buffers: [bounds, mask],
    uniforms,
    items: p.maskB * p.Hm * Math.ceil(p.Sk / MAP_BLOCK),
    flopsPerWorkgroup: shader.threads * MAP_BLOCK * 16,
  };
}

/** Bytes of the mask buffer: linear in the lengths. */
export function tileMapBytes(p: Problem, blocks: RowBlocks): number {
  const tileMapAndColumns = p.maskB * p.Hm * (2 * Math.ceil(p.Sk / MAP_BLOCK) + p.Sk);
  return 16 * (tileMapAndColumns + (blocks.scheduled ? scheduleLength(p, blocks) : 0));
}

function acquire(backend: WebGPUBackend, p: Problem, blocks: RowBlocks): GPUBuffer {
  const bytes = tileMapBytes(p, blocks);
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
