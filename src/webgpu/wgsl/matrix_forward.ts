/** @file The forward pass on subgroup matrices; the products are those of forward.ts. */
import type {PassPlan} from '../../plan.js';
import {forEachLiveTile} from './tiles.js';
import {unroll} from './header.js';
import {
  accumulate,
  blocksOf,
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
  RESULT,
  scoresToScratch,
  SCRATCH_STRIDE,
  START,
  storeAccumulator,
} from './matrix_steps.js';

/**
 * The new reference maximum of a row, and the accumulator rescaled to it. It moves only when a maximum outgrows it by RESCALE_AT:
 * weights of up to 2^8 are as exact in float16 as those up to 1, and moving it costs a trip through workgroup memory.
 */
function rescale(p: PassPlan): string {
  return `
let outgrown = m > reference + RESCALE_AT;
if (outgrown) { anyOutgrown = 1u; }
if (workgroupUniformLoad(&anyOutgrown) == 1u) {
  let next = select(reference, m, outgrown);
  let shrink = select(exp2(reference - next), 0.0, reference <= MASKED);
  sum *= shrink;
  reference = next;
${unroll(
  blocksOf(p.Dv),
  (d) => `  subgroupMatrixStore(&scratch, scratchBase, o${d}, false, SCRATCH_STRIDE);
  workgroupBarrier();
  for (var c = 0u; c < 8u; c++) { scratch[laneScratch + laneHalf * 8u + c] *= shrink; }
  workgroupBarrier();
  o${d} = subgroupMatrixLoad<${RESULT}>(&scratch, scratchBase, false, SCRATCH_STRIDE);
  workgroupBarrier();`,
)}
}`;
}

export function matrixForwardShader(p: PassPlan): string {
  const {q, k, v} = operands(p);
  const quads = p.cols / 8;
  const body = `
let kFirst = tile * BLOCK_K;
workgroupBarrier();
if (lid == 0u) { anyOutgrown = 0u; }
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${scoresToScratch(p, q, k, true)}
${perQuad(p, (g) => `var x${g} = ${quadAt(g)} * u.scaleLog2;`)}
${maskRow(p, 'x', 'MASKED')}
let most = ${Array.from({length: quads}, (_, g) => `x${g}`).reduce((a, b) => `max(${a}, ${b})`)};
let half = max(max(most.x, most.y), max(most.z, most.w));
let m = max(half, subgroupShuffleXor(half, 1u));
${rescale(p)}
let used = select(reference, 0.0, reference <= MASKED);
${perQuad(
  p,
  (g) => `x${g} = exp2(x${g} - used); sum += dot(x${g}, vec4f(1.0));
${putWeights(g, `x${g}`)}`,
)}
workgroupBarrier();
${accumulate(p, 'o', v)}
`;
  return `${preamble(p)}
const RESCALE_AT = 8.0f;
// Whether a row of the workgroup needs a new reference in this tile: the workgroup rescales together, since barriers follow.
var<workgroup> anyOutgrown: u32;
${START}
${queryWalk(p)}
  let outBase = b * u.oBatch + h * u.oHead;
${hold(q)}
${declareAccumulator('o', p.Dv)}
  var sum = 0.0;
  var reference = MASKED;
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
  let total = sum + subgroupShuffleXor(sum, 1u);
  let sawNone = reference <= MASKED;
  if (laneHalf == 0u && bandFirst + laneRow < u.Sq) {
    lse[bh * u.Sq + bandFirst + laneRow] = select((reference + log2(total)) * LN_2, u.negativeInfinity, sawNone);
  }
  let factor = select(1.0 / total, 0.0, sawNone);
${storeAccumulator('o', {name: 'out', stride: 'o', channels: p.Dv}, 'u.Sq', 'factor')}
}
`;
}
