/**
 * @file The backward passes on subgroup matrices. Their products are those of vector/backward.ts. Weights and score
 * gradients are float16 as well, so both are scaled by powers of two. Weights, which are at most 1, are scaled by
 * 2^WEIGHT_POWER. Score gradients are scaled by 2^gradientPower, so that the largest that heads of these magnitudes can
 * have fits float16.
 */
import type {MatrixShaderPlan} from '../../plan/matrix_plan.js';
import {
  MATRIX_SHADER,
  accumulate,
  addNotFinite,
  clearTile,
  declareFlushed,
  flushAccumulators,
  copyAt,
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
  multiply,
  putWeights,
  queriesOfWorkgroup,
  quadOf,
  storeAccumulators,
  type Target,
} from './steps.js';
import {operandsOf} from '../operands.js';
import type {Shader} from '../shader.js';
import {memberOfGroup, rowBlockOfWorkgroup} from '../mask/row_blocks.js';
import {forEachLiveTileAhead} from '../mask/tiles.js';

/**
 * The power of two that scales score gradients. A product of dO and v is at most Dv 2^30 in the units of their copies,
 * and so is delta. Their difference, times a weight, must stay below 2^15. Dropout makes both larger.
 */
const gradientPower = (p: MatrixShaderPlan): string =>
  `${(15 - 31 - Math.ceil(Math.log2(p.Dv))).toFixed(1)}${p.dropout ? ' - ceil(log2(u.keepScale))' : ''}`;

const CONSTANTS = `
const WEIGHT_POWER = 14.0f;

// The terms of a query (delta.ts): the maximum in the units of products of the copies, 1 / sum times the power of the
// weights, and delta - dLse in the units of score gradients. Factors are applied one by one, so that each step stays in
// range. Zeros past the last query, so that weights vanish.
fn scaledTerms(terms: vec4f, exists: bool, qFactor: f32, kFactor: f32, first: f32, second: f32) -> vec3f {
  return select(vec3f(), vec3f(terms.x / qFactor / kFactor, terms.y * exp2(WEIGHT_POWER), terms.z * first * second), exists);
}
`;

/** Declares the factors between the copies' units and the tensors' own. */
function factors(p: MatrixShaderPlan): string {
  const {q, k, v, dOut} = operandsOf(p);
  return `
  let qFactor = ${factorOf(p, q)};
  let kFactor = ${factorOf(p, k)};
  let vFactor = ${factorOf(p, v)};
  let dOutFactor = ${factorOf(p, dOut)};
  let toScore = qFactor * kFactor * u.scaleLog2;
  let gradientPower = ${gradientPower(p)};
  // From products of the copies of dO and v to the units of score gradients, and from there to gradients.
  let toGradient = exp2(gradientPower - WEIGHT_POWER);
  let fromGradient = exp2(-gradientPower) * u.scale;`;
}

/** WGSL for the terms of query r of head bh. */
const termsOf = (r: string): string =>
  `scaledTerms(rowTerms[bh * u.Sq + min(${r}, u.Sq - 1u)], ${r} < u.Sq, qFactor, kFactor, toGradient / dOutFactor, 1.0 / vFactor)`;

/** The walk of both passes. The next tiles of both column operands are fetched while the current ones are handled. */
function walk(p: MatrixShaderPlan, kind: string, work: string, flush: string): string {
  const {q, k, v, dOut} = operandsOf(p);
  const [first, second, block] = p.pass === 'dq' ? [k, v, 'BLOCK_K'] : [q, dOut, 'BLOCK_Q'];
  const keep = `${keepTile(p, 'nextFirst', 0)}
${keepTile(p, 'nextSecond', 1)}`;
  return forEachLiveTileAhead(kind, {
    fetch: `${fetchTile(p, 'nextFirst', first, `next * ${block}`)}
${fetchTile(p, 'nextSecond', second, `next * ${block}`)}`,
    start: keep,
    work: `${work}
${flush}
workgroupBarrier();
if (more) {
${keep}
}
workgroupBarrier();`,
  });
}

