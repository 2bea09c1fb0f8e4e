/**
 * @file The two kernels for tfjs-node's backend 'tensorflow': TensorFlow ops that the Node addon registers
 * (native/tensorflow/ops.cc). If the addon is missing, the composed kernels run, with one warning.
 */
import {
  type KernelConfig,
  type Tensor,
  type TensorInfo,
  engine,
  getKernel,
  registerKernel,
  unregisterKernel,
} from '@tensorflow/tfjs-core';
import {isUnusedGradient} from './unused_gradient.js';
import {composedConfigs} from '../composed/kernel.js';
import {kernelConfig} from '../../call/kernel_config.js';
import {
  FlashMaskAttention,
  type FlashMaskAttentionAttrs,
  type FlashMaskAttentionGradInputs,
  type FlashMaskAttentionInputs,
  type KernelWithPrecisions,
} from '../../call/kernel_names.js';
import {dropoutOf} from '../../call/dropout.js';
import {whyNotNative} from './load.js';
import {type PlanningBackend, planOf, planKindOf} from './plans.js';
import {statusOf} from './status.js';
import {isRecordedBackend} from './traced/recorder.js';

const BACKEND = 'tensorflow';

/** An attribute of an op, by the binding's number of its type. */
export interface Attribute {
  name: string;
  type: number;
  value: boolean | number | string;
}

/** The members of tfjs-node's backend that an op needs. */
export interface Backend extends PlanningBackend {
  /** `values` is set until TensorFlow has the tensor. */
  tensorMap: {get(dataId: object): {values?: unknown}};
  binding: PlanningBackend['binding'] &
    Record<'TF_ATTR_BOOL' | 'TF_ATTR_FLOAT' | 'TF_ATTR_INT' | 'TF_ATTR_STRING', number>;
  getInputTensorIds(tensors: TensorInfo[]): number[];
  createOutputTensor(output: {id: number}): Tensor;
  executeMultipleOutputs(name: string, attributes: Attribute[], inputs: TensorInfo[], outputs: number): Tensor[];
}

let threads = 0;

/**
 * Sets how many threads the CPU kernels of the backend 'tensorflow' use. Results do not depend on it.
 *
 * @param count The number of threads. 0 (the default) takes it from the environment: `FLASHMASK_NUM_THREADS`, else
 *   `OMP_NUM_THREADS`, else all cores that the process may use.
 */
export function setThreads(count: number): void {
  if (!Number.isInteger(count) || count < 0 || count > 1024) {
    throw new Error(`setThreads: the count must be an integer from 0 to 1024, got ${count}. Pass 0 for all cores.`);
  }
  threads = count;
}

/** The number that `setThreads` set. */
export const threadCount = (): number => threads;

function attributesOf({binding}: Backend, attrs: FlashMaskAttentionAttrs): Attribute[] {
  const {TF_ATTR_BOOL, TF_ATTR_FLOAT, TF_ATTR_INT, TF_ATTR_STRING} = binding;
  const {threshold, keepScale} = dropoutOf(attrs.dropout, attrs.seed);
  return [
    {name: 'causal', type: TF_ATTR_BOOL, value: attrs.causal},
    {name: 'scale', type: TF_ATTR_FLOAT, value: attrs.scale},
    {name: 'layout', type: TF_ATTR_STRING, value: attrs.layout},
    {name: 'dropout_threshold', type: TF_ATTR_INT, value: threshold},
    {name: 'keep_scale', type: TF_ATTR_FLOAT, value: keepScale},
    {name: 'precision', type: TF_ATTR_STRING, value: attrs.precision},
    {name: 'deterministic', type: TF_ATTR_BOOL, value: attrs.deterministic},
    {name: 'threads', type: TF_ATTR_INT, value: threads},
  ];
}

/**
 * The seed as a tensor. It changes with every call, and as an attribute it would make TensorFlow keep one kernel (3 KB)
 * per seed.
 */
function seedTensor({dropout, seed}: FlashMaskAttentionAttrs): Tensor {
  const {key0, key1} = dropoutOf(dropout, seed);
  // Not tensor1d, whose checks take longer than a short kernel.
  return engine().makeTensor(Int32Array.of(key0, key1), [2], 'int32');
}

type Inputs = FlashMaskAttentionInputs | FlashMaskAttentionGradInputs;

/** The inputs that the gradient kernel has besides those of the forward kernel; `none` stands for a dLse of zeros. */
function gradientInputs(backend: Backend, inputs: FlashMaskAttentionGradInputs, none: TensorInfo): TensorInfo[] {
  const {out, rowStats, dOut, dLse} = inputs;
  return [out, rowStats, dOut, isUnusedGradient(backend.tensorMap.get(dLse.dataId).values) ? none : dLse];
}

