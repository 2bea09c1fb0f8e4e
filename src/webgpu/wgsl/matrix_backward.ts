/**
 * @file The backward passes on subgroup matrices; their products are those of backward.ts. Weights and score gradients are float16 as well, so
 * both are scaled by powers of two: weights, which are at most 1, by 2^WEIGHT_POWER; score gradients by 2^gradientPower, which fits the largest
 * that heads of such magnitudes can have.
 */
import {paddedChannels, type MatrixPlan} from '../../matrix_plan.js';
import {forEachLiveTile} from './tiles.js';
import {
  accumulate,
  copyAt,
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
  START,
  storeAccumulator,
} from './matrix_steps.js';

/**
 * A product of dO and v is at most Dv 2^30 in the units of their copies, and so is delta; their difference, times a weight, is to stay
 * below 2^15. Dropout makes both larger.
 */
const gradientPower = (p: MatrixPlan): string =>
  `${(15 - 31 - Math.ceil(Math.log2(paddedChannels(p.Dv, p.matrix)))).toFixed(1)}${p.dropout ? ' - ceil(log2(u.keepScale))' : ''}`;

const CONSTANTS = `const WEIGHT_POWER = 14.0f;\n`;

/** Declares the factors between the copies' units and the tensors' own. */
function factors(p: MatrixPlan): string {
  const {q, k, v, dOut} = operands(p);
  return `
  let qFactor = ${factorOf(p, q)};
  let kFactor = ${factorOf(p, k)};
  let vFactor = ${factorOf(p, v)};
  let dOutFactor = ${factorOf(p, dOut)};
  let gradientPower = ${gradientPower(p)};
  // From products of the copies of dO and v to the units of score gradients, and from there to gradients.
  let toGradient = exp2(gradientPower - WEIGHT_POWER);
  let fromGradient = exp2(-gradientPower) * u.scale;`;
}

/** WGSL for the statistics of query r of head bh: lse less the power of the weights, and delta in the units of score gradients. */
const statsOf = (r: string): string =>
  `scaledStats(rowStats[bh * u.Sq + min(${r}, u.Sq - 1u)], ${r} < u.Sq, toGradient / dOutFactor, 1.0 / vFactor)`;

const SCALED_STATS = `
// Past the last query an lse that makes every weight vanish.
fn scaledStats(stats: vec2f, exists: bool, first: f32, second: f32) -> vec2f {
  return select(vec2f(3.0e38, 0.0), vec2f(stats.x - WEIGHT_POWER, stats.y * first * second), exists);
}
`;

/** WGSL for dropout's factors of the four keys from \`key\` on, of query r: 0, or keepScale. */
const keeps = (key: string): string => `keep(bh, qFirst + laneRow, ${key} / 4u)`;

export function matrixDqShader(p: MatrixPlan): string {
  const {q, k, v, dOut} = operands(p);
  const gradient = (i: number, column: string): string => {
    const product = `${quadOf(p, 'products', i)} * toGradient${p.dropout ? ` * ${keeps(`(kFirst + ${column})`)}` : ''}`;
    return putWeights(p, 'weights', i, `x${i} * (${product} - vec4f(stats.y))`);
  };
  const body = `
let kFirst = tile * BLOCK_K;
workgroupBarrier();
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${multiply(p, 'scores', q, k)}
${multiply(p, 'products', dOut, v)}
workgroupBarrier();
${eachQuad(p, (i) => `var x${i} = exp2(${quadOf(p, 'scores', i)} * toScore - vec4f(stats.x));`)}
${maskQuads(p, 'x', '0.0')}
${eachQuad(p, gradient)}
workgroupBarrier();
${accumulate(p, 'acc', 'weights', k)}
`;
  return `${preamble(p)}${CONSTANTS}${SCALED_STATS}
${START}
${queryWalk(p)}
${factors(p)}
  let dqBase = b * u.qBatch + h * u.qHead;
  let stats = ${statsOf('qFirst + laneRow')};
${holdRows(p, q)}
${holdRows(p, dOut)}
${declareAccumulator(p, 'acc', p.D)}
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
${storeAccumulator(p, 'acc', {name: 'dq', stride: 'q', channels: p.D, side: 'row'}, 'qFirst', 'u.Sq', 'fromGradient * kFactor * dOutFactor * vFactor')}
}
`;
}

/** Whether K and V of a band stay in registers beside both accumulators. */
const holdsKeys = (p: MatrixPlan): boolean =>
  p.parts * p.bandRows * (paddedChannels(p.D, p.matrix) + paddedChannels(p.Dv, p.matrix)) <= 64 * p.matrix.lanes;

