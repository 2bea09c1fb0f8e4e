/**
 * @file The forward pass: O = softmax(scale QKᵀ + mask) V by online softmax over the live key blocks of a query block, and lse
 * (paper section 4.3, algorithm 1). One workgroup computes blockQ rows of one head.
 */
import type {PassPlan} from '../../plan.js';
import {constants, declare, elementType, unroll, type Binding} from './header.js';
import {headOf, keyBlockOf, queryOf, resultBatchOf, rowEndOf} from './query_rows.js';
import {rowBlockFunctions, rowBlockOfWorkgroup} from './row_blocks.js';
import {
  accumulate,
  chunksOf,
  colOf,
  declareAccumulator,
  declareScores,
  declareTiles,
  keepFunction,
  loadFunction,
  registerTile,
  rowOf,
  scores,
  storeAccumulator,
  storeWeights,
  visibleFunction,
  type Operand,
} from './steps.js';
import {classifyFunction, forEachLiveTile, TILE_BITS} from './tiles.js';

const operands = (p: PassPlan): Record<'q' | 'k' | 'v' | 'out', Operand> => ({
  q: {name: 'q', stride: 'q', channels: p.D, side: 'row'},
  k: {name: 'k', stride: 'k', channels: p.D, side: 'col'},
  v: {name: 'v', stride: 'v', channels: p.Dv, side: 'col'},
  out: {name: 'out', stride: 'o', channels: p.Dv, side: 'row'},
});

/** Storage bindings, in binding order after the uniforms. */
export function forwardBindings(p: PassPlan): Binding[] {
  return [
    {name: 'q', type: elementType(p.D), access: 'read'},
    {name: 'k', type: elementType(p.D), access: 'read'},
    {name: 'v', type: elementType(p.Dv), access: 'read'},
    ...(p.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    {name: 'out', type: elementType(p.Dv), access: 'read_write'},
    {name: 'lse', type: 'f32', access: 'read_write'},
  ];
}

/** Scores to powers of two; masked ones to MASKED in partial tiles. Leaves the thread's row maxima in workgroup memory. */
function maskAndReduce(p: PassPlan): string {
  const {rows, colGroups} = registerTile(p);
  const maskRow = (i: number, g: number): string =>
    `s_${i}_${g} = select(vec4f(MASKED), s_${i}_${g}, visible(vec4i(i32(${queryOf(p, `qFirst + ${rowOf(p, i)}`)})), j, bounds));`;
  const max = (i: number): string => {
    const over = Array.from({length: colGroups}, (_, g) => `s_${i}_${g}`).reduce((a, b) => `max(${a}, ${b})`);
    return `{ let m = ${over}; rowMax[tx * ROWS + ${rowOf(p, i)}] = max(max(m.x, m.y), max(m.z, m.w)); }`;
  };
  return `
${unroll(rows, (i) => unroll(colGroups, (g) => `s_${i}_${g} *= u.scaleLog2;`))}
if (partial) {
${unroll(
  colGroups,
  (g) => `  {
    let j = vec4i(i32(kFirst + ${colOf(p, g)})) + vec4i(0, 1, 2, 3);
    let bounds = boundsOfKeys(maskHead, u32(j.x));
${unroll(rows, (i) => `    ${maskRow(i, g)}`)}
  }`,
)}
}
${unroll(rows, max)}`;
}

/** One thread a row: the new maximum of the row and the factor by which its sums so far shrink. */
const UPDATE_STATS = `
workgroupBarrier();
for (var row = lid; row < ROWS; row += THREADS) {
  let before = rowStats[row].x;
  var m = before;
  for (var x = 0u; x < THREADS_X; x++) { m = max(m, rowMax[x * ROWS + row]); }
  // A row that has seen no key yet subtracts 0, so that its weights exp2(MASKED) are 0.
  let used = select(m, 0.0, m <= MASKED);
  rowStats[row] = vec2f(m, select(exp2(before - used), 0.0, before <= MASKED));
}
workgroupBarrier();`;

/** Weights P = exp2(S - max), row sums, and the accumulator rescaled to the new maximum. */
function weigh(p: PassPlan): string {
  const {rows, colGroups} = registerTile(p);
  const vec4s = chunksOf(p.Dv);
  const kept = (i: number): string => {
    const r = `qFirst + ${rowOf(p, i)}`;
    return `keep(${headOf(p, r)}, ${queryOf(p, r)}`;
  };
  const row = (i: number): string => `{
  let stats = rowStats[${rowOf(p, i)}];
  let m = select(stats.x, 0.0, stats.x <= MASKED);
${unroll(colGroups, (g) => `  s_${i}_${g} = exp2(s_${i}_${g} - m);`)}
  sum_${i} = sum_${i} * stats.y + ${Array.from({length: colGroups}, (_, g) => `dot(s_${i}_${g}, vec4f(1.0))`).join(' + ')};
${unroll(vec4s, (m) => `  o_${i}_${m} *= stats.y;`)}
${p.dropout ? unroll(colGroups, (g) => `  s_${i}_${g} *= ${kept(i)}, (kFirst + ${colOf(p, g)}) / 4u);`) : ''}
}`;
  return unroll(rows, row);
}

