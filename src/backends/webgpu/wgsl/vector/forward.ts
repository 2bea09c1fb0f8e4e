/**
 * @file The forward pass: O = softmax(scale QKᵀ + mask) V by online softmax over the live key blocks of a query block,
 * and lse (paper section 4.3, algorithm 1). One workgroup computes blockQ rows of one head.
 */
import type {ShaderPlan} from '../../plan/vector_plan.js';
import {constants, elementType, NOT_FINITE_FUNCTION, NOT_FINITE_MET, ROW_FUNCTIONS, unroll} from '../header.js';
import {bindingsOf, operandsOf} from '../operands.js';
import type {Shader} from '../shader.js';
import {headOf, keyBlockOf, queryOf, resultBatchOf, rowEndOf} from '../mask/query_rows.js';
import {rowBlockFunctions, rowBlockOfWorkgroup} from '../mask/row_blocks.js';
import {
  accumulate,
  addNotFinite,
  chunksOf,
  colOf,
  declareAccumulator,
  declareScores,
  declareTiles,
  keepFunction,
  loadFunction,
  maskTile,
  registerTile,
  rowOf,
  scores,
  storeAccumulator,
  storeWeights,
  visibleFunction,
  SHADER_PLAN_FIELDS,
} from './steps.js';
import {classifyFunction, forEachLiveTile, TILE_BITS} from '../mask/tiles.js';

/** Writes the thread's row maxima to workgroup memory. */
function reduceMaxima(p: ShaderPlan): string {
  const {rows, colGroups} = registerTile(p);
  const max = (i: number): string => {
    const over = Array.from({length: colGroups}, (_, g) => `s_${i}_${g}`).reduce((a, b) => `max(${a}, ${b})`);
    return `{ let m = ${over}; rowMax[tx * ROWS + ${rowOf(p, i)}] = max(max(m.x, m.y), max(m.z, m.w)); }`;
  };
  return unroll(rows, max);
}

/** One thread per row computes the new maximum of the row and the factor by which its sums so far shrink. */
const UPDATE_STATS = `
workgroupBarrier();
for (var row = lid; row < ROWS; row += THREADS) {
  let before = rowState[row].x;
  var m = before;
  for (var x = 0u; x < THREADS_X; x++) { m = max(m, rowMax[x * ROWS + row]); }
  // A row that has seen no key yet has sums of 0, so its factor does not matter.
  rowState[row] = vec2f(m, select(exp2((before - m) * u.scaleLog2), 0.0, before == LOWEST));
}
workgroupBarrier();`;

/**
 * Computes the weights P = exp2((S - max) scaleLog2), 0 where masked, and the row sums, and rescales the accumulator to
 * the new maximum.
 */
function weigh(p: ShaderPlan): string {
  const {rows, colGroups} = registerTile(p);
  const vec4s = chunksOf(p.Dv);
  const kept = (i: number): string => {
    const r = `qFirst + ${rowOf(p, i)}`;
    return `keep(${headOf(p, r)}, ${queryOf(p, r)}`;
  };
  const row = (i: number): string => `{
  let shrink = rowState[${rowOf(p, i)}].y;
  sum_${i} = sum_${i} * shrink + ${Array.from({length: colGroups}, (_, g) => `dot(s_${i}_${g}, vec4f(1.0))`).join(' + ')};
${unroll(vec4s, (m) => `  o_${i}_${m} *= shrink;`)}
${p.dropout ? unroll(colGroups, (g) => `  s_${i}_${g} *= ${kept(i)}, (kFirst + ${colOf(p, g)}) / 4u);`) : ''}
}`;
  const weights = (i: number): string => `{
  let m = rowState[${rowOf(p, i)}].x;
${unroll(colGroups, (g) => `  s_${i}_${g} = exp2((s_${i}_${g} - m) * u.scaleLog2);`)}
}`;
  return `${unroll(rows, weights)}
${maskTile(p, 's', '0.0')}
${unroll(rows, row)}`;
}

/**
 * Adds up the row sums of the threads of a row, then stores its statistics and 1 / sum. A row that saw no key gets out
 * 0 and lse -Infinity.
 */