const declareNext = (p: MatrixShaderPlan): string => `${declareFetched(p, 'nextFirst')}
${declareFetched(p, 'nextSecond')}`;

/**
 * Role 0 computes the scores and the lower half of dq's channels. Role 1 computes the products of dO and V and the
 * upper half.
 */
export const matrixDq: Shader<MatrixShaderPlan> = {
  ...MATRIX_SHADER,
  name: 'matrix_dq',
  declarations: (p) => declarations(p) + CONSTANTS,
  body: dqBody,
};

function dqBody(p: MatrixShaderPlan): string {
  const {q, k, dOut} = operandsOf(p);
  const kept = (column: string): string =>
    p.dropout ? ` * keep(bh, qFirst + laneRow, (kFirst + ${column}) / 4u)` : '';
  const gradient = (i: number, column: string): string =>
    `var x${i} = exp2((${quadOf(p, 0, i)} - vec4f(terms.x)) * toScore) * terms.y * (${quadOf(p, 1, i)} * toGradient${kept(column)} - vec4f(terms.z));`;
  const work = `
let kFirst = tile * BLOCK_K;
${multiply(p)}
workgroupBarrier();
${eachQuad(p, gradient)}
${maskQuads(p, '0.0')}
${eachQuad(p, (i) => putWeights(p, 0, i, `x${i}`))}
if (partial && notFiniteK) {
${clearTile(p, 0)}
}
workgroupBarrier();
${accumulate(p, '0u', '0u', `role * ${p.channels / 2 / 8}u`)}
`;
  const half = (channel: number): Target => ({
    ...operandsOf(p).dq,
    channel,
    factor: 'fromGradient * kFactor * dOutFactor * vFactor',
  });
  const halves = [half(0), half(p.channels / 2)];
  return `${lanePlace(p)}
${queriesOfWorkgroup(p)}
${factors(p)}
  let dqBase = b * u.qBatch + h * u.qHead;
  let terms = ${termsOf('qFirst + laneRow')};
  let notFiniteK = ${hasNotFinite(p, k)};
${holdRows(p, q, dOut)}
${declareAccumulator(p)}
${declareNext(p)}
${declareFlushed(p)}
${walk(p, 'classify(maskHead, candidate, rowsBegin, rowsEnd)', work, flushAccumulators(p, halves, 'qFirst', 'u.Sq'))}
${storeAccumulators(p, halves, 'qFirst', 'u.Sq')}`;
}

/**
 * WGSL that handles one tile of queries in dkdv. Rows are keys, columns are queries. Role 0 computes the scores and dk.
 * Role 1 computes the products of V and dO, and dv.
 */
function dkdvTile(p: MatrixShaderPlan): string {
  const weigh = (i: number, column: string): string => `
${p.dropout ? `let kept${i} = keptOf(bh, qFirst + ${column}, kFirst + laneRow);` : ''}
var x${i} = exp2((${quadOf(p, 0, i)} - tileMax[${column} / 4u]) * toScore) * tileFactor[${column} / 4u];
var g${i} = x${i} * (${quadOf(p, 1, i)} * toGradient${p.dropout ? ` * kept${i} * u.keepScale` : ''} - tileDelta[${column} / 4u]);
${p.dropout ? `x${i} *= kept${i};` : ''}`;
  const mask = (i: number, column: string): string => `  {
    let r = vec4i(i32(qFirst + ${column})) + vec4i(0, 1, 2, 3);
    let seen = visible(r, vec4i(j), bounds);
    x${i} = select(vec4f(), x${i}, seen);
    g${i} = select(vec4f(), g${i}, seen);
  }`;
  return `
let qFirst = tile * BLOCK_Q;
if (lid < COLS) {
  let terms = ${termsOf('qFirst + lid')};
  tileMax[lid / 4u][lid % 4u] = terms.x;
  tileFactor[lid / 4u][lid % 4u] = terms.y;
  tileDelta[lid / 4u][lid % 4u] = terms.z;
}
${multiply(p)}
workgroupBarrier();
${eachQuad(p, weigh)}
if (partial) {
  let j = i32(kFirst + laneRow);
  let bounds = boundsOfKey(maskHead, u32(min(j, i32(u.Sk) - 1)));
${eachQuad(p, mask)}
}
${eachQuad(p, (i) => putWeights(p, 0, i, `g${i}`))}
${eachQuad(p, (i) => putWeights(p, 1, i, `x${i}`))}
if (partial && notFiniteQ) {
${clearTile(p, 0)}
}
if (partial && notFiniteDOut) {
${clearTile(p, 1)}
}
workgroupBarrier();
${accumulate(p, 'role', 'role')}
`;
}

