/** @file The forward pass on subgroup matrices. Its products are those of vector/forward.ts. */
import type {MatrixShaderPlan} from '../../plan/matrix_plan.js';
import {
  MATRIX_SHADER,
  accumulate,
  addNotFinite,
  clearFetched,
  declarations,
  declareAccumulator,
  declareFetched,
  eachQuad,
  factorOf,
  fetchTile,
  hasNotFinite,
  holdRows,
  keepTile,
  lanePlace,
  maskQuads,
  moveFetched,
  multiply,
  putWeights,
  queriesOfWorkgroup,
  quadOf,
  scaleAccumulator,
  storeAccumulators,
  type Target,
} from './steps.js';
import {ROW_FUNCTIONS} from '../header.js';
import {operandsOf} from '../operands.js';
import type {Shader} from '../shader.js';
import {forEachLiveTileAhead} from '../mask/tiles.js';

/** Combines a value over the lanes of a row, which are neighbours. */
function overRow(p: MatrixShaderPlan, value: string, join: (a: string, b: string) => string): string {
  let code = '';
  for (let step = 1; step < p.rowLanes; step *= 2) {
    code += `${value} = ${join(value, `subgroupShuffleXor(${value}, ${step}u)`)};\n`;
  }
  return code;
}

/**
 * Computes the weights of a lane's row from its products, and their sum. Masked products are LOWEST, so that their
 * weights vanish.
 */
function weigh(p: MatrixShaderPlan): string {
  const kept = (i: number, column: string): string =>
    p.dropout ? `select(vec4f(), w${i}, keep(bh, qFirst + laneRow, (kFirst + ${column}) / 4u) > vec4f())` : `w${i}`;
  return `
var added = vec4f();
// A row that has seen no key yet has only masked products.
let origin = vec4f(select(reference, 0.0, reference == LOWEST));
${eachQuad(p, (i) => `let w${i} = exp2(fma(x${i} - origin, vec4f(toScore), vec4f(WEIGHT_POWER))); added += w${i};`)}
${eachQuad(p, (i, column) => putWeights(p, 0, i, kept(i, column)))}`;
}

/**
 * Online softmax of a lane's row. Weights are exp2((product - reference) toScore + WEIGHT_POWER). The reference moves
 * only when a maximum outgrows it by RESCALE_AT, since rescaling the accumulator's rows takes a trip through workgroup
 * memory. float16 holds weights up to 2^15.
 */
const softmax = (p: MatrixShaderPlan): string => `
let sumBefore = quadSum;
${eachQuad(p, (i) => `var x${i} = ${quadOf(p, 0, i)};`)}
${maskQuads(p, 'LOWEST')}
var quadMost = x0;
${eachQuad(p, (i) => (i === 0 ? '' : `quadMost = max(quadMost, x${i});`))}
var most = max(max(quadMost.x, quadMost.y), max(quadMost.z, quadMost.w));
${overRow(p, 'most', (a, b) => `max(${a}, ${b})`)}
let outgrows = reference != LOWEST && (most - reference) * toScore > RESCALE_AT;
if (outgrows) { outgrown = tile + 1u; }
if (reference == LOWEST) { reference = most; }
{
${weigh(p)}
quadSum += added;
}
// This is also the barrier after which all weights are stored.
if (workgroupUniformLoad(&outgrown) == tile + 1u) {
  var shrink = 1.0;
  if (outgrows) {
    shrink = exp2((reference - most) * toScore);
    reference = most;
  }
${scaleAccumulator(p, 'shrink')}
  if (outgrows) {
${weigh(p)}
    quadSum = shrink * sumBefore + added;
  }
  workgroupBarrier();
}`;

const SEES_KEY = 'visible(vec4i(i32(row)), vec4i(i32(c)), boundsOfKey(maskHead, c)).x';