function finish(p: ShaderPlan): string {
  const {rows} = registerTile(p);
  return `
workgroupBarrier();
${unroll(rows, (i) => `rowMax[tx * ROWS + ${rowOf(p, i)}] = sum_${i};`)}
workgroupBarrier();
for (var row = lid; row < ROWS; row += THREADS) {
  var sum = 0.0;
  for (var x = 0u; x < THREADS_X; x++) { sum += rowMax[x * ROWS + row]; }
  let total = orNaN(sum);
  let m = rowState[row].x;
  if (qFirst + row < ${rowEndOf(p)}) {
    lse[lseBase + qFirst + row] = logSumExp(m * u.scaleLog2, total);
    rowStats[lseBase + qFirst + row] = vec2f(m, total);
  }
  // The weight of the largest score is 1: only a row that saw no key has none.
  rowState[row].y = select(1.0 / total, 0.0, total == 0.0);
}
workgroupBarrier();
`;
}

/** One workgroup per block of queries of a head. */
export const forward: Shader<ShaderPlan> = {
  name: 'forward',
  fields: SHADER_PLAN_FIELDS,
  bindings: (p) => bindingsOf(p, elementType),
  threads: ({threads}) => threads,
  item: 'workgroup',
  declarations,
  body,
};

function declarations(p: ShaderPlan): string {
  const {q, k, v} = operandsOf(p);
  return `${constants(p)}${NOT_FINITE_FUNCTION}${ROW_FUNCTIONS}${declareTiles(p)}${TILE_BITS}${NOT_FINITE_MET}
var<workgroup> rowMax: array<f32, ${p.threadsX * p.rows}>;
// Per row: the maximum so far, and the factor of its sums.
var<workgroup> rowState: array<vec2f, ${p.rows}>;
${[q, k, v].map(loadFunction).join('\n')}
${classifyFunction(p)}${rowBlockFunctions(p)}${visibleFunction(p)}${keepFunction(p)}`;
}

/** WGSL that handles a live tile. */
function visitTile(p: ShaderPlan): string {
  const {q, k, v} = operandsOf(p);
  const queries = {first: 'qFirst', limit: rowEndOf(p)};
  return `
let kFirst = ${keyBlockOf(p, 'tile')} * BLOCK_K;
${declareScores(p, 's')}
${scores(p, 's', q, k, queries, KEYS)}
${maskTile(p, 's', 'LOWEST')}
${reduceMaxima(p)}
${UPDATE_STATS}
${weigh(p)}
${storeWeights(p, 's')}
${accumulate(p, 'o', v, KEYS, true)}
`;
}

const KEYS = {first: 'kFirst', limit: 'u.Sk'};

function body(p: ShaderPlan): string {
  const {v, out} = operandsOf(p);
  const queryAt = (row: string): string => `i32(${queryOf(p, `qFirst + ${row}`)})`;
  const seeing = (row: string): string =>
    `visible(vec4i(${[0, 1, 2, 3].map((i) => queryAt(`${row} + ${i}u`)).join(', ')}), vec4i(i32(c)), boundsOfKey(maskHead, c))`;
  return `
${rowBlockOfWorkgroup(p)}
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  let qBase = b * u.qBatch + h * u.qHead;
  let kBase = b * u.kBatch + (h / u.groupSize) * u.kHead;
  let vBase = b * u.vBatch + (h / u.groupSize) * u.vHead;
  let resultBatch = ${resultBatchOf(p)};
  let outBase = resultBatch * u.oBatch + h * u.oHead;
  let lseBase = (resultBatch * u.H + h) * u.Sq;
${unroll(registerTile(p).rows, (i) => `  var sum_${i} = 0.0;`)}
  var sawNotFinite = false;
${declareAccumulator(p, 'o', p.Dv)}
  for (var row = lid; row < ROWS; row += THREADS) { rowState[row] = vec2f(LOWEST, 0.0); }
${forEachLiveTile(`classify(maskHead, ${keyBlockOf(p, 'candidate')}, rowsBegin, rowsEnd)`, visitTile(p))}
${addNotFinite(p, 'o', v, {first: `${keyBlockOf(p, 'tile')} * BLOCK_K`, limit: 'u.Sk'}, seeing)}
${finish(p)}
${storeAccumulator(p, 'o', out, 'qFirst', rowEndOf(p), (i) => `rowState[${rowOf(p, i)}].y`)}`;
}
