/** @file The backward passes on subgroup matrices; the products are those of backward.ts. */
import {MATRIX_SIDE as SIDE, type PassPlan} from '../../plan.js';
import {paddedChannels} from './halves.js';
import {forEachLiveTile} from './tiles.js';
import {
  accumulate,
  bases,
  declareAccumulator,
  hold,
  loadTile,
  maskRow,
  operands,
  perQuad,
  preamble,
  putWeights,
  quadAt,
  queryWalk,
  scoresToScratch,
  START,
  storeAccumulator,
} from './matrix_steps.js';

export function matrixDqShader(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  const body = `
let kFirst = tile * BLOCK_K;
workgroupBarrier();
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${scoresToScratch(p, q, k, true)}
${perQuad(p, (g) => `var x${g} = exp2(${quadAt(g)} * u.scaleLog2 - stats.x);`)}
${maskRow(p, 'x', '0.0')}
workgroupBarrier();
${scoresToScratch(p, dOut, v, true)}
${perQuad(p, (g) => putWeights(g, `x${g} * (${quadAt(g)} - stats.y)`))}
workgroupBarrier();
${accumulate(p, 'acc', k)}
`;
  return `${preamble(p)}
${START}
${queryWalk(p)}
  let dqBase = b * u.qBatch + h * u.qHead;
  let laneQuery = bandFirst + laneRow;
  // Past the last query an lse that makes every weight vanish.
  let stats = select(vec2f(3.0e38, 0.0), rowStats[bh * u.Sq + min(laneQuery, u.Sq - 1u)], laneQuery < u.Sq);
${hold(q)}
${hold(dOut)}
${declareAccumulator('acc', p.D)}
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
${storeAccumulator('acc', {name: 'dq', stride: 'q', channels: p.D}, 'u.Sq', 'u.scale')}
}
`;
}

/** Whether K and V of a band stay in registers beside both accumulators; at 128 channels they are loaded again for each tile. */
const holdsRows = (p: PassPlan): boolean => paddedChannels(p.D) + paddedChannels(p.Dv) <= 128;

/** dkdv of one tile of queries: rows are keys, columns queries. */
function dkdvTile(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  const stats = (g: number): string =>
    `let stat${g} = array(${[0, 1, 2, 3].map((c) => `tileStats[laneFirst + ${4 * g + c}u]`).join(', ')});`;
  const of = (g: number, field: string): string =>
    `vec4f(${[0, 1, 2, 3].map((c) => `stat${g}[${c}].${field}`).join(', ')})`;
  const held = holdsRows(p);
  return `
let qFirst = tile * BLOCK_Q;
workgroupBarrier();
${loadTile(p, q, 'qFirst')}
${loadTile(p, dOut, 'qFirst')}
if (lid < COLS) {
  let r = qFirst + lid;
  tileStats[lid] = select(vec2f(3.0e38, 0.0), rowStats[bh * u.Sq + min(r, u.Sq - 1u)], r < u.Sq);
}
workgroupBarrier();
${scoresToScratch(p, k, q, held)}
${perQuad(
  p,
  (g) => `${stats(g)}
var x${g} = exp2(${quadAt(g)} * u.scaleLog2 - ${of(g, 'x')});`,
)}
if (partial) {
  let j = i32(bandFirst + laneRow);
  let bounds = boundsOfKey(maskHead, u32(min(j, i32(u.Sk) - 1)));
${perQuad(
  p,
  (g) => `  {
    let r = vec4i(i32(qFirst + laneFirst + ${4 * g}u)) + vec4i(0, 1, 2, 3);
    x${g} = select(vec4f(), x${g}, visible(r, vec4i(j), bounds));
  }`,
)}
}
${perQuad(p, (g) => putWeights(g, `x${g}`))}
workgroupBarrier();
${accumulate(p, 'dvAcc', dOut)}
workgroupBarrier();
${scoresToScratch(p, v, dOut, held)}
${perQuad(p, (g) => putWeights(g, `x${g} * (${quadAt(g)} - ${of(g, 'y')})`))}
workgroupBarrier();
${accumulate(p, 'dkAcc', q)}
`;
}

export function matrixDkdvShader(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  return `${preamble(p)}
var<workgroup> tileStats: array<vec2f, ${p.cols}>;
${START}
  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let bhkv = workgroup / keyBlocks;
  let keyBlock = workgroup % keyBlocks;
  let kFirst = keyBlock * BLOCK_K;
  let bandFirst = kFirst + band * ${SIDE}u;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
${bases(p, [k, v], {query: '', key: 'bhkv'})}
  let dkBase = b * u.kBatch + hkv * u.kHead;
  let dvBase = b * u.vBatch + hkv * u.vHead;
  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let firstTile = ${p.causal ? 'u32(max(i32(kFirst) - u.causalOffset, 0)) / BLOCK_Q' : '0u'};
  let lastTile = queryBlocks;
${holdsRows(p) ? hold(k) + hold(v) : ''}
${declareAccumulator('dkAcc', p.D)}
${declareAccumulator('dvAcc', p.Dv)}
  for (var member = 0u; member < u.groupSize; member++) {
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = b * u.maskBatchStride + h / u.maskGroup;
${bases(p, [q, dOut], {query: 'bh', key: ''})}
${forEachLiveTile('classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)))', body)}
  }
${storeAccumulator('dkAcc', {name: 'dk', stride: 'k', channels: p.D}, 'u.Sk', 'u.scale')}
${storeAccumulator('dvAcc', {name: 'dv', stride: 'v', channels: p.Dv}, 'u.Sk', '1.0')}
}
`;
}
