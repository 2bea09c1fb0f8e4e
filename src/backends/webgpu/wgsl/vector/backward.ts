/**
 * @file The backward passes (paper section 4.3, algorithm 2). The weights are recomputed from the row statistics; no N
 * x N buffer exists. `dq` walks the key blocks of a query block. `dkdv` walks the query blocks of a key block, for all
 * query heads that share the key head. Nothing is accumulated by atomics, so gradients are bit-identical from run to
 * run.
 */
import type {ShaderPlan} from '../../plan/vector_plan.js';
import {constants, elementType, NOT_FINITE_FUNCTION, NOT_FINITE_MET, unroll} from '../header.js';
import {bindingsOf, operandsOf} from '../operands.js';
import type {Shader} from '../shader.js';
import {headOf, keyBlockOf, queryOf, resultBatchOf, rowEndOf} from '../mask/query_rows.js';
import {memberOfGroup, rowBlockFunctions, rowBlockOfWorkgroup} from '../mask/row_blocks.js';
import {
  accumulate,
  addNotFinite,
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
  SHADER_PLAN_FIELDS,
  storeWeights,
  visibleFunction,
  type Place,
} from './steps.js';
import {classifyFunction, forEachLiveTile, TILE_BITS} from '../mask/tiles.js';

const queries = (p: ShaderPlan): Place => ({first: 'qFirst', limit: rowEndOf(p)});
const KEYS: Place = {first: 'kFirst', limit: 'u.Sk'};

function declarations(p: ShaderPlan): string {
  const {q, k, v, dOut} = operandsOf(p);
  return `${constants(p)}${NOT_FINITE_FUNCTION}${declareTiles(p)}${TILE_BITS}
${[q, k, v, dOut].map(loadFunction).join('\n')}
${classifyFunction(p)}${rowBlockFunctions(p)}${visibleFunction(p)}${keepFunction(p)}
// The terms of row r of head bh (delta.ts); zeros past the last row, so that weights vanish.
fn termsOf(bh: u32, r: u32) -> vec4f {
  return select(vec4f(), rowTerms[bh * u.Sq + r], r < ${rowEndOf(p)});
}
`;
}

/**
 * dq: turns the scores s and the products dp of a tile into dS in s, times the sum of the row's weights. Rows are
 * queries, columns are keys.
 */
function scoreGradientOfRows(p: ShaderPlan): string {
  const {rows, colGroups} = registerTile(p);
  const row = (i: number): string => `qFirst + ${rowOf(p, i)}`;
  const query = (i: number): string => queryOf(p, row(i));
  return `
${p.dropout ? unroll(rows, (i) => unroll(colGroups, (g) => `dp_${i}_${g} *= keep(${headOf(p, row(i))}, ${query(i)}, (kFirst + ${colOf(p, g)}) / 4u);`)) : ''}
${unroll(rows, (i) => unroll(colGroups, (g) => `s_${i}_${g} = exp2((s_${i}_${g} - terms_${i}.x) * u.scaleLog2) * (dp_${i}_${g} - terms_${i}.z);`))}
${maskTile(p, 's', '0.0')}`;
}

/** The fields that both shaders share. */
const BACKWARD = {
  fields: SHADER_PLAN_FIELDS,
  bindings: (p: ShaderPlan) => bindingsOf(p, elementType),
  threads: ({threads}: ShaderPlan) => threads,
  item: 'workgroup',
} as const;

/** One workgroup per block of queries of a head. */
export const dq: Shader<ShaderPlan> = {...BACKWARD, name: 'dq', declarations, body: dqBody};

function dqBody(p: ShaderPlan): string {
  const {q, k, v, dOut, dq: result} = operandsOf(p);
  const {rows} = registerTile(p);
  const visitTile = `
let kFirst = ${keyBlockOf(p, 'tile')} * BLOCK_K;
${declareScores(p, 's')}
${declareScores(p, 'dp')}
${scores(p, 's', q, k, queries(p), KEYS)}
${scores(p, 'dp', dOut, v, queries(p), KEYS)}
${scoreGradientOfRows(p)}
${storeWeights(p, 's')}
${accumulate(p, 'acc', k, KEYS)}
`;
  return `
${rowBlockOfWorkgroup(p)}
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  let qBase = b * u.qBatch + h * u.qHead;
  let dqBase = ${resultBatchOf(p)} * u.qBatch + h * u.qHead;
  let dOutBase = b * u.oBatch + h * u.oHead;
  let kBase = b * u.kBatch + (h / u.groupSize) * u.kHead;
  let vBase = b * u.vBatch + (h / u.groupSize) * u.vHead;
${unroll(rows, (i) => `  let terms_${i} = termsOf(bh, qFirst + ${rowOf(p, i)});`)}
${declareAccumulator(p, 'acc', p.D)}
${forEachLiveTile(`classify(maskHead, ${keyBlockOf(p, 'candidate')}, rowsBegin, rowsEnd)`, visitTile)}
${storeAccumulator(p, 'acc', result, 'qFirst', rowEndOf(p), (i) => `terms_${i}.y * u.scale`)}`;
}

