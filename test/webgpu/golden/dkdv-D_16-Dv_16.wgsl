// dkdv pass=dkdv D=16 Dv=16 causal intervals scheduled rows=32 cols=32 threadsX=8 threadsY=8 threads=64 blockQ=32 blockK=32
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
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> dOut: array<vec4f>;
@group(0) @binding(5) var<storage, read> rowTerms: array<vec4f>;
@group(0) @binding(6) var<storage, read> mask: array<vec4i>;
@group(0) @binding(7) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> dv: array<vec4f>;

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
var<workgroup> rowTile: array<vec4f, 264>;
var<workgroup> colTile: array<vec4f, 264>;
var<workgroup> weights: array<vec4f, 264>;

var<workgroup> tileBits: array<atomic<u32>, 4>;
var<workgroup> tileWords: vec4u;

fn load_q(base: u32, d: u32) -> vec4f { return q[base + d]; }
fn load_k(base: u32, d: u32) -> vec4f { return k[base + d]; }
fn load_v(base: u32, d: u32) -> vec4f { return v[base + d]; }
fn load_dOut(base: u32, d: u32) -> vec4f { return dOut[base + d]; }

// (start min, start max, end min, end max) of the lower (0) or upper (1) interval over a block of the bounds map.
fn mapped(maskHead: u32, block: u32, interval: u32) -> vec4i {
  return mask[2u * (maskHead * u.mapBlocks + block) + interval];
}

fn join(a: vec4i, b: vec4i) -> vec4i {
  return vec4i(min(a.x, b.x), max(a.y, b.y), min(a.z, b.z), max(a.w, b.w));
}

// Whether no column's interval meets the rows.
fn misses(bounds: vec4i, rowsBegin: i32, rowsEnd: i32) -> bool {
  return rowsEnd <= bounds.x || rowsBegin >= bounds.w || bounds.x >= bounds.w;
}

// Rows below reach are masked in every column of the block. An interval whose largest start is not above reach extends
// it to the smallest end.
fn classify(maskHead: u32, keyBlock: u32, rowsBegin: i32, rowsEnd: i32) -> u32 {
  let c0 = i32(keyBlock * BLOCK_K);
  let c1 = min(c0 + i32(BLOCK_K), i32(u.Sk));
  var reach = rowsBegin;
  var full = true;
  reach = max(reach, c0 - u.causalOffset);
  full = rowsBegin >= c1 - 1 - u.causalOffset;
  let first = keyBlock * BLOCK_K / MAP_BLOCK;
  var lower = mapped(maskHead, first, 0u);
  var upper = mapped(maskHead, first, 1u);
  for (var block = first + 1u; block < min(first + MAP_SPAN, u.mapBlocks); block++) {
    lower = join(lower, mapped(maskHead, block, 0u));
    upper = join(upper, mapped(maskHead, block, 1u));
  }
  for (var again = 0u; again < 2u; again++) {
    reach = select(reach, max(reach, lower.z), lower.y <= reach);
    reach = select(reach, max(reach, upper.z), upper.y <= reach);
  }
  full = full && misses(lower, rowsBegin, rowsEnd) && misses(upper, rowsBegin, rowsEnd);
  if (reach >= rowsEnd) { return EMPTY; }
  // Columns past Sk hold zeros, not scores: the last ragged block takes the masked path.
  full = full && c0 + i32(BLOCK_K) <= i32(u.Sk);
  return select(PARTIAL, FULL, full);
}

fn queryBlocks() -> u32 { return (u.Sq + BLOCK_Q - 1u) / BLOCK_Q; }
fn keyBlocks() -> u32 { return (u.Sk + BLOCK_K - 1u) / BLOCK_K; }
fn rowBlocks() -> u32 { return keyBlocks(); }

// Tiles x <= tile < y of a row block: those that the causal triangle does not mask.
fn triangleTiles(rowBlock: u32) -> vec2u {
  let rowsBegin = max(i32(rowBlock * BLOCK_K) - u.causalOffset, 0);
  return vec2u(u32(rowsBegin) / BLOCK_Q, queryBlocks());
}