/** Row sums over the threads of a row, then lse and 1 / sum; a row that saw no key gives out 0 and lse -Infinity. */
function finish(p: PassPlan): string {
  const {rows} = registerTile(p);
  return `
workgroupBarrier();
${unroll(rows, (i) => `rowMax[tx * ROWS + ${rowOf(p, i)}] = sum_${i};`)}
workgroupBarrier();
for (var row = lid; row < ROWS; row += THREADS) {
  var total = 0.0;
  for (var x = 0u; x < THREADS_X; x++) { total += rowMax[x * ROWS + row]; }
  let m = rowStats[row].x;
  let sawNone = m <= MASKED;
  if (qFirst + row < ${rowEndOf(p)}) {
    lse[lseBase + qFirst + row] = select((m + log2(total)) * LN_2, u.negativeInfinity, sawNone);
  }
  rowStats[row].y = select(1.0 / total, 0.0, sawNone);
}
workgroupBarrier();
`;
}

export function forwardShader(p: PassPlan): string {
  const {q, k, v, out} = operands(p);
  const {rows} = registerTile(p);
  const queries = {first: 'qFirst', limit: rowEndOf(p)};
  const keys = {first: 'kFirst', limit: 'u.Sk'};
  const body = `
let kFirst = ${keyBlockOf(p, 'tile')} * BLOCK_K;
${declareScores(p, 's')}
${scores(p, 's', q, k, queries, keys)}
${maskAndReduce(p)}
${UPDATE_STATS}
${weigh(p)}
${storeWeights(p, 's')}
${accumulate(p, 'o', v, keys)}
`;
  return `${declare(forwardBindings(p))}${constants(p)}${declareTiles(p)}${TILE_BITS}
var<workgroup> rowMax: array<f32, ${p.threadsX * p.rows}>;
// Of each row: the maximum so far, and the factor of its sums.
var<workgroup> rowStats: array<vec2f, ${p.rows}>;
${[q, k, v].map(loadFunction).join('\n')}
${classifyFunction(p)}${rowBlockFunctions(p)}${visibleFunction(p)}${keepFunction(p)}
@compute @workgroup_size(${p.threads})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let workgroup = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (workgroup >= u.workEnd) { return; }
${rowBlockOfWorkgroup(p)}
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  let qBase = b * u.qBatch + h * u.qHead;
  let kBase = b * u.kBatch + (h / u.groupSize) * u.kHead;
  let vBase = b * u.vBatch + (h / u.groupSize) * u.vHead;
  let resultBatch = ${resultBatchOf(p)};
  let outBase = resultBatch * u.oBatch + h * u.oHead;
  let lseBase = (resultBatch * u.H + h) * u.Sq;
${unroll(rows, (i) => `  var sum_${i} = 0.0;`)}
${declareAccumulator(p, 'o', p.Dv)}
  for (var row = lid; row < ROWS; row += THREADS) { rowStats[row] = vec2f(MASKED, 0.0); }
${forEachLiveTile(`classify(maskHead, ${keyBlockOf(p, 'candidate')}, r0, r1)`, body)}
${finish(p)}
${storeAccumulator(p, 'o', out, 'qFirst', rowEndOf(p), (i) => `rowStats[${rowOf(p, i)}].y`)}
}
`;
}
