/** @file The registry of all shaders. */
import {boundsMap} from './mask/bounds_map.js';
import {scheduleOrder, scheduleRanges} from './mask/schedule.js';
import {gammaGrad} from './layers/gamma_grad.js';
import {gatedUnit, gatedUnitGrad} from './layers/gated_unit.js';
import {rmsNorm, rmsNormGrad} from './layers/rms_norm.js';
import {rotate} from './layers/rotate.js';
import {matrixDkdv, matrixDq} from './matrix/backward.js';
import {float16Copies, magnitude} from './matrix/float16_copies.js';
import {matrixForward} from './matrix/forward.js';
import {matrixProbe} from './matrix/probe.js';
import {dkdv, dq} from './vector/backward.js';
import {combineDq, combineOut} from './vector/combine.js';
import {copyRows} from './vector/copy.js';
import {delta} from './vector/delta.js';
import {forward} from './vector/forward.js';

/** In the order in which a call may run them. A shader that is not here has no golden, and no test validates it. */
export const allShaders = [
  copyRows,
  boundsMap,
  scheduleRanges,
  scheduleOrder,
  magnitude,
  float16Copies,
  forward,
  combineOut,
  delta,
  dq,
  combineDq,
  dkdv,
  matrixForward,
  matrixDq,
  matrixDkdv,
  matrixProbe,
  rmsNorm,
  rmsNormGrad,
  gammaGrad,
  rotate,
  gatedUnit,
  gatedUnitGrad,
] as const;