const SEEN_BY_QUERY = 'visible(vec4i(i32(c)), vec4i(i32(row)), boundsOfKey(maskHead, row)).x';

/** Declares `keptOf(bh, r, j)`: 1 where dropout keeps key j of queries r to r + 3, else 0. */
const KEPT_FUNCTION = `
fn keptOf(bh: u32, r: u32, j: u32) -> vec4f {
  let keeps = mat4x4f(keep(bh, r, j / 4u), keep(bh, r + 1u, j / 4u), keep(bh, r + 2u, j / 4u), keep(bh, r + 3u, j / 4u));
  return select(vec4f(), vec4f(1.0), transpose(keeps)[j % 4u] > vec4f());
}
`;

export const matrixDkdv: Shader<MatrixShaderPlan> = {
  ...MATRIX_SHADER,
  name: 'matrix_dkdv',
  declarations: (p) => `${declarations(p)}${CONSTANTS}${p.dropout ? KEPT_FUNCTION : ''}
// Terms of the queries of a tile.
var<workgroup> tileMax: array<vec4f, COLS / 4u>;
var<workgroup> tileFactor: array<vec4f, COLS / 4u>;
var<workgroup> tileDelta: array<vec4f, COLS / 4u>;
`,
  body: dkdvBody,
};

function dkdvBody(p: MatrixShaderPlan): string {
  const {q, k, v, dOut, ...results} = operandsOf(p);
  const kind =
    'classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)))';
  const dk: Target = {
    ...results.dk,
    channel: 0,
    factor: 'fromGradient * qFactor * dOutFactor * vFactor',
  };
  const dv: Target = {
    ...results.dv,
    channel: 0,
    factor: `exp2(-WEIGHT_POWER) * dOutFactor${p.dropout ? ' * u.keepScale' : ''}`,
  };
  return `${lanePlace(p)}
${rowBlockOfWorkgroup(p)}
${[k, v].map((row) => `  let ${row.name}Band = ${copyAt(p, row, 'bhkv', 'kFirst + band * BAND_ROWS')};`).join('\n')}
${factors(p)}
  let notFiniteQ = ${hasNotFinite(p, q)};
  let notFiniteDOut = ${hasNotFinite(p, dOut)};
  let dkBase = b * u.kBatch + hkv * u.kHead;
  let dvBase = b * u.vBatch + hkv * u.vHead;
${holdRows(p, k, v)}
${declareAccumulator(p)}
${declareNext(p)}
${declareFlushed(p)}
  for (var member = 0u; member < u.groupSize; member++) {
${memberOfGroup()}
${[q, dOut].map((col) => `    let ${col.name}Head = ${copyAt(p, col, 'bh', '0u')};`).join('\n')}
${walk(p, kind, dkdvTile(p), flushAccumulators(p, [dk, dv], 'kFirst', 'u.Sk'))}
  }
${storeAccumulators(p, [dk, dv], 'kFirst', 'u.Sk')}
  if (notFiniteDOut) {
    for (var member = 0u; member < u.groupSize; member++) {
${memberOfGroup()}
      let dOutHead = ${copyAt(p, dOut, 'bh', '0u')};
${addNotFinite(p, dOut, dv, ['firstTile * BLOCK_Q', 'min(lastTile * BLOCK_Q, u.Sq)'], ['kFirst', 'u.Sk'], SEEN_BY_QUERY)}
    }
  }`;
}
