/** @file The forward pass on subgroup matrices; its products are those of forward.ts. */
import type {MatrixPlan} from '../../matrix_plan.js';
import {forEachLiveTile} from './tiles.js';
import {
  accumulate,
  declareAccumulator,
  eachQuad,
  factorOf,
  holdRows,
  loadTile,
  maskQuads,
  multiply,
  operands,
  preamble,
  putWeights,
  queryWalk,
  quadOf,
  scaleAccumulator,
  START,
  storeAccumulator,
} from './matrix_steps.js';

/** Largest and sum over the lanes of a row, which are neighbours. */
function overRow(p: MatrixPlan, value: string, join: (a: string, b: string) => string): string {
  let code = '';
  for (let step = 1; step < p.rowLanes; step *= 2) {
    code += `${value} = ${join(value, `subgroupShuffleXor(${value}, ${step}u)`)};\n`;
  }
  return code;
}

/** Weights of a lane's row from its scores, and their sum. */
const weigh = (p: MatrixPlan): string => `
var added = vec4f();
// A row that has seen no key yet has masked scores alone.
let origin = vec4f(select(reference, 0.0, reference <= MASKED) - WEIGHT_POWER);
${eachQuad(p, (i) => `let w${i} = exp2(x${i} - origin); added += w${i};`)}
${eachQuad(p, (i, column) => putWeights(p, 'weights', i, p.dropout ? `select(vec4f(), w${i}, keep(bh, qFirst + laneRow, (kFirst + ${column}) / 4u) > vec4f())` : `w${i}`))}`;

/**
 * Online softmax of a lane's row. Weights are exp2(score - reference + WEIGHT_POWER). The reference moves only when a maximum outgrows it by
 * RESCALE_AT, since the accumulator's rows can be rescaled only by a trip through workgroup memory; float16 holds weights up to 2^15.
 */
function softmax(p: MatrixPlan): string {
  return `
${eachQuad(p, (i) => `var x${i} = ${quadOf(p, 'scores', i)} * toScore;`)}
${maskQuads(p, 'x', 'MASKED')}
var quadMost = x0;
${eachQuad(p, (i) => (i === 0 ? '' : `quadMost = max(quadMost, x${i});`))}
var most = max(max(quadMost.x, quadMost.y), max(quadMost.z, quadMost.w));
${overRow(p, 'most', (a, b) => `max(${a}, ${b})`)}
let outgrows = reference > MASKED && most > reference + RESCALE_AT;
if (outgrows) { outgrown = tile + 1u; }
if (reference <= MASKED) { reference = most; }
{
${weigh(p)}
quadSum += added;
}
// Also the barrier after which all weights are there.
if (workgroupUniformLoad(&outgrown) == tile + 1u) {
  var shrink = 1.0;
  if (outgrows) {
    shrink = exp2(reference - most);
    reference = most;
  }
${scaleAccumulator(p, 'o', p.Dv, 'shrink')}
  if (outgrows) {
${weigh(p)}
  quadSum = shrink * quadSumBefore + added;
  }
  workgroupBarrier();
}`;
}

export function matrixForwardShader(p: MatrixPlan): string {
  const {q, k, v} = operands(p);
  const body = `
let kFirst = tile * BLOCK_K;
let quadSumBefore = quadSum;
workgroupBarrier();
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${multiply(p, 'scores', q, k)}
workgroupBarrier();
${softmax(p)}
${accumulate(p, 'o', 'weights', v)}
`;
  return `${preamble(p)}
const RESCALE_AT = 8.0f;
const WEIGHT_POWER = 7.0f;
var<workgroup> rowFactors: array<f32, ROWS>;
// One more than the last tile in which a row of the workgroup outgrew its reference.
var<workgroup> outgrown: u32;
${START}
${queryWalk(p)}
  let outBase = b * u.oBatch + h * u.oHead;
${holdRows(p, q)}
${declareAccumulator(p, 'o', p.Dv)}
  var quadSum = vec4f();
  var reference = MASKED;
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
  var sum = dot(quadSum, vec4f(1.0));
${overRow(p, 'sum', (a, b) => `${a} + ${b}`)}
  let sawNone = reference <= MASKED;
  if (part == 0u) {
    rowFactors[laneRow] = select(${factorOf(p, v)} / sum, 0.0, sawNone);
    if (qFirst + laneRow < u.Sq) {
      lse[bh * u.Sq + qFirst + laneRow] = select((reference - WEIGHT_POWER + log2(sum)) * LN_2, u.negativeInfinity, sawNone);
    }
  }
${storeAccumulator(p, 'o', {name: 'out', stride: 'o', channels: p.Dv, side: 'row'}, 'qFirst', 'u.Sq', `rowFactors[r]${p.dropout ? ' * u.keepScale' : ''}`)}
}
`;
}