// Where the schedule of a mask head begins: after the bounds map and the columns of all mask heads.
fn scheduleAt(maskHead: u32) -> u32 {
  return 2u * u.maskHeads * u.mapBlocks + u.maskHeads * u.Sk + maskHead * rowBlocks();
}

// Mask heads are counted over the batches of the mask, also in a slice of the heads.
fn maskHeadOf(b: u32, h: u32) -> u32 {
  return u.firstMaskHead + b * u.maskBatchStride + h / u.maskGroup;
}

// (head, rank) of a workgroup: HEADS_IN_TURN heads at a time, which take turns rank by rank.
fn placeOf(workgroup: u32, heads: u32) -> vec2u {
  let first = workgroup / (rowBlocks() * 8u) * 8u;
  let inTurn = min(8u, heads - first);
  let rest = workgroup - first * rowBlocks();
  return vec2u(first + rest % inTurn, rest / inTurn);
}

fn rowBlockAt(maskHead: u32, rank: u32) -> u32 {
  return u32(mask[scheduleAt(maskHead) + rank].w);
}

// The tiles x <= tile < y that a row block visits.
fn tilesOf(maskHead: u32, rowBlock: u32) -> vec2u {
  return vec2u(mask[scheduleAt(maskHead) + rowBlock].xy);
}

struct Bounds { lowerStart: vec4i, lowerEnd: vec4i, upperStart: vec4i, upperEnd: vec4i }

fn visible(r: vec4i, j: vec4i, bounds: Bounds) -> vec4<bool> {
  return (r < vec4i(i32(u.Sq))) & (j < vec4i(i32(u.Sk))) & (r >= j - u.causalOffset) & !((r >= bounds.lowerStart) & (r < bounds.lowerEnd)) & !((r >= bounds.upperStart) & (r < bounds.upperEnd));
}

fn boundsOfKeys(maskHead: u32, j: u32) -> Bounds {
  let at = 2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk + j;
  let b = array(mask[at], mask[at + 1u], mask[at + 2u], mask[at + 3u]);
  return Bounds(vec4i(b[0].x, b[1].x, b[2].x, b[3].x), vec4i(b[0].y, b[1].y, b[2].y, b[3].y), vec4i(b[0].z, b[1].z, b[2].z, b[3].z), vec4i(b[0].w, b[1].w, b[2].w, b[3].w));
}

fn boundsOfKey(maskHead: u32, j: u32) -> Bounds {
  let b = mask[2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk + j];
  return Bounds(vec4i(b.x), vec4i(b.y), vec4i(b.z), vec4i(b.w));
}

// The terms of row r of head bh (delta.ts); zeros past the last row, so that weights vanish.
fn termsOf(bh: u32, r: u32) -> vec4f {
  return select(vec4f(), rowTerms[bh * u.Sq + r], r < u.Sq);
}