/** dkdv of one tile of queries: rows are keys, columns queries. */
function dkdvTile(p: MatrixPlan): string {
  const {q, k, v, dOut} = operands(p);
  const held = holdsKeys(p);
  const weigh = (i: number): string => `
let at${i} = part + ${i * p.rowLanes}u;
var x${i} = exp2(${quadOf(p, 'scores', i)} * toScore - tileLse[at${i}]);`;
  const mask = (i: number, column: string): string => `  {
    let r = vec4i(i32(qFirst + ${column})) + vec4i(0, 1, 2, 3);
    x${i} = select(vec4f(), x${i}, visible(r, vec4i(j), bounds));
  }`;
  const gradient = (i: number): string => `{
let product = ${quadOf(p, 'products', i)} * toGradient;
${p.dropout ? `let kept = keptOf(bh, qFirst + 4u * at${i}, kFirst + laneRow);` : ''}
${putWeights(p, 'weights', i, p.dropout ? `x${i} * kept` : `x${i}`)}
${putWeights(p, 'scoreGradients', i, `x${i} * (product${p.dropout ? ' * kept * u.keepScale' : ''} - tileDelta[at${i}])`)}
}`;
  return `
let qFirst = tile * BLOCK_Q;
workgroupBarrier();
${loadTile(p, q, 'qFirst')}
${loadTile(p, dOut, 'qFirst')}
if (lid < COLS) {
  let stats = ${statsOf('qFirst + lid')};
  tileLse[lid / 4u][lid % 4u] = stats.x;
  tileDelta[lid / 4u][lid % 4u] = stats.y;
}
workgroupBarrier();
${multiply(p, 'scores', k, q, held)}
${multiply(p, 'products', v, dOut, held)}
workgroupBarrier();
${eachQuad(p, weigh)}
if (partial) {
  let j = i32(kFirst + laneRow);
  let bounds = boundsOfKey(maskHead, u32(min(j, i32(u.Sk) - 1)));
${eachQuad(p, mask)}
}
${eachQuad(p, gradient)}
workgroupBarrier();
${accumulate(p, 'dvAcc', 'weights', dOut)}
${accumulate(p, 'dkAcc', 'scoreGradients', q)}
`;
}

/** Declares \`keptOf(bh, r, j)\`: 1 where dropout keeps key j of queries r to r + 3, else 0. */
const KEPT_FUNCTION = `
fn keptOf(bh: u32, r: u32, j: u32) -> vec4f {
  let keeps = vec4f(keep(bh, r, j / 4u)[j % 4u], keep(bh, r + 1u, j / 4u)[j % 4u], keep(bh, r + 2u, j / 4u)[j % 4u], keep(bh, r + 3u, j / 4u)[j % 4u]);
  return select(vec4f(), vec4f(1.0), keeps > vec4f());
}
`;

export function matrixDkdvShader(p: MatrixPlan): string {
  const {q, k, v, dOut} = operands(p);
  const kind =
    'classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)))';
  return `${preamble(p)}${CONSTANTS}${SCALED_STATS}${p.dropout ? KEPT_FUNCTION : ''}
// lse and delta of the queries of a tile, as statsOf gives them.
var<workgroup> tileLse: array<vec4f, COLS / 4u>;
var<workgroup> tileDelta: array<vec4f, COLS / 4u>;
${START}
  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let bhkv = workgroup / keyBlocks;
  let keyBlock = workgroup % keyBlocks;
  let kFirst = keyBlock * BLOCK_K;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
${[k, v].map((row) => `  let ${row.name}Band = ${copyAt(p, row, 'bhkv', 'kFirst + band * BAND_ROWS')};`).join('\n')}
${factors(p)}
  let toScore = qFactor * kFactor * u.scaleLog2;
  let dkBase = b * u.kBatch + hkv * u.kHead;
  let dvBase = b * u.vBatch + hkv * u.vHead;
  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let firstTile = ${p.causal ? 'u32(max(i32(kFirst) - u.causalOffset, 0)) / BLOCK_Q' : '0u'};
  let lastTile = queryBlocks;
${holdsKeys(p) ? holdRows(p, k) + holdRows(p, v) : ''}
${declareAccumulator(p, 'dkAcc', p.D)}
${declareAccumulator(p, 'dvAcc', p.Dv)}
  for (var member = 0u; member < u.groupSize; member++) {
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = b * u.maskBatchStride + h / u.maskGroup;
${[q, dOut].map((col) => `    let ${col.name}Head = ${copyAt(p, col, 'bh', '0u')};`).join('\n')}
${forEachLiveTile(kind, dkdvTile(p))}
  }
${storeAccumulator(p, 'dkAcc', {name: 'dk', stride: 'k', channels: p.D, side: 'row'}, 'kFirst', 'u.Sk', 'fromGradient * qFactor * dOutFactor * vFactor')}
${storeAccumulator(p, 'dvAcc', {name: 'dv', stride: 'v', channels: p.Dv, side: 'row'}, 'kFirst', 'u.Sk', `exp2(-WEIGHT_POWER) * dOutFactor${p.dropout ? ' * u.keepScale' : ''}`)}
}
`;
}