/** Outputs of either op: out, lse and rowStats, or dq, dk and dv. */
const OUTPUTS = 3;

/** The place of the bounds in the inputs of an op. */
const BOUNDS = 3;

/**
 * The binding's ids of the inputs of an op. On a GPU the plan of the mask stands in the place of bounds that fit; not
 * in recordings, whose functions get it when they are made.
 */
function idsOf(backend: Backend, all: TensorInfo[], {causal, layout}: FlashMaskAttentionAttrs): number[] {
  const ids = backend.getInputTensorIds(all);
  const [q, k] = all;
  const {shape, dataId, dtype} = all[BOUNDS];
  const fits = dtype === 'int32' && shape[2] === k.shape[layout === 'bshd' ? 1 : 2];
  const plans = backend.isUsingGpuDevice && fits && !isRecordedBackend(backend);
  const kind = plans ? planKindOf({causal, layout, q: q.shape, bounds: shape}) : null;
  if (kind !== null) ids[BOUNDS] = planOf(backend, dataId, ids[BOUNDS], kind);
  return ids;
}

/** Runs one op. Its inputs are those of the kernel, with the seed after the bounds. */
function execute(name: string, inputs: Inputs, attrs: FlashMaskAttentionAttrs, backend: Backend): Tensor[] {
  const {q, k, v, bounds} = inputs;
  const seed = seedTensor(attrs);
  const none = name === FlashMaskAttention ? null : engine().makeTensor(new Float32Array(0), [0], 'float32');
  const rest = none === null ? [] : gradientInputs(backend, inputs as FlashMaskAttentionGradInputs, none);
  const all = [q, k, v, bounds, seed, ...rest];
  try {
    const ids = idsOf(backend, all, attrs);
    const outputs = backend.binding.executeOp(name, attributesOf(backend, attrs), ids, OUTPUTS);
    return outputs.map((output) => backend.createOutputTensor(output));
  } catch (error) {
    throw readable(error);
  } finally {
    seed.dispose();
    none?.dispose();
  }
}

const RESOURCE_EXHAUSTED = 8;

/** tfjs-node's error in the library's form. */
function readable(error: unknown): Error {
  const {code, message} = statusOf(error);
  const remedy =
    code === RESOURCE_EXHAUSTED
      ? 'Free tensors (tf.tidy, dispose), or use smaller batches.'
      : 'Run `npx tfjs-flashmask doctor`.';
  return new Error(
    `flashMaskAttention: TensorFlow must be able to run the op, got '${message}' (status ${code ?? 'unknown'}). ${remedy}`,
    {cause: error},
  );
}

let warned = false;

function warnOnce(reason: string): void {
  if (warned) return;
  warned = true;
  console.warn(
    `flashMaskAttention: the backend 'tensorflow' must have the native kernels to be fast, got ${reason}. Run ` +
      '`npx tfjs-flashmask doctor`: it says how to fix that; `node node_modules/tfjs-flashmask/scripts/build_native.mjs` ' +
      'builds them. Until then the kernels composed from tfjs ops run.',
  );
}

/** A kernel that chooses native or composed code when it runs, because only then is tfjs-node surely loaded. */
function nativeConfig(composed: KernelConfig): KernelWithPrecisions {
  const {kernelName} = composed;
  const native = kernelConfig<Inputs, Backend>(kernelName, BACKEND, ({inputs, attrs, backend}) =>
    execute(kernelName, inputs, attrs, backend),
  );
  return {
    ...native,
    kernelFunc: (call) => {
      const reason = whyNotNative(call.backend as Backend);
      if (reason === null) return native.kernelFunc(call);
      warnOnce(reason);
      return composed.kernelFunc(call);
    },
    precisionsOn: (backend) =>
      whyNotNative(backend as Backend) === null ? ['auto', 'float32', 'float16', 'bfloat16'] : ['auto', 'float32'],
  };
}

/**
 * Registers both kernels. They replace composed ones, which are registered if the op has already run. Native kernels of
 * another copy of this library stay.
 */
export function registerNativeKernels(): void {
  for (const config of composedConfigs(BACKEND).map(nativeConfig)) {
    const before = getKernel(config.kernelName, BACKEND) as KernelWithPrecisions | undefined;
    if (before?.precisionsOn) continue;
    if (before) unregisterKernel(config.kernelName, BACKEND);
    registerKernel(config);
  }
}
