/**
 * @file The mask buffer on the device: bounds map (paper section 4.2), bounds per column, and schedule. It is computed
 * once per mask and shared by all layers, forward and backward. It is cached by the identity of the bounds tensor's
 * data, for a few masks.
 */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {MAP_BLOCK} from '../../../call/constants.js';
import type {Problem} from '../../../call/problem.js';
import {bufferOf, type WebGPUBackend} from '../run/tfjs_backend.js';
import {checkBindable, watchBackend} from '../run/device_errors.js';
import type {PassRun} from '../run/dispatch.js';
import {isCompileOnly} from '../run/pipelines.js';
import {headsOfOrder, scheduleLength, schedulePasses} from './schedule.js';
import type {UniformValues} from '../wgsl/header.js';
import type {RowBlocks} from '../wgsl/mask/row_blocks.js';
import {scheduleOf, scheduleRanges} from '../wgsl/mask/schedule.js';
import {boundsMap} from '../wgsl/mask/bounds_map.js';
import {specialize} from '../wgsl/shader.js';

/**
 * Number of buffers that a backend keeps: those of eight masks, one for the passes over queries and one for dkdv each.
 * The least recently used is released first.
 */
const KEPT = 16;

interface Entry {
  dataId: object;
  key: string;
  buffer: GPUBuffer;
}

const caches = new WeakMap<WebGPUBackend, Entry[]>();

/**
 * The mask buffer for `bounds` (src/backends/webgpu/wgsl/mask/tiles.ts gives its layout), with the schedule of `blocks`
 * if they use one. If the cache does not have it, the passes that fill it are pushed to `passes`.
 *
 * Passes with equal tiles share a buffer. Other passes have separate buffers, each with its own bounds map: of the
 * eight storage bindings of a stock device dkdv has only one left for the mask.
 */
export function maskBuffer(
  backend: WebGPUBackend,
  bounds: TensorInfo,
  p: Problem,
  uniforms: UniformValues,
  passes: PassRun[],
  blocks: RowBlocks,
): GPUBuffer {
  // A failure may have kept passes from filling a buffer.
  const key = `${watchBackend(backend).failures.length} ${bufferKey(p, blocks, uniforms)}`;
  const entries = evictDisposed(backend, caches.get(backend) ?? []);
  // Stored now: the code below may throw, and an evicted buffer must not be released twice.
  caches.set(backend, entries);
  const found = entries.findIndex((e) => e.dataId === bounds.dataId && e.key === key);
  const entry =
    found >= 0 ? entries.splice(found, 1)[0] : {dataId: bounds.dataId, key, buffer: acquire(backend, p, blocks)};
  // In compile-only mode no pass fills the buffer, so it must not be cached.
  if (isCompileOnly() && found < 0) backend.bufferManager.releaseBuffer(entry.buffer);
  else entries.push(entry);
  if (entries.length > KEPT) backend.bufferManager.releaseBuffer(entries.shift()!.buffer);
  if (found < 0) {
    passes.push(boundsMapPass(p, bufferOf(backend, bounds), entry.buffer, uniforms));
    if (blocks.scheduled) passes.push(...schedulePasses(p, blocks, entry.buffer, uniforms));
  }
  return entry.buffer;
}

/**
 * A key of everything that a mask buffer depends on besides the numbers in the bounds: one bounds tensor may serve
 * calls of several lengths.
 */
function bufferKey(p: Problem, blocks: RowBlocks, uniforms: UniformValues): string {
  const map = `${specialize(boundsMap, p).key} Sk ${p.Sk}`;
  if (!blocks.scheduled) return map;
  const {key} = specialize(scheduleRanges, scheduleOf(blocks));
  return `${map} Sq ${p.Sq} ${key} ${headsOfOrder(blocks, uniforms)}`;
}

function boundsMapPass(p: Problem, bounds: GPUBuffer, mask: GPUBuffer, uniforms: UniformValues): PassRun {
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
export function maskBufferBytes(p: Problem, blocks: RowBlocks): number {
  const mapAndColumns = p.maskB * p.Hm * (2 * Math.ceil(p.Sk / MAP_BLOCK) + p.Sk);
  return 16 * (mapAndColumns + (blocks.scheduled ? scheduleLength(p, blocks) : 0));
}

function acquire(backend: WebGPUBackend, p: Problem, blocks: RowBlocks): GPUBuffer {
  const bytes = maskBufferBytes(p, blocks);
  checkBindable(backend.device, 'the bounds map of the mask', bytes);
  return backend.bufferManager.acquireBuffer(bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
}

/** Releases the buffers of masks whose bounds tensor is disposed. */
function evictDisposed(backend: WebGPUBackend, entries: Entry[]): Entry[] {
  return entries.filter(({dataId, buffer}) => {
    const alive = backend.tensorMap.has(dataId);
    if (!alive) backend.bufferManager.releaseBuffer(buffer);
    return alive;
  });
}
