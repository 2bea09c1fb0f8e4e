/**
 * @file The plans of masks on a GPU. A plan is what the kernels need of the bounds of a mask: the op FlashMaskPlan
 * makes it once, all layers read it, forward and backward, and it lives as long as the tensor of the bounds. It is on
 * the device, where TensorFlow would copy the bounds for every call: it keeps int32 tensors on the host.
 */
import type {DataId} from '@tensorflow/tfjs-core';
import {remember} from '../../call/remember.js';

/** The members of tfjs-node's backend and binding that plans need. */
export interface PlanningBackend {
  isUsingGpuDevice: boolean;
  binding: {
    TF_ATTR_BOOL: number;
    TF_INT32: number;
    createTensor(shape: number[], dtype: number, values: Int32Array): number;
    executeOp(name: string, attributes: object[], inputs: number[], outputs: number): {id: number}[];
    deleteTensor(id: number): void;
  };
  disposeData(dataId: DataId, force?: boolean): boolean;
}

/** What a plan depends on besides the bounds. */
export interface PlanKind {
  causal: boolean;
  queryLength: number;
}

/** A call: the shapes of q and of the bounds. */
interface PlannedCall {
  causal: boolean;
  layout: string;
  q: readonly number[];
  bounds: readonly number[];
}

/** What the plan of a call depends on; null if it has no bounds to plan for. */
export function planKindOf({causal, layout, q, bounds}: PlannedCall): PlanKind | null {
  return bounds[3] === 0 ? null : {causal, queryLength: q[layout === 'bshd' ? 1 : 2]};
}

/** Tells plans of one mask apart. */
export const planKey = ({causal, queryLength}: PlanKind): string => `${causal} ${queryLength}`;

/** The binding's ids of plans by their keys, of each tensor of bounds. */
const known = new WeakMap<DataId, Map<string, number>>();

/** The binding's id of the plan of some bounds: a float32 tensor on the device. `id` is that of the bounds. */
export function planOf(backend: PlanningBackend, dataId: DataId, id: number, kind: PlanKind): number {
  freeWithTensors(backend);
  const plans = remember(known, dataId, () => new Map<string, number>());
  return remember(plans, planKey(kind), () => makePlan(backend, id, kind));
}

function makePlan({binding}: PlanningBackend, bounds: number, kind: PlanKind): number {
  const queryLength = binding.createTensor([], binding.TF_INT32, Int32Array.of(kind.queryLength));
  try {
    const causal = {name: 'causal', type: binding.TF_ATTR_BOOL, value: kind.causal};
    return binding.executeOp('FlashMaskPlan', [causal], [bounds, queryLength], 1)[0].id;
  } finally {
    binding.deleteTensor(queryLength);
  }
}

const watched = new WeakSet<PlanningBackend>();

/** From now on, the end of a tensor of the backend frees its plans too. */
function freeWithTensors(backend: PlanningBackend): void {
  if (watched.has(backend)) return;
  watched.add(backend);
  const ends = backend.disposeData.bind(backend);
  backend.disposeData = (dataId, force) => {
    const ended = ends(dataId, force);
    if (ended) {
      known.get(dataId)?.forEach((plan) => {
        backend.binding.deleteTensor(plan);
      });
      known.delete(dataId);
    }
    return ended;
  };
}
