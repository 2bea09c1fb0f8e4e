/** @file Which WGSL kernels a device runs, in words, by asking the plan: a pure function of the device's traits. */
import {type DeviceTraits, type Pass, type PassPlan, type Variant, plan} from '../plan.js';
import {tunedShapes} from '../tuning.js';

const PASSES: readonly Pass[] = ['forward', 'dq', 'dkdv'];
const HEAD_SIZES = [64, 128];

/** The plan that a call would get. */
function planOf(traits: DeviceTraits, pass: Pass, variant: Variant): PassPlan {
  return plan(pass, variant, traits.limits, tunedShapes(traits, pass, variant));
}

/**
 * A line a precision: the tiles of a causal call with row intervals, such as of packed documents, at 64 and 128 channels.
 *
 * @example ['float32: 64 x 32 tiles', 'float16: 64 x 32 tiles at D 64; 32 x 32 tiles at D 128']
 */
export function kernelLines(traits: DeviceTraits): string[] {
  const lines = [`float32: ${tilesOf(traits, false)}`];
  return traits.float16 ? [...lines, `float16: ${tilesOf(traits, true)}`] : lines;
}

function tilesOf(traits: DeviceTraits, half: boolean): string {
  const bySize = HEAD_SIZES.map((D) => {
    const variant = {D, Dv: D, causal: true, intervals: true, dropout: false, half, fewQueries: false};
    return shared(PASSES.map((pass) => [pass, describe(planOf(traits, pass, variant))]));
  });
  return shared(
    bySize.map((text, i) => [`at D ${HEAD_SIZES[i]}`, text]),
    '; ',
  );
}

const describe = ({rows, cols}: PassPlan): string => `${rows} x ${cols} tiles`;

/** The one text if all are the same, else each with its name. */
function shared(named: [name: string, text: string][], between = ', '): string {
  const texts = new Set(named.map(([, text]) => text));
  return texts.size === 1 ? named[0][1] : named.map(([name, text]) => `${text} ${name}`).join(between);
}

/** The features that faster kernels need, as a device made by createWebGPUBackend() has them. */
export function featureLine({float16, matrix}: DeviceTraits, features: ReadonlySet<string>): string {
  const matrices = matrix
    ? `subgroup matrices of ${matrix.M} x ${matrix.N} x ${matrix.K}`
    : features.has('chromium-experimental-subgroup-matrix')
      ? 'subgroup matrices that do not pass their trial'
      : 'no subgroup matrices';
  return [float16 ? 'float16' : 'no float16', features.has('subgroups') ? 'subgroups' : 'no subgroups', matrices].join(
    ', ',
  );
}