/** Stores lse, statistics and out. A row that saw no key gets out 0 and lse -Infinity. */
function finish(p: MatrixShaderPlan): string {
  const out: Target = {
    ...operandsOf(p).out,
    channel: 0,
    factor: `rowFactors[r]${p.dropout ? ' * u.keepScale' : ''}`,
  };
  return `
  var sum = dot(quadSum, vec4f(1.0));
${overRow(p, 'sum', (a, b) => `${a} + ${b}`)}
  sum = orNaN(sum);
  if (laneShare == 0u) {
    rowFactors[laneRow] = select(${factorOf(p, operandsOf(p).v)} / sum, 0.0, sum == 0.0);
    if (qFirst + laneRow < u.Sq) {
      let row = bh * u.Sq + qFirst + laneRow;
      lse[row] = logSumExp(reference * toScore - WEIGHT_POWER, sum);
      rowStats[row] = vec2f(reference * qFactor * kFactor, sum * exp2(-WEIGHT_POWER));
    }
  }
${storeAccumulators(p, [out], 'qFirst', 'u.Sq')}
  if (notFiniteV) {
${addNotFinite(p, operandsOf(p).v, out, ['firstTile * BLOCK_K', 'min(lastTile * BLOCK_K, u.Sk)'], ['qFirst', 'u.Sq'], SEES_KEY)}
  }`;
}

/**
 * Each tile takes two phases, with a barrier after each. The first computes matrix products: the scores of this tile
 * and the output of the tile before. The second computes the weights of this tile, while V of this tile and K of the
 * next go to workgroup memory. V waits in registers for one step.
 */
export const matrixForward: Shader<MatrixShaderPlan> = {
  ...MATRIX_SHADER,
  name: 'matrix_forward',
  declarations: (p) => declarations(p) + ROW_FUNCTIONS + DECLARATIONS,
  body,
};

const DECLARATIONS = `
const RESCALE_AT = 8.0f;
const WEIGHT_POWER = 7.0f;
var<workgroup> rowFactors: array<f32, ROWS>;
// One more than the last tile in which a row of the workgroup outgrew its reference.
var<workgroup> outgrown: u32;
`;

function body(p: MatrixShaderPlan): string {
  const {q, k, v} = operandsOf(p);
  const work = `
let kFirst = tile * BLOCK_K;
${multiply(p)}
// Before the first tile all weights are zeros.
${accumulate(p, '0u', '1u')}
workgroupBarrier();
if (more) {
${keepTile(p, 'nextK', 0)}
}
if (partial && notFiniteV) {
${clearFetched(p, 'presentV')}
}
${keepTile(p, 'presentV', 1)}
${moveFetched(p, 'nextV', 'presentV')}
${softmax(p)}`;
  return `${lanePlace(p)}
${queriesOfWorkgroup(p)}
  // From products of the copies to scores in powers of two.
  let qFactor = ${factorOf(p, q)};
  let kFactor = ${factorOf(p, k)};
  // Products are below 2^37, so a smaller factor would also make all weights equal, but masked weights would not
  // vanish.
  let toScore = max(qFactor * kFactor * u.scaleLog2, 1.0e-36);
  let notFiniteV = ${hasNotFinite(p, v)};
  let outBase = b * u.oBatch + h * u.oHead;
${holdRows(p, q)}
${declareAccumulator(p)}
${declareFetched(p, 'nextK')}
${declareFetched(p, 'nextV')}
${declareFetched(p, 'presentV')}
  var quadSum = vec4f();
  var reference = LOWEST;
${forEachLiveTileAhead('classify(maskHead, candidate, rowsBegin, rowsEnd)', {
  fetch: `${fetchTile(p, 'nextK', k, 'next * BLOCK_K')}
${fetchTile(p, 'nextV', v, 'next * BLOCK_K')}`,
  start: `${keepTile(p, 'nextK', 0)}
${moveFetched(p, 'nextV', 'presentV')}`,
  work,
})}
${accumulate(p, '0u', '1u')}
${finish(p)}`;
}
