/** @file Describes in words which WGSL kernels a device runs. The plan decides that by the device's traits alone. */
import {loadMatrixCode} from '../backends/webgpu/device/matrix_code.js';
import {planOn, variantFor} from '../backends/webgpu/plan/choose_plan.js';
import type {Precision} from '../call/kernel_names.js';
import {isMatrixPlan, type MatrixPlan} from '../backends/webgpu/plan/matrix_plan.js';
import type {DeviceCapabilities, Pass, VectorPlan} from '../backends/webgpu/plan/vector_plan.js';

const PASSES: readonly Pass[] = ['forward', 'dq', 'dkdv'];
const HEAD_SIZES = [64, 128];

/**
 * One line per precision: the tiles of a causal call with row intervals (for example packed documents) at 64 and 128
 * channels.
 *
 * @example ['auto: 64 x 32 tiles', 'float16: 64 x 16 tiles on subgroup matrices']
 */
export function kernelLines(traits: DeviceCapabilities): string[] {
  if (traits.matrix) loadMatrixCode();
  const precisions: Precision[] = traits.float16 ? ['auto', 'float32', 'float16'] : ['auto', 'float32'];
  return precisions.map((precision) => `${precision}: ${tilesOf(traits, precision)}`);
}

function tilesOf(traits: DeviceCapabilities, precision: Precision): string {
  const bySize = HEAD_SIZES.map((D) => {
    const variant = variantFor({D, Dv: D, causal: true, intervals: true, dropout: false, precision, Sq: Infinity});
    return shared(PASSES.map((pass) => [pass, describe(planOn(traits, pass, variant))]));
  });
  return shared(
    bySize.map((text, i) => [`at D ${HEAD_SIZES[i]}`, text]),
    '; ',
  );
}

const describe = (p: VectorPlan | MatrixPlan): string =>
  `${p.rows} x ${p.cols} tiles${isMatrixPlan(p) ? ' on subgroup matrices' : ''}`;

/** One text if all texts are the same, else each text with its name. */
function shared(named: [name: string, text: string][], between = ', '): string {
  const texts = new Set(named.map(([, text]) => text));
  return texts.size === 1 ? named[0][1] : named.map(([name, text]) => `${text} ${name}`).join(between);
}

/** The features that faster kernels need, and which of them a device made by createWebGPUBackend() has. */
export function featureLine({float16, matrix}: DeviceCapabilities, features: ReadonlySet<string>): string {
  const matrices = matrix
    ? `subgroup matrices of ${matrix.M} x ${matrix.N} x ${matrix.K}`
    : features.has('chromium-experimental-subgroup-matrix')
      ? 'subgroup matrices that do not pass their trial'
      : 'no subgroup matrices';
  return [float16 ? 'float16' : 'no float16', features.has('subgroups') ? 'subgroups' : 'no subgroups', matrices].join(
    ', ',
  );
}