/**
 * dkdv: turns the scores s and the products dp into the weights in s and dS in dp. Rows are keys, columns are queries.
 */
function weightsAndScoreGradient(p: ShaderPlan): string {
  const {rows, colGroups} = registerTile(p);
  const key = (i: number): string => `kFirst + ${rowOf(p, i)}`;
  const query = (g: number): string => `qFirst + ${colOf(p, g)}`;
  const masked = (i: number, g: number): string => `    {
      let r = vec4i(i32(${query(g)})) + vec4i(0, 1, 2, 3);
      let seen = visible(r, vec4i(j), bounds);
      s_${i}_${g} = select(vec4f(), s_${i}_${g}, seen);
      dp_${i}_${g} = select(vec4f(), dp_${i}_${g}, seen);
    }`;
  const maskRow = (i: number): string => `  {
    let j = i32(${key(i)});
    let bounds = boundsOfKey(maskHead, u32(j));
${unroll(colGroups, (g) => masked(i, g))}
  }`;
  const gradients = (g: number): string =>
    p.dropout ? applyDropout(p, g) : unroll(rows, (i) => `dp_${i}_${g} = s_${i}_${g} * (dp_${i}_${g} - delta);`);
  const column = (g: number): string => `{
  let terms = transpose(mat4x4f(${[0, 1, 2, 3].map((c) => `termsOf(bh, ${query(g)} + ${c}u)`).join(', ')}));
  let delta = terms[2];
${unroll(rows, (i) => `  s_${i}_${g} = exp2((s_${i}_${g} - terms[0]) * u.scaleLog2) * terms[1];`)}
${gradients(g)}
}`;
  return `
${unroll(colGroups, column)}
if (partial) {
${unroll(rows, maskRow)}
}`;
}

/**
 * The four keys from 4(ty + a THREADS_Y) on of a thread share one random draw per query, as four columns do in the
 * other passes.
 */
function applyDropout(p: ShaderPlan, g: number): string {
  const {rows} = registerTile(p);
  const keyGroup = (a: number): string => `kFirst / 4u + ty + ${a * p.threadsY}u`;
  return unroll(
    rows / 4,
    (a) => `{
  let keeps = transpose(mat4x4f(${[0, 1, 2, 3].map((c) => `keep(bh, qFirst + ${colOf(p, g)} + ${c}u, ${keyGroup(a)})`).join(', ')}));
${unroll(4, (x) => {
  const i = 4 * a + x;
  return `  dp_${i}_${g} = s_${i}_${g} * (dp_${i}_${g} * keeps[${x}] - delta);
  s_${i}_${g} *= keeps[${x}];`;
})}
}`,
  );
}

/** One workgroup per block of keys of a key head. */
export const dkdv: Shader<ShaderPlan> = {
  ...BACKWARD,
  name: 'dkdv',
  declarations: (p) => declarations(p) + NOT_FINITE_MET,
  body: dkdvBody,
};

function dkdvBody(p: ShaderPlan): string {
  const {q, k, v, dOut, dk, dv} = operandsOf(p);
  const visitTile = `
let qFirst = tile * BLOCK_Q;
${declareScores(p, 's')}
${declareScores(p, 'dp')}
${scores(p, 's', k, q, KEYS, queries(p))}
${scores(p, 'dp', v, dOut, KEYS, queries(p))}
${weightsAndScoreGradient(p)}
${storeWeights(p, 's')}
${accumulate(p, 'dvAcc', dOut, queries(p), true)}
workgroupBarrier();
${storeWeights(p, 'dp')}
${accumulate(p, 'dkAcc', q, queries(p))}
`;
  const seeing = (key: string): string => {
    const j = `kFirst + ${key}`;
    return `visible(vec4i(i32(c)), vec4i(i32(${j})) + vec4i(0, 1, 2, 3), boundsOfKeys(maskHead, ${j}))`;
  };
  return `
${rowBlockOfWorkgroup(p)}
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  var sawNotFinite = false;
  let kBase = b * u.kBatch + hkv * u.kHead;
  let vBase = b * u.vBatch + hkv * u.vHead;
  let dkBase = kBase;
  let dvBase = vBase;
${declareAccumulator(p, 'dkAcc', p.D)}
${declareAccumulator(p, 'dvAcc', p.Dv)}
  for (var member = 0u; member < u.groupSize; member++) {
${memberOfGroup()}
    let qBase = b * u.qBatch + h * u.qHead;
    let dOutBase = b * u.oBatch + h * u.oHead;
${forEachLiveTile('classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)))', visitTile)}
${addNotFinite(p, 'dvAcc', dOut, {first: 'tile * BLOCK_Q', limit: 'u.Sq'}, seeing)}
  }
${storeAccumulator(p, 'dkAcc', dk, 'kFirst', 'u.Sk', () => 'u.scale')}
${storeAccumulator(p, 'dvAcc', dv, 'kFirst', 'u.Sk', () => '1.0')}`;
}