// Not 0 once a thread has met an infinite or NaN number.
var<workgroup> notFiniteMet: u32;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let place = placeOf(item, u.B * u.Hkv);
  let bhkv = place.x;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
  // If the query heads of a group have different mask heads, the first of these holds the order for all.
  let keyBlock = rowBlockAt(maskHeadOf(b, hkv * u.groupSize), place.y);
  let kFirst = keyBlock * BLOCK_K;
  let tx = lid % THREADS_X;
  let ty = lid / THREADS_X;
  var sawNotFinite = false;
  let kBase = b * u.kBatch + hkv * u.kHead;
  let vBase = b * u.vBatch + hkv * u.vHead;
  let dkBase = kBase;
  let dvBase = vBase;
  var dkAcc_0_0 = vec4f();
  var dkAcc_1_0 = vec4f();
  var dkAcc_2_0 = vec4f();
  var dkAcc_3_0 = vec4f();
  var dvAcc_0_0 = vec4f();
  var dvAcc_1_0 = vec4f();
  var dvAcc_2_0 = vec4f();
  var dvAcc_3_0 = vec4f();
  for (var member = 0u; member < u.groupSize; member++) {
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = maskHeadOf(b, h);
    let tiles = tilesOf(maskHead, keyBlock);
    let firstTile = tiles.x;
    let lastTile = tiles.y;
    let qBase = b * u.qBatch + h * u.qHead;
    let dOutBase = b * u.oBatch + h * u.oHead;
    for (var round = firstTile; round < lastTile; round += 64u) {
      if (lid < 4u) { atomicStore(&tileBits[lid], 0u); }
      workgroupBarrier();
      for (var t = lid; t < 64u; t += THREADS) {
        let candidate = round + t;
        if (candidate < lastTile) {
          let kind = classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)));
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
          let qFirst = tile * BLOCK_Q;
          var s_0_0 = vec4f();
          var s_1_0 = vec4f();
          var s_2_0 = vec4f();
          var s_3_0 = vec4f();
          var dp_0_0 = vec4f();
          var dp_1_0 = vec4f();
          var dp_2_0 = vec4f();
          var dp_3_0 = vec4f();
          for (var chunk = 0u; chunk < 1u; chunk++) {
            workgroupBarrier();
            {
              let e0 = lid + 0u;
              let row0 = kFirst + e0 / CHUNK;
              let d0 = chunk * CHUNK + e0 % CHUNK;
              var x0 = select(vec4f(), load_k(kBase + row0 * u.kRow, d0), (row0 < u.Sk) & (d0 < 4u));
              let e1 = lid + 64u;
              let row1 = kFirst + e1 / CHUNK;
              let d1 = chunk * CHUNK + e1 % CHUNK;
              var x1 = select(vec4f(), load_k(kBase + row1 * u.kRow, d1), (row1 < u.Sk) & (d1 < 4u));
              let e2 = lid + 128u;
              let row2 = kFirst + e2 / CHUNK;
              let d2 = chunk * CHUNK + e2 % CHUNK;
              var x2 = select(vec4f(), load_k(kBase + row2 * u.kRow, d2), (row2 < u.Sk) & (d2 < 4u));
              let e3 = lid + 192u;
              let row3 = kFirst + e3 / CHUNK;
              let d3 = chunk * CHUNK + e3 % CHUNK;
              var x3 = select(vec4f(), load_k(kBase + row3 * u.kRow, d3), (row3 < u.Sk) & (d3 < 4u));
              rowTile[(e0 % CHUNK) * ROW_STRIDE + ((e0 / CHUNK) & 3u) * ROW_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
              rowTile[(e1 % CHUNK) * ROW_STRIDE + ((e1 / CHUNK) & 3u) * ROW_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
              rowTile[(e2 % CHUNK) * ROW_STRIDE + ((e2 / CHUNK) & 3u) * ROW_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
              rowTile[(e3 % CHUNK) * ROW_STRIDE + ((e3 / CHUNK) & 3u) * ROW_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
            }
            {
              let e0 = lid + 0u;
              let row0 = qFirst + e0 / CHUNK;
              let d0 = chunk * CHUNK + e0 % CHUNK;
              var x0 = select(vec4f(), load_q(qBase + row0 * u.qRow, d0), (row0 < u.Sq) & (d0 < 4u));
              let e1 = lid + 64u;
              let row1 = qFirst + e1 / CHUNK;
              let d1 = chunk * CHUNK + e1 % CHUNK;
              var x1 = select(vec4f(), load_q(qBase + row1 * u.qRow, d1), (row1 < u.Sq) & (d1 < 4u));
              let e2 = lid + 128u;
              let row2 = qFirst + e2 / CHUNK;
              let d2 = chunk * CHUNK + e2 % CHUNK;
              var x2 = select(vec4f(), load_q(qBase + row2 * u.qRow, d2), (row2 < u.Sq) & (d2 < 4u));
              let e3 = lid + 192u;
              let row3 = qFirst + e3 / CHUNK;
              let d3 = chunk * CHUNK + e3 % CHUNK;
              var x3 = select(vec4f(), load_q(qBase + row3 * u.qRow, d3), (row3 < u.Sq) & (d3 < 4u));
              colTile[(e0 % CHUNK) * COL_STRIDE + ((e0 / CHUNK) & 3u) * COL_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
              colTile[(e1 % CHUNK) * COL_STRIDE + ((e1 / CHUNK) & 3u) * COL_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
              colTile[(e2 % CHUNK) * COL_STRIDE + ((e2 / CHUNK) & 3u) * COL_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
              colTile[(e3 % CHUNK) * COL_STRIDE + ((e3 / CHUNK) & 3u) * COL_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
            }
            workgroupBarrier();
            for (var d = 0u; d < 4u; d++) {
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
          for (var chunk = 0u; chunk < 1u; chunk++) {
            workgroupBarrier();
            {
              let e0 = lid + 0u;
              let row0 = kFirst + e0 / CHUNK;
              let d0 = chunk * CHUNK + e0 % CHUNK;
              var x0 = select(vec4f(), load_v(vBase + row0 * u.vRow, d0), (row0 < u.Sk) & (d0 < 4u));
              let e1 = lid + 64u;
              let row1 = kFirst + e1 / CHUNK;
              let d1 = chunk * CHUNK + e1 % CHUNK;
              var x1 = select(vec4f(), load_v(vBase + row1 * u.vRow, d1), (row1 < u.Sk) & (d1 < 4u));
              let e2 = lid + 128u;
              let row2 = kFirst + e2 / CHUNK;
              let d2 = chunk * CHUNK + e2 % CHUNK;
              var x2 = select(vec4f(), load_v(vBase + row2 * u.vRow, d2), (row2 < u.Sk) & (d2 < 4u));
              let e3 = lid + 192u;
              let row3 = kFirst + e3 / CHUNK;
              let d3 = chunk * CHUNK + e3 % CHUNK;
              var x3 = select(vec4f(), load_v(vBase + row3 * u.vRow, d3), (row3 < u.Sk) & (d3 < 4u));
              rowTile[(e0 % CHUNK) * ROW_STRIDE + ((e0 / CHUNK) & 3u) * ROW_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
              rowTile[(e1 % CHUNK) * ROW_STRIDE + ((e1 / CHUNK) & 3u) * ROW_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
              rowTile[(e2 % CHUNK) * ROW_STRIDE + ((e2 / CHUNK) & 3u) * ROW_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
              rowTile[(e3 % CHUNK) * ROW_STRIDE + ((e3 / CHUNK) & 3u) * ROW_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
            }
            {
              let e0 = lid + 0u;
              let row0 = qFirst + e0 / CHUNK;
              let d0 = chunk * CHUNK + e0 % CHUNK;
              var x0 = select(vec4f(), load_dOut(dOutBase + row0 * u.oRow, d0), (row0 < u.Sq) & (d0 < 4u));
              let e1 = lid + 64u;
              let row1 = qFirst + e1 / CHUNK;
              let d1 = chunk * CHUNK + e1 % CHUNK;
              var x1 = select(vec4f(), load_dOut(dOutBase + row1 * u.oRow, d1), (row1 < u.Sq) & (d1 < 4u));
              let e2 = lid + 128u;
              let row2 = qFirst + e2 / CHUNK;
              let d2 = chunk * CHUNK + e2 % CHUNK;
              var x2 = select(vec4f(), load_dOut(dOutBase + row2 * u.oRow, d2), (row2 < u.Sq) & (d2 < 4u));
              let e3 = lid + 192u;
              let row3 = qFirst + e3 / CHUNK;
              let d3 = chunk * CHUNK + e3 % CHUNK;
              var x3 = select(vec4f(), load_dOut(dOutBase + row3 * u.oRow, d3), (row3 < u.Sq) & (d3 < 4u));
              colTile[(e0 % CHUNK) * COL_STRIDE + ((e0 / CHUNK) & 3u) * COL_QUARTER + ((e0 / CHUNK) >> 2u)] = x0;
              colTile[(e1 % CHUNK) * COL_STRIDE + ((e1 / CHUNK) & 3u) * COL_QUARTER + ((e1 / CHUNK) >> 2u)] = x1;
              colTile[(e2 % CHUNK) * COL_STRIDE + ((e2 / CHUNK) & 3u) * COL_QUARTER + ((e2 / CHUNK) >> 2u)] = x2;
              colTile[(e3 % CHUNK) * COL_STRIDE + ((e3 / CHUNK) & 3u) * COL_QUARTER + ((e3 / CHUNK) >> 2u)] = x3;
            }
            workgroupBarrier();
            for (var d = 0u; d < 4u; d++) {
              let rowAt = d * ROW_STRIDE + ty;
              let colAt = d * COL_STRIDE + tx;
              let r0 = rowTile[rowAt + 0u * ROW_QUARTER + 0u];
              let r1 = rowTile[rowAt + 1u * ROW_QUARTER + 0u];
              let r2 = rowTile[rowAt + 2u * ROW_QUARTER + 0u];
              let r3 = rowTile[rowAt + 3u * ROW_QUARTER + 0u];
              {
                let c = transpose(mat4x4f(colTile[colAt + 0u * COL_QUARTER + 0u], colTile[colAt + 1u * COL_QUARTER + 0u], colTile[colAt + 2u * COL_QUARTER + 0u], colTile[colAt + 3u * COL_QUARTER + 0u]));
                dp_0_0 = fma(vec4f(r0[0]), c[0], dp_0_0);
                dp_0_0 = fma(vec4f(r0[1]), c[1], dp_0_0);
                dp_0_0 = fma(vec4f(r0[2]), c[2], dp_0_0);
                dp_0_0 = fma(vec4f(r0[3]), c[3], dp_0_0);
                dp_1_0 = fma(vec4f(r1[0]), c[0], dp_1_0);
                dp_1_0 = fma(vec4f(r1[1]), c[1], dp_1_0);
                dp_1_0 = fma(vec4f(r1[2]), c[2], dp_1_0);
                dp_1_0 = fma(vec4f(r1[3]), c[3], dp_1_0);
                dp_2_0 = fma(vec4f(r2[0]), c[0], dp_2_0);
                dp_2_0 = fma(vec4f(r2[1]), c[1], dp_2_0);
                dp_2_0 = fma(vec4f(r2[2]), c[2], dp_2_0);
                dp_2_0 = fma(vec4f(r2[3]), c[3], dp_2_0);
                dp_3_0 = fma(vec4f(r3[0]), c[0], dp_3_0);
                dp_3_0 = fma(vec4f(r3[1]), c[1], dp_3_0);
                dp_3_0 = fma(vec4f(r3[2]), c[2], dp_3_0);
                dp_3_0 = fma(vec4f(r3[3]), c[3], dp_3_0);
              }
            }
          }
          {
            let terms = transpose(mat4x4f(termsOf(bh, qFirst + (4u * (tx + 0u)) + 0u), termsOf(bh, qFirst + (4u * (tx + 0u)) + 1u), termsOf(bh, qFirst + (4u * (tx + 0u)) + 2u), termsOf(bh, qFirst + (4u * (tx + 0u)) + 3u)));
            let delta = terms[2];
            s_0_0 = exp2((s_0_0 - terms[0]) * u.scaleLog2) * terms[1];
            s_1_0 = exp2((s_1_0 - terms[0]) * u.scaleLog2) * terms[1];
            s_2_0 = exp2((s_2_0 - terms[0]) * u.scaleLog2) * terms[1];
            s_3_0 = exp2((s_3_0 - terms[0]) * u.scaleLog2) * terms[1];
            dp_0_0 = s_0_0 * (dp_0_0 - delta);
            dp_1_0 = s_1_0 * (dp_1_0 - delta);
            dp_2_0 = s_2_0 * (dp_2_0 - delta);
            dp_3_0 = s_3_0 * (dp_3_0 - delta);
          }
          if (partial) {
            {
              let j = i32(kFirst + (4u * (ty + 0u) + 0u));
              let bounds = boundsOfKey(maskHead, u32(j));
              {
                let r = vec4i(i32(qFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
                let seen = visible(r, vec4i(j), bounds);
                s_0_0 = select(vec4f(), s_0_0, seen);
                dp_0_0 = select(vec4f(), dp_0_0, seen);
              }
            }
            {
              let j = i32(kFirst + (4u * (ty + 0u) + 1u));
              let bounds = boundsOfKey(maskHead, u32(j));
              {
                let r = vec4i(i32(qFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
                let seen = visible(r, vec4i(j), bounds);
                s_1_0 = select(vec4f(), s_1_0, seen);
                dp_1_0 = select(vec4f(), dp_1_0, seen);
              }
            }
            {
              let j = i32(kFirst + (4u * (ty + 0u) + 2u));
              let bounds = boundsOfKey(maskHead, u32(j));
              {
                let r = vec4i(i32(qFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
                let seen = visible(r, vec4i(j), bounds);
                s_2_0 = select(vec4f(), s_2_0, seen);
                dp_2_0 = select(vec4f(), dp_2_0, seen);
              }
            }
            {
              let j = i32(kFirst + (4u * (ty + 0u) + 3u));
              let bounds = boundsOfKey(maskHead, u32(j));
              {
                let r = vec4i(i32(qFirst + (4u * (tx + 0u)))) + vec4i(0, 1, 2, 3);
                let seen = visible(r, vec4i(j), bounds);
                s_3_0 = select(vec4f(), s_3_0, seen);
                dp_3_0 = select(vec4f(), dp_3_0, seen);
              }
            }
          }
          weights[(tx + 0u) * ROW_STRIDE + 0u * ROW_QUARTER + ty + 0u] = s_0_0;
          weights[(tx + 0u) * ROW_STRIDE + 1u * ROW_QUARTER + ty + 0u] = s_1_0;
          weights[(tx + 0u) * ROW_STRIDE + 2u * ROW_QUARTER + ty + 0u] = s_2_0;
          weights[(tx + 0u) * ROW_STRIDE + 3u * ROW_QUARTER + ty + 0u] = s_3_0;
          workgroupBarrier();
          {
            let e0 = lid + 0u;
            let row0 = qFirst + e0 / CHUNK;
            let d0 = 0u * CHUNK + e0 % CHUNK;
            var x0 = select(vec4f(), load_dOut(dOutBase + row0 * u.oRow, d0), (row0 < u.Sq) & (d0 < 4u));
            let e1 = lid + 64u;
            let row1 = qFirst + e1 / CHUNK;
            let d1 = 0u * CHUNK + e1 % CHUNK;
            var x1 = select(vec4f(), load_dOut(dOutBase + row1 * u.oRow, d1), (row1 < u.Sq) & (d1 < 4u));
            let e2 = lid + 128u;
            let row2 = qFirst + e2 / CHUNK;
            let d2 = 0u * CHUNK + e2 % CHUNK;
            var x2 = select(vec4f(), load_dOut(dOutBase + row2 * u.oRow, d2), (row2 < u.Sq) & (d2 < 4u));
            let e3 = lid + 192u;
            let row3 = qFirst + e3 / CHUNK;
            let d3 = 0u * CHUNK + e3 % CHUNK;
            var x3 = select(vec4f(), load_dOut(dOutBase + row3 * u.oRow, d3), (row3 < u.Sq) & (d3 < 4u));
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
            dvAcc_0_0 = fma(vec4f(w0[0]), c0, dvAcc_0_0);
            dvAcc_0_0 = fma(vec4f(w0[1]), c1, dvAcc_0_0);
            dvAcc_0_0 = fma(vec4f(w0[2]), c2, dvAcc_0_0);
            dvAcc_0_0 = fma(vec4f(w0[3]), c3, dvAcc_0_0);
            dvAcc_1_0 = fma(vec4f(w1[0]), c0, dvAcc_1_0);
            dvAcc_1_0 = fma(vec4f(w1[1]), c1, dvAcc_1_0);
            dvAcc_1_0 = fma(vec4f(w1[2]), c2, dvAcc_1_0);
            dvAcc_1_0 = fma(vec4f(w1[3]), c3, dvAcc_1_0);
            dvAcc_2_0 = fma(vec4f(w2[0]), c0, dvAcc_2_0);
            dvAcc_2_0 = fma(vec4f(w2[1]), c1, dvAcc_2_0);
            dvAcc_2_0 = fma(vec4f(w2[2]), c2, dvAcc_2_0);
            dvAcc_2_0 = fma(vec4f(w2[3]), c3, dvAcc_2_0);
            dvAcc_3_0 = fma(vec4f(w3[0]), c0, dvAcc_3_0);
            dvAcc_3_0 = fma(vec4f(w3[1]), c1, dvAcc_3_0);
            dvAcc_3_0 = fma(vec4f(w3[2]), c2, dvAcc_3_0);
            dvAcc_3_0 = fma(vec4f(w3[3]), c3, dvAcc_3_0);
          }
          workgroupBarrier();
          weights[(tx + 0u) * ROW_STRIDE + 0u * ROW_QUARTER + ty + 0u] = dp_0_0;
          weights[(tx + 0u) * ROW_STRIDE + 1u * ROW_QUARTER + ty + 0u] = dp_1_0;
          weights[(tx + 0u) * ROW_STRIDE + 2u * ROW_QUARTER + ty + 0u] = dp_2_0;
          weights[(tx + 0u) * ROW_STRIDE + 3u * ROW_QUARTER + ty + 0u] = dp_3_0;
          workgroupBarrier();
          {
            let e0 = lid + 0u;
            let row0 = qFirst + e0 / CHUNK;
            let d0 = 0u * CHUNK + e0 % CHUNK;
            var x0 = select(vec4f(), load_q(qBase + row0 * u.qRow, d0), (row0 < u.Sq) & (d0 < 4u));
            let e1 = lid + 64u;
            let row1 = qFirst + e1 / CHUNK;
            let d1 = 0u * CHUNK + e1 % CHUNK;
            var x1 = select(vec4f(), load_q(qBase + row1 * u.qRow, d1), (row1 < u.Sq) & (d1 < 4u));
            let e2 = lid + 128u;
            let row2 = qFirst + e2 / CHUNK;
            let d2 = 0u * CHUNK + e2 % CHUNK;
            var x2 = select(vec4f(), load_q(qBase + row2 * u.qRow, d2), (row2 < u.Sq) & (d2 < 4u));
            let e3 = lid + 192u;
            let row3 = qFirst + e3 / CHUNK;
            let d3 = 0u * CHUNK + e3 % CHUNK;
            var x3 = select(vec4f(), load_q(qBase + row3 * u.qRow, d3), (row3 < u.Sq) & (d3 < 4u));
            if (partial) {
              {
                let notFinite = isNotFinite(x0);
                x0 = select(x0, vec4f(), notFinite);
              }
              {
                let notFinite = isNotFinite(x1);
                x1 = select(x1, vec4f(), notFinite);
              }
              {
                let notFinite = isNotFinite(x2);
                x2 = select(x2, vec4f(), notFinite);
              }
              {
                let notFinite = isNotFinite(x3);
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
            dkAcc_0_0 = fma(vec4f(w0[0]), c0, dkAcc_0_0);
            dkAcc_0_0 = fma(vec4f(w0[1]), c1, dkAcc_0_0);
            dkAcc_0_0 = fma(vec4f(w0[2]), c2, dkAcc_0_0);
            dkAcc_0_0 = fma(vec4f(w0[3]), c3, dkAcc_0_0);
            dkAcc_1_0 = fma(vec4f(w1[0]), c0, dkAcc_1_0);
            dkAcc_1_0 = fma(vec4f(w1[1]), c1, dkAcc_1_0);
            dkAcc_1_0 = fma(vec4f(w1[2]), c2, dkAcc_1_0);
            dkAcc_1_0 = fma(vec4f(w1[3]), c3, dkAcc_1_0);
            dkAcc_2_0 = fma(vec4f(w2[0]), c0, dkAcc_2_0);
            dkAcc_2_0 = fma(vec4f(w2[1]), c1, dkAcc_2_0);
            dkAcc_2_0 = fma(vec4f(w2[2]), c2, dkAcc_2_0);
            dkAcc_2_0 = fma(vec4f(w2[3]), c3, dkAcc_2_0);
            dkAcc_3_0 = fma(vec4f(w3[0]), c0, dkAcc_3_0);
            dkAcc_3_0 = fma(vec4f(w3[1]), c1, dkAcc_3_0);
            dkAcc_3_0 = fma(vec4f(w3[2]), c2, dkAcc_3_0);
            dkAcc_3_0 = fma(vec4f(w3[3]), c3, dkAcc_3_0);
          }
        }
      }
    }
    if (sawNotFinite) { notFiniteMet = 1u; }
    if (workgroupUniformLoad(&notFiniteMet) != 0u) {
      for (var tile = firstTile; tile < lastTile; tile++) {
        let cFirst = tile * BLOCK_Q;
        for (var c = cFirst; c < min(cFirst + COLS, u.Sq); c++) {
          let at = dOutBase + c * u.oRow;
          let seen_0 = visible(vec4i(i32(c)), vec4i(i32(kFirst + (4u * (ty + 0u) + 0u))) + vec4i(0, 1, 2, 3), boundsOfKeys(maskHead, kFirst + (4u * (ty + 0u) + 0u)));
          if ((0u * CHUNK + tx) < 4u) {
            let x = load_dOut(at, (0u * CHUNK + tx));
            let notFinite = isNotFinite(x);
            if (any(notFinite)) {
              dvAcc_0_0 = select(dvAcc_0_0, dvAcc_0_0 + x, notFinite & vec4<bool>(seen_0[0]));
              dvAcc_1_0 = select(dvAcc_1_0, dvAcc_1_0 + x, notFinite & vec4<bool>(seen_0[1]));
              dvAcc_2_0 = select(dvAcc_2_0, dvAcc_2_0 + x, notFinite & vec4<bool>(seen_0[2]));
              dvAcc_3_0 = select(dvAcc_3_0, dvAcc_3_0 + x, notFinite & vec4<bool>(seen_0[3]));
            }
          }
        }
      }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 0u);
    if (row < u.Sk) {
      let at = dkBase + row * u.kRow;
      if ((0u * CHUNK + tx) < 4u) { dk[at + (0u * CHUNK + tx)] = dkAcc_0_0 * u.scale; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 1u);
    if (row < u.Sk) {
      let at = dkBase + row * u.kRow;
      if ((0u * CHUNK + tx) < 4u) { dk[at + (0u * CHUNK + tx)] = dkAcc_1_0 * u.scale; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 2u);
    if (row < u.Sk) {
      let at = dkBase + row * u.kRow;
      if ((0u * CHUNK + tx) < 4u) { dk[at + (0u * CHUNK + tx)] = dkAcc_2_0 * u.scale; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 3u);
    if (row < u.Sk) {
      let at = dkBase + row * u.kRow;
      if ((0u * CHUNK + tx) < 4u) { dk[at + (0u * CHUNK + tx)] = dkAcc_3_0 * u.scale; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 0u);
    if (row < u.Sk) {
      let at = dvBase + row * u.vRow;
      if ((0u * CHUNK + tx) < 4u) { dv[at + (0u * CHUNK + tx)] = dvAcc_0_0 * 1.0; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 1u);
    if (row < u.Sk) {
      let at = dvBase + row * u.vRow;
      if ((0u * CHUNK + tx) < 4u) { dv[at + (0u * CHUNK + tx)] = dvAcc_1_0 * 1.0; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 2u);
    if (row < u.Sk) {
      let at = dvBase + row * u.vRow;
      if ((0u * CHUNK + tx) < 4u) { dv[at + (0u * CHUNK + tx)] = dvAcc_2_0 * 1.0; }
    }
  }
  {
    let row = kFirst + (4u * (ty + 0u) + 3u);
    if (row < u.Sk) {
      let at = dvBase + row * u.vRow;
      if ((0u * CHUNK + tx) < 4u) { dv[at + (0u * CHUNK + tx)] = dvAcc_3_0 * 1.0; }
    }
  }
}
