// forward pass=forward D=6 Dv=3 rows=32 cols=32 threadsX=8 threadsY=8 threads=64 blockQ=32 blockK=32
struct Sizes {
  B: u32,
  H: u32,
  Hkv: u32,
  Sq: u32,
  Sk: u32,
  groupSize: u32,
  maskGroup: u32,
  maskBatchStride: u32,
  maskHeads: u32,
  mapBlocks: u32,
  causalOffset: i32,
  foldedHeads: u32,
  splits: u32,
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
  qBatch: u32,
  qRow: u32,
  qHead: u32,
  kBatch: u32,
  kRow: u32,
  kHead: u32,
  vBatch: u32,
  vRow: u32,
  vHead: u32,
  oBatch: u32,
  oRow: u32,
  oHead: u32,
  scale: f32,
  scaleLog2: f32,
  negativeInfinity: f32,
  seedLow: u32,
  seedHigh: u32,
  dropThreshold: u32,
  keepScale: f32,
  firstHead: u32,
  firstMaskHead: u32,
  copyLength: u32,
  sourceFirst: u32,
  sourceStride: u32,
  resultFirst: u32,
  resultStride: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> rowStats: array<vec2f>;

const ROWS = 32u;
const COLS = 32u;
const BLOCK_Q = 32u;
const BLOCK_K = 32u;
const MAP_BLOCK = 32u;
const MAP_SPAN = 1u;
const CHUNK = 8u;
const THREADS = 64u;
const THREADS_X = 8u;
const THREADS_Y = 8u;
const ROW_QUARTER = 8u;
const COL_QUARTER = 8u;
const ROW_STRIDE = 33u;
const COL_STRIDE = 33u;
const EMPTY = 0u;
const PARTIAL = 1u;
const FULL = 2u;
// The lowest float: no finite score is below it, and WGSL lets an implementation assume that no infinity occurs.
const LOWEST = -3.4028234663852886e38f;
const LN_2 = 0.6931471805599453f;

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

fn orNaN(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  return bitcast<f32>(select(bits, bits | 0x7fc00000u, (bits & 0x7f800000u) == 0x7f800000u));
}

fn logSumExp(most: f32, sum: f32) -> f32 {
  if (sum == 0.0) { return u.negativeInfinity; }
  return select(sum, (most + log2(sum)) * LN_2, (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u);
}
var<workgroup> rowTile: array<vec4f, 264>;
var<workgroup> colTile: array<vec4f, 264>;
var<workgroup> weights: array<vec4f, 264>;

var<workgroup> tileBits: array<atomic<u32>, 4>;
var<workgroup> tileWords: vec4u;

// Not 0 once a thread has met an infinite or NaN number.
var<workgroup> notFiniteMet: u32;

var<workgroup> rowMax: array<f32, 256>;
// Per row: the maximum so far, and the factor of its sums.
var<workgroup> rowState: array<vec2f, 32>;
fn load_q(base: u32, d: u32) -> vec4f {
  return vec4f(select(0.0, q[base + 4u * d + 0u], 4u * d + 0u < 6u), select(0.0, q[base + 4u * d + 1u], 4u * d + 1u < 6u), select(0.0, q[base + 4u * d + 2u], 4u * d + 2u < 6u), select(0.0, q[base + 4u * d + 3u], 4u * d + 3u < 6u));
}
fn load_k(base: u32, d: u32) -> vec4f {
  return vec4f(select(0.0, k[base + 4u * d + 0u], 4u * d + 0u < 6u), select(0.0, k[base + 4u * d + 1u], 4u * d + 1u < 6u), select(0.0, k[base + 4u * d + 2u], 4u * d + 2u < 6u), select(0.0, k[base + 4u * d + 3u], 4u * d + 3u < 6u));
}
fn load_v(base: u32, d: u32) -> vec4f {
  return vec4f(select(0.0, v[base + 4u * d + 0u], 4u * d + 0u < 3u), select(0.0, v[base + 4u * d + 1u], 4u * d + 1u < 3u), select(0.0, v[base + 4u * d + 2u], 4u * d + 2u < 3u), select(0.0, v[base + 4u * d + 3u], 4u * d + 3u < 3u));
}

// Rows below reach are masked in every column of the block. An interval whose largest start is not above reach extends
// it to the smallest end.
fn classify(maskHead: u32, keyBlock: u32, rowsBegin: i32, rowsEnd: i32) -> u32 {
  let c0 = i32(keyBlock * BLOCK_K);
  let c1 = min(c0 + i32(BLOCK_K), i32(u.Sk));
  var reach = rowsBegin;
  var full = true;
  if (reach >= rowsEnd) { return EMPTY; }
  // Columns past Sk hold zeros, not scores: the last ragged block takes the masked path.
  full = full && c0 + i32(BLOCK_K) <= i32(u.Sk);
  return select(PARTIAL, FULL, full);
}

fn queryBlocks() -> u32 { return (u.Sq + BLOCK_Q - 1u) / BLOCK_Q; }
fn keyBlocks() -> u32 { return (u.Sk + BLOCK_K - 1u) / BLOCK_K; }
fn rowBlocks() -> u32 { return queryBlocks(); }

// Tiles x <= tile < y of a row block: those that the causal triangle does not mask.
fn triangleTiles(rowBlock: u32) -> vec2u {
  return vec2u(0u, keyBlocks());
}

// Where the schedule of a mask head begins: after the bounds map and the columns of all mask heads.
fn scheduleAt(maskHead: u32) -> u32 {
  return 2u * u.maskHeads * u.mapBlocks + u.maskHeads * u.Sk + maskHead * rowBlocks();
}

// Mask heads are counted over the batches of the mask, also in a slice of the heads.
fn maskHeadOf(b: u32, h: u32) -> u32 {
  return u.firstMaskHead + b * u.maskBatchStride + h / u.maskGroup;
}

// (head, rank) of a workgroup: head after head.
fn placeOf(workgroup: u32, heads: u32) -> vec2u {
  return vec2u(workgroup / rowBlocks(), workgroup % rowBlocks());
}

// Longest first, under a causal mask.
fn rowBlockAt(maskHead: u32, rank: u32) -> u32 {
  return rowBlocks() - 1u - rank;
}

// The tiles x <= tile < y that a row block visits.
fn tilesOf(maskHead: u32, rowBlock: u32) -> vec2u {
  return triangleTiles(rowBlock);
}

struct Bounds { none: u32 }

fn visible(r: vec4i, j: vec4i, bounds: Bounds) -> vec4<bool> {
  return (r < vec4i(i32(u.Sq))) & (j < vec4i(i32(u.Sk)));
}

fn boundsOfKeys(maskHead: u32, j: u32) -> Bounds {
  return Bounds(0u);
}

fn boundsOfKey(maskHead: u32, j: u32) -> Bounds {
  return Bounds(0u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let place = placeOf(item, u.B * u.H);
  let bh = place.x;
  let b = bh / u.H;
  let h = bh % u.H;
  let maskHead = maskHeadOf(b, h);
  let queryBlock = rowBlockAt(maskHead, place.y);
  let qFirst = queryBlock * BLOCK_Q;
  let rowsBegin = i32(qFirst);
  let rowsEnd = min(rowsBegin + i32(BLOCK_Q), i32(u.Sq));
  let tiles = tilesOf(maskHead, queryBlock);
  let firstTile = tiles.x;
  let lastTile = tiles.y;
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  let qBase = b * u.qBatch + h * u.qHead;
  let kBase = b * u.kBatch + (h / u.groupSize) * u.kHead;
  let vBase = b * u.vBatch + (h / u.groupSize) * u.vHead;
  let resultBatch = b;
  let outBase = resultBatch * u.oBatch + h * u.oHead;
  let lseBase = (resultBatch * u.H + h) * u.Sq;
  var sum_0 = 0.0;
  var sum_1 = 0.0;
  var sum_2 = 0.0;
  var sum_3 = 0.0;
  var sawNotFinite = false;
  var o_0_0 = vec4f();
  var o_1_0 = vec4f();
  var o_2_0 = vec4f();
  var o_3_0 = vec4f();
  for (var row = lid; row < ROWS; row += THREADS) { rowState[row] = vec2f(LOWEST, 0.0); }
  for (var round = firstTile; round < lastTile; round += 64u) {
    if (lid < 4u) { atomicStore(&tileBits[lid], 0u); }
    workgroupBarrier();
    for (var t = lid; t < 64u; t += THREADS) {
      let candidate = round + t;
      if (candidate < lastTile) {
        let kind = classify(maskHead, candidate, rowsBegin, rowsEnd);
        if (kind != EMPTY) { atomicOr(&tileBits[t >> 5u], 1u << (t & 31u)); }
        if (kind == PARTIAL) { atomicOr(&tileBits[2u + (t >> 5u)], 1u << (t & 31u)); }
      }
    }
    workgroupBarrier();
    if (lid == 0u) {
      tileWords = vec4u(atomicLoad(&tileBits[0]), atomicLoad(&tileBits[1]), atomicLoad(&tileBits[2]), atomicLoad(&tileBits[3]));
    }
    let words = workgroupUniformLoad(&tileWords);
    for (var word = 0u; word < 2u; word++) {
      var live = select(words.x, words.y, word == 1u);
      let partials = select(words.z, words.w, word == 1u);
      while (live != 0u) {
        let bit = firstTrailingBit(live);
        live = live & (live - 1u);
        let tile = round + 32u * word + bit;
        let partial = ((partials >> bit) & 1u) == 1u;
        let kFirst = tile * BLOCK_K;
        var s_0_0 = vec4f();
        var s_1_0 = vec4f();
        var s_2_0 = vec4f();
        var s_3_0 = vec4f();
        for (var chunk = 0u; chunk < 1u; chunk++) {
          workgroupBarrier();
          {
            let e0 = lid + 0u;
            let row0 = qFirst + e0 / CHUNK;
            let d0 = chunk * CHUNK + e0 % CHUNK;
            var x0 = select(vec4f(), load_q(qBase + row0 * u.qRow, d0), (row0 < u.Sq) & (d0 < 2u));
            let e1 = lid + 64u;
            let row1 = qFirst + e1 / CHUNK;
            let d1 = chunk * CHUNK + e1 % CHUNK;
            var x1 = select(vec4f(), load_q(qBase + row1 * u.qRow, d1), (row1 < u.Sq) & (d1 < 2u));
            let e2 = lid + 128u;
            let row2 = qFirst + e2 / CHUNK;
            let d2 = chunk * CHUNK + e2 % CHUNK;
            var x2 = select(vec4f(), load_q(qBase + row2 * u.qRow, d2), (row2 < u.Sq) & (d2 < 2u));
            let e3 = lid + 192u;
            let row3 = qFirst + e3 / CHUNK;
            let d3 = chunk * CHUNK + e3 % CHUNK;
            var x3 = select(vec4f(), load_q(qBase + row3 * u.qRow, d3), (row3 < u.Sq) & (d3 < 2u));
            rowTile[(e0 % CHUNK) * ROW_STRIDE + ((e0 / CHUNK) & 3u) * ROW_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
            rowTile[(e1 % CHUNK) * ROW_STRIDE + ((e1 / CHUNK) & 3u) * ROW_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
            rowTile[(e2 % CHUNK) * ROW_STRIDE + ((e2 / CHUNK) & 3u) * ROW_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
            rowTile[(e3 % CHUNK) * ROW_STRIDE + ((e3 / CHUNK) & 3u) * ROW_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
          }
          {
            let e0 = lid + 0u;
            let row0 = kFirst + e0 / CHUNK;
            let d0 = chunk * CHUNK + e0 % CHUNK;
            var x0 = select(vec4f(), load_k(kBase + row0 * u.kRow, d0), (row0 < u.Sk) & (d0 < 2u));
            let e1 = lid + 64u;
            let row1 = kFirst + e1 / CHUNK;
            let d1 = chunk * CHUNK + e1 % CHUNK;
            var x1 = select(vec4f(), load_k(kBase + row1 * u.kRow, d1), (row1 < u.Sk) & (d1 < 2u));
            let e2 = lid + 128u;
            let row2 = kFirst + e2 / CHUNK;
            let d2 = chunk * CHUNK + e2 % CHUNK;
            var x2 = select(vec4f(), load_k(kBase + row2 * u.kRow, d2), (row2 < u.Sk) & (d2 < 2u));
            let e3 = lid + 192u;
            let row3 = kFirst + e3 / CHUNK;
            let d3 = chunk * CHUNK + e3 % CHUNK;
            var x3 = select(vec4f(), load_k(kBase + row3 * u.kRow, d3), (row3 < u.Sk) & (d3 < 2u));
            colTile[(e0 % CHUNK) * COL_STRIDE + ((e0 / CHUNK) & 3u) * COL_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
            colTile[(e1 % CHUNK) * COL_STRIDE + ((e1 / CHUNK) & 3u) * COL_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
            colTile[(e2 % CHUNK) * COL_STRIDE + ((e2 / CHUNK) & 3u) * COL_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
            colTile[(e3 % CHUNK) * COL_STRIDE + ((e3 / CHUNK) & 3u) * COL_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
          }
          workgroupBarrier();
          for (var d = 0u; d < 2u; d++) {
            let rowAt = d * ROW_STRIDE + ty;
            let colAt = d * COL_STRIDE + tx;
            let r0 = rowTile[rowAt + 0u * ROW_QUARTER + 0u];
            let r1 = rowTile[rowAt + 1u * ROW_QUARTER + 0u];
            let r2 = rowTile[rowAt + 2u * ROW_QUARTER + 0u];
            let r3 = rowTile[rowAt + 3u * ROW_QUARTER + 0u];
            {
              let c = transpose(mat4x4f(colTile[colAt + 0u * COL_QUARTER + 0u], colTile[colAt + 1u * COL_QUARTER + 0u], colTile[colAt + 2u * COL_QUARTER + 0u], colTile[colAt + 3u * COL_QUARTER + 0u]));
              s_0_0 = fma(vec4f(r0[0]), c[0], s_0_0);
              s_0_0 = fma(vec4f(r0[1]), c[1], s_0_0);
              s_0_0 = fma(vec4f(r0[2]), c[2], s_0_0);
              s_0_0 = fma(vec4f(r0[3]), c[3], s_0_0);
              s_1_0 = fma(vec4f(r1[0]), c[0], s_1_0);
              s_1_0 = fma(vec4f(r1[1]), c[1], s_1_0);
              s_1_0 = fma(vec4f(r1[2]), c[2], s_1_0);
              s_1_0 = fma(vec4f(r1[3]), c[3], s_1_0);
              s_2_0 = fma(vec4f(r2[0]), c[0], s_2_0);
              s_2_0 = fma(vec4f(r2[1]), c[1], s_2_0);
              s_2_0 = fma(vec4f(r2[2]), c[2], s_2_0);
              s_2_0 = fma(vec4f(r2[3]), c[3], s_2_0);
              s_3_0 = fma(vec4f(r3[0]), c[0], s_3_0);
              s_3_0 = fma(vec4f(r3[1]), c[1], s_3_0);
              s_3_0 = fma(vec4f(r3[2]), c[2], s_3_0);
              s_3_0 = fma(vec4f(r3[3]), c[3], s_3_0);
            }
          }
        }
        if (partial) {
          {
            let j = vec4i(i32(kFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
            let bounds = boundsOfKeys(maskHead, u32(j.x));
            s_0_0 = select(vec4f(LOWEST), s_0_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 0u))), j, bounds));
            s_1_0 = select(vec4f(LOWEST), s_1_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 1u))), j, bounds));
            s_2_0 = select(vec4f(LOWEST), s_2_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 2u))), j, bounds));
            s_3_0 = select(vec4f(LOWEST), s_3_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 3u))), j, bounds));
          }
        }
        { let m = s_0_0; rowMax[tx * ROWS + (4u * (ty + 0u) + 0u)] = max(max(m.x, m.y), max(m.z, m.w)); }
        { let m = s_1_0; rowMax[tx * ROWS + (4u * (ty + 0u) + 1u)] = max(max(m.x, m.y), max(m.z, m.w)); }
        { let m = s_2_0; rowMax[tx * ROWS + (4u * (ty + 0u) + 2u)] = max(max(m.x, m.y), max(m.z, m.w)); }
        { let m = s_3_0; rowMax[tx * ROWS + (4u * (ty + 0u) + 3u)] = max(max(m.x, m.y), max(m.z, m.w)); }
        workgroupBarrier();
        for (var row = lid; row < ROWS; row += THREADS) {
          let before = rowState[row].x;
          var m = before;
          for (var x = 0u; x < THREADS_X; x++) { m = max(m, rowMax[x * ROWS + row]); }
          // A row that has seen no key yet has sums of 0, so its factor does not matter.
          rowState[row] = vec2f(m, select(exp2((before - m) * u.scaleLog2), 0.0, before == LOWEST));
        }
        workgroupBarrier();
        {
          let m = rowState[(4u * (ty + 0u) + 0u)].x;
          s_0_0 = exp2((s_0_0 - m) * u.scaleLog2);
        }
        {
          let m = rowState[(4u * (ty + 0u) + 1u)].x;
          s_1_0 = exp2((s_1_0 - m) * u.scaleLog2);
        }
        {
          let m = rowState[(4u * (ty + 0u) + 2u)].x;
          s_2_0 = exp2((s_2_0 - m) * u.scaleLog2);
        }
        {
          let m = rowState[(4u * (ty + 0u) + 3u)].x;
          s_3_0 = exp2((s_3_0 - m) * u.scaleLog2);
        }
        if (partial) {
          {
            let j = vec4i(i32(kFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
            let bounds = boundsOfKeys(maskHead, u32(j.x));
            s_0_0 = select(vec4f(0.0), s_0_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 0u))), j, bounds));
            s_1_0 = select(vec4f(0.0), s_1_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 1u))), j, bounds));
            s_2_0 = select(vec4f(0.0), s_2_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 2u))), j, bounds));
            s_3_0 = select(vec4f(0.0), s_3_0, visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 3u))), j, bounds));
          }
        }
        {
          let shrink = rowState[(4u * (ty + 0u) + 0u)].y;
          sum_0 = sum_0 * shrink + dot(s_0_0, vec4f(1.0));
          o_0_0 *= shrink;
        }
        {
          let shrink = rowState[(4u * (ty + 0u) + 1u)].y;
          sum_1 = sum_1 * shrink + dot(s_1_0, vec4f(1.0));
          o_1_0 *= shrink;
        }
        {
          let shrink = rowState[(4u * (ty + 0u) + 2u)].y;
          sum_2 = sum_2 * shrink + dot(s_2_0, vec4f(1.0));
          o_2_0 *= shrink;
        }
        {
          let shrink = rowState[(4u * (ty + 0u) + 3u)].y;
          sum_3 = sum_3 * shrink + dot(s_3_0, vec4f(1.0));
          o_3_0 *= shrink;
        }
        weights[(tx + 0u) * ROW_STRIDE + 0u * ROW_QUARTER + ty + 0u] = s_0_0;
        weights[(tx + 0u) * ROW_STRIDE + 1u * ROW_QUARTER + ty + 0u] = s_1_0;
        weights[(tx + 0u) * ROW_STRIDE + 2u * ROW_QUARTER + ty + 0u] = s_2_0;
        weights[(tx + 0u) * ROW_STRIDE + 3u * ROW_QUARTER + ty + 0u] = s_3_0;
        workgroupBarrier();
        {
          let e0 = lid + 0u;
          let row0 = kFirst + e0 / CHUNK;
          let d0 = 0u * CHUNK + e0 % CHUNK;
          var x0 = select(vec4f(), load_v(vBase + row0 * u.vRow, d0), (row0 < u.Sk) & (d0 < 1u));
          let e1 = lid + 64u;
          let row1 = kFirst + e1 / CHUNK;
          let d1 = 0u * CHUNK + e1 % CHUNK;
          var x1 = select(vec4f(), load_v(vBase + row1 * u.vRow, d1), (row1 < u.Sk) & (d1 < 1u));
          let e2 = lid + 128u;
          let row2 = kFirst + e2 / CHUNK;
          let d2 = 0u * CHUNK + e2 % CHUNK;
          var x2 = select(vec4f(), load_v(vBase + row2 * u.vRow, d2), (row2 < u.Sk) & (d2 < 1u));
          let e3 = lid + 192u;
          let row3 = kFirst + e3 / CHUNK;
          let d3 = 0u * CHUNK + e3 % CHUNK;
          var x3 = select(vec4f(), load_v(vBase + row3 * u.vRow, d3), (row3 < u.Sk) & (d3 < 1u));
          if (partial) {
            {
              let notFinite = isNotFinite(x0);
              sawNotFinite |= any(notFinite);
              x0 = select(x0, vec4f(), notFinite);
            }
            {
              let notFinite = isNotFinite(x1);
              sawNotFinite |= any(notFinite);
              x1 = select(x1, vec4f(), notFinite);
            }
            {
              let notFinite = isNotFinite(x2);
              sawNotFinite |= any(notFinite);
              x2 = select(x2, vec4f(), notFinite);
            }
            {
              let notFinite = isNotFinite(x3);
              sawNotFinite |= any(notFinite);
              x3 = select(x3, vec4f(), notFinite);
            }
          }
          colTile[(e0 % CHUNK) * COL_STRIDE + ((e0 / CHUNK) & 3u) * COL_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
          colTile[(e1 % CHUNK) * COL_STRIDE + ((e1 / CHUNK) & 3u) * COL_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
          colTile[(e2 % CHUNK) * COL_STRIDE + ((e2 / CHUNK) & 3u) * COL_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
          colTile[(e3 % CHUNK) * COL_STRIDE + ((e3 / CHUNK) & 3u) * COL_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
        }
        workgroupBarrier();
        for (var k = 0u; k < COL_QUARTER; k++) {
          let weightAt = k * ROW_STRIDE + ty;
          let at = tx * COL_STRIDE + k;
          let w0 = weights[weightAt + 0u * ROW_QUARTER + 0u];
          let w1 = weights[weightAt + 1u * ROW_QUARTER + 0u];
          let w2 = weights[weightAt + 2u * ROW_QUARTER + 0u];
          let w3 = weights[weightAt + 3u * ROW_QUARTER + 0u];
          let c0 = colTile[at + 0u * COL_QUARTER];
          let c1 = colTile[at + 1u * COL_QUARTER];
          let c2 = colTile[at + 2u * COL_QUARTER];
          let c3 = colTile[at + 3u * COL_QUARTER];
          o_0_0 = fma(vec4f(w0[0]), c0, o_0_0);
          o_0_0 = fma(vec4f(w0[1]), c1, o_0_0);
          o_0_0 = fma(vec4f(w0[2]), c2, o_0_0);
          o_0_0 = fma(vec4f(w0[3]), c3, o_0_0);
          o_1_0 = fma(vec4f(w1[0]), c0, o_1_0);
          o_1_0 = fma(vec4f(w1[1]), c1, o_1_0);
          o_1_0 = fma(vec4f(w1[2]), c2, o_1_0);
          o_1_0 = fma(vec4f(w1[3]), c3, o_1_0);
          o_2_0 = fma(vec4f(w2[0]), c0, o_2_0);
          o_2_0 = fma(vec4f(w2[1]), c1, o_2_0);
          o_2_0 = fma(vec4f(w2[2]), c2, o_2_0);
          o_2_0 = fma(vec4f(w2[3]), c3, o_2_0);
          o_3_0 = fma(vec4f(w3[0]), c0, o_3_0);
          o_3_0 = fma(vec4f(w3[1]), c1, o_3_0);
          o_3_0 = fma(vec4f(w3[2]), c2, o_3_0);
          o_3_0 = fma(vec4f(w3[3]), c3, o_3_0);
        }
      }
    }
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
  if (workgroupUniformLoad(&notFiniteMet) != 0u) {
    for (var tile = firstTile; tile < lastTile; tile++) {
      let cFirst = tile * BLOCK_K;
      for (var c = cFirst; c < min(cFirst + COLS, u.Sk); c++) {
        let at = vBase + c * u.vRow;
        let seen_0 = visible(vec4i(i32(qFirst + (4u * (ty + 0u) + 0u) + 0u), i32(qFirst + (4u * (ty + 0u) + 0u) + 1u), i32(qFirst + (4u * (ty + 0u) + 0u) + 2u), i32(qFirst + (4u * (ty + 0u) + 0u) + 3u)), vec4i(i32(c)), boundsOfKey(maskHead, c));
        if ((0u * CHUNK + tx) < 1u) {
          let x = load_v(at, (0u * CHUNK + tx));
          let notFinite = isNotFinite(x);
          if (any(notFinite)) {
            o_0_0 = select(o_0_0, o_0_0 + x, notFinite & vec4<bool>(seen_0[0]));
            o_1_0 = select(o_1_0, o_1_0 + x, notFinite & vec4<bool>(seen_0[1]));
            o_2_0 = select(o_2_0, o_2_0 + x, notFinite & vec4<bool>(seen_0[2]));
            o_3_0 = select(o_3_0, o_3_0 + x, notFinite & vec4<bool>(seen_0[3]));
          }
        }
      }
    }
  }
  workgroupBarrier();
  rowMax[tx * ROWS + (4u * (ty + 0u) + 0u)] = sum_0;
  rowMax[tx * ROWS + (4u * (ty + 0u) + 1u)] = sum_1;
  rowMax[tx * ROWS + (4u * (ty + 0u) + 2u)] = sum_2;
  rowMax[tx * ROWS + (4u * (ty + 0u) + 3u)] = sum_3;
  workgroupBarrier();
  for (var row = lid; row < ROWS; row += THREADS) {
    var sum = 0.0;
    for (var x = 0u; x < THREADS_X; x++) { sum += rowMax[x * ROWS + row]; }
    let total = orNaN(sum);
    let m = rowState[row].x;
    if (qFirst + row < u.Sq) {
      lse[lseBase + qFirst + row] = logSumExp(m * u.scaleLog2, total);
      rowStats[lseBase + qFirst + row] = vec2f(m, total);
    }
    // The weight of the largest score is 1: only a row that saw no key has none.
    rowState[row].y = select(1.0 / total, 0.0, total == 0.0);
  }
  workgroupBarrier();
  {
    let row = qFirst + (4u * (ty + 0u) + 0u);
    if (row < u.Sq) {
      let at = outBase + row * u.oRow;
      { let x = o_0_0 * rowState[(4u * (ty + 0u) + 0u)].y; let d = 4u * (0u * CHUNK + tx);
        if (d + 0u < 3u) { out[at + d + 0u] = x[0]; }
        if (d + 1u < 3u) { out[at + d + 1u] = x[1]; }
        if (d + 2u < 3u) { out[at + d + 2u] = x[2]; }
        if (d + 3u < 3u) { out[at + d + 3u] = x[3]; } }
    }
  }
  {
    let row = qFirst + (4u * (ty + 0u) + 1u);
    if (row < u.Sq) {
      let at = outBase + row * u.oRow;
      { let x = o_1_0 * rowState[(4u * (ty + 0u) + 1u)].y; let d = 4u * (0u * CHUNK + tx);
        if (d + 0u < 3u) { out[at + d + 0u] = x[0]; }
        if (d + 1u < 3u) { out[at + d + 1u] = x[1]; }
        if (d + 2u < 3u) { out[at + d + 2u] = x[2]; }
        if (d + 3u < 3u) { out[at + d + 3u] = x[3]; } }
    }
  }
  {
    let row = qFirst + (4u * (ty + 0u) + 2u);
    if (row < u.Sq) {
      let at = outBase + row * u.oRow;
      { let x = o_2_0 * rowState[(4u * (ty + 0u) + 2u)].y; let d = 4u * (0u * CHUNK + tx);
        if (d + 0u < 3u) { out[at + d + 0u] = x[0]; }
        if (d + 1u < 3u) { out[at + d + 1u] = x[1]; }
        if (d + 2u < 3u) { out[at + d + 2u] = x[2]; }
        if (d + 3u < 3u) { out[at + d + 3u] = x[3]; } }
    }
  }
  {
    let row = qFirst + (4u * (ty + 0u) + 3u);
    if (row < u.Sq) {
      let at = outBase + row * u.oRow;
      { let x = o_3_0 * rowState[(4u * (ty + 0u) + 3u)].y; let d = 4u * (0u * CHUNK + tx);
        if (d + 0u < 3u) { out[at + d + 0u] = x[0]; }
        if (d + 1u < 3u) { out[at + d + 1u] = x[1]; }
        if (d + 2u < 3u) { out[at + d + 2u] = x[2]; }
        if (d + 3u < 3u) { out[at + d + 3u] = x[3]; } }
    }
  }
}
