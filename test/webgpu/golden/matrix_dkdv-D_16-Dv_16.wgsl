// matrix_dkdv pass=dkdv D=16 Dv=16 causal intervals scheduled halvesPerNumber=1 subgroups=8 bandRows=16 rows=64 cols=16 blockQ=16 blockK=64 threads=256 matrix=16x16x16x32 roles=2 channels=32 rowLanes=2
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id;

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
@group(0) @binding(1) var<storage, read> q: array<vec4u>;
@group(0) @binding(2) var<storage, read> k: array<vec4u>;
@group(0) @binding(3) var<storage, read> v: array<vec4u>;
@group(0) @binding(4) var<storage, read> dOut: array<vec4u>;
@group(0) @binding(5) var<storage, read> rowTerms: array<vec4f>;
@group(0) @binding(6) var<storage, read> mask: array<vec4i>;
@group(0) @binding(7) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> dv: array<vec4f>;

const ROWS = 64u;
const COLS = 16u;
const BLOCK_Q = 16u;
const BLOCK_K = 64u;
const MAP_BLOCK = 32u;
const MAP_SPAN = 2u;
const THREADS = 256u;
const LANES = 32u;
const ROLES = 2u;
const ROW_LANES = 2u;
const BANDS = 4u;
const BAND_ROWS = 16u;
const SCORE_STRIDE = 6u;
const WEIGHT_STRIDE = 6u;
const TILE = 80u;
const EMPTY = 0u;
const PARTIAL = 1u;
const FULL = 2u;
// The lowest float: no finite score is below it, and WGSL lets an implementation assume that no infinity occurs.
const LOWEST = -3.4028234663852886e38f;
const LN_2 = 0.6931471805599453f;

// src/backends/webgpu/plan/matrix_plan.ts counts the bytes of the workgroup arrays. Each band has its own inner array,
// so that matrices have constant offsets: with computed offsets Dawn adds a bounds check to each load and store.
var<workgroup> columns: array<array<vec4u, TILE>, 2>;
// The products of rows and columns, for each role, band by band.
var<workgroup> scores: array<array<vec4f, BAND_ROWS * SCORE_STRIDE>, ROLES * BANDS>;
var<workgroup> weights: array<array<vec4<f16>, 1u * BAND_ROWS * WEIGHT_STRIDE>, 2u * BANDS>;

var<workgroup> tileBits: array<atomic<u32>, 4>;
var<workgroup> tileWords: vec4u;

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

fn cleared(x: vec4u) -> vec4u {
  let low = (x & vec4u(0x7c00u)) == vec4u(0x7c00u);
  let high = (x & vec4u(0x7c000000u)) == vec4u(0x7c000000u);
  return x & (select(vec4u(0xffffu), vec4u(), low) | select(vec4u(0xffff0000u), vec4u(), high));
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

const WEIGHT_POWER = 14.0f;

// The terms of a query (delta.ts): the maximum in the units of products of the copies, 1 / sum times the power of the
// weights, and delta - dLse in the units of score gradients. Factors are applied one by one, so that each step stays in
// range. Zeros past the last query, so that weights vanish.
fn scaledTerms(terms: vec4f, exists: bool, qFactor: f32, kFactor: f32, first: f32, second: f32) -> vec3f {
  return select(vec3f(), vec3f(terms.x / qFactor / kFactor, terms.y * exp2(WEIGHT_POWER), terms.z * first * second), exists);
}

// Terms of the queries of a tile.
var<workgroup> tileMax: array<vec4f, COLS / 4u>;
var<workgroup> tileFactor: array<vec4f, COLS / 4u>;
var<workgroup> tileDelta: array<vec4f, COLS / 4u>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32, @builtin(subgroup_id) subgroup: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let band = subgroup / ROLES;
  let role = subgroup % ROLES;
  // Computed from the index in the workgroup instead of that in the subgroup: the compiler knows its bounds, so
  // accesses need no clamps.
  let laneBand = lid / (LANES * ROLES);
  let bandRow = lid % LANES / ROW_LANES;
  let laneRow = laneBand * BAND_ROWS + bandRow;
  let laneShare = lid / LANES % ROLES * ROW_LANES + lid % ROW_LANES;
  let scoreAt = bandRow * SCORE_STRIDE + laneShare;
  let weightAt = bandRow * WEIGHT_STRIDE + laneShare;
  let place = placeOf(item, u.B * u.Hkv);
  let bhkv = place.x;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
  // If the query heads of a group have different mask heads, the first of these holds the order for all.
  let keyBlock = rowBlockAt(maskHeadOf(b, hkv * u.groupSize), place.y);
  let kFirst = keyBlock * BLOCK_K;
  let kBand = (bhkv * ((u.Sk + 255u) / 256u * 256u) + kFirst + band * BAND_ROWS) * 4u;
  let vBand = (bhkv * ((u.Sk + 255u) / 256u * 256u) + kFirst + band * BAND_ROWS) * 4u;
  let qFactor = bitcast<f32>(q[u.B * u.H * ((u.Sq + 255u) / 256u * 256u) * 4u + bhkv].x);
  let kFactor = bitcast<f32>(k[u.B * u.Hkv * ((u.Sk + 255u) / 256u * 256u) * 4u + bhkv].x);
  let vFactor = bitcast<f32>(v[u.B * u.Hkv * ((u.Sk + 255u) / 256u * 256u) * 4u + bhkv].x);
  let dOutFactor = bitcast<f32>(dOut[u.B * u.H * ((u.Sq + 255u) / 256u * 256u) * 4u + bhkv].x);
  let toScore = qFactor * kFactor * u.scaleLog2;
  let gradientPower = -20.0;
  // From products of the copies of dO and v to the units of score gradients, and from there to gradients.
  let toGradient = exp2(gradientPower - WEIGHT_POWER);
  let fromGradient = exp2(-gradientPower) * u.scale;
  let notFiniteQ = q[u.B * u.H * ((u.Sq + 255u) / 256u * 256u) * 4u + bhkv].y != 0u;
  let notFiniteDOut = dOut[u.B * u.H * ((u.Sq + 255u) / 256u * 256u) * 4u + bhkv].y != 0u;
  let dkBase = b * u.kBatch + hkv * u.kHead;
  let dvBase = b * u.vBatch + hkv * u.vHead;
  var row_0_0_0: subgroup_matrix_left<f16, 16, 16>;
  var row_0_0_1: subgroup_matrix_left<f16, 16, 16>;
  if (role == 0u) {
    row_0_0_0 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&k, kBand + 0u, 4u);
    row_0_0_1 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&k, kBand + 2u, 4u);
  } else {
    row_0_0_0 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&v, vBand + 0u, 4u);
    row_0_0_1 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&v, vBand + 2u, 4u);
  }
  var acc_0_0 = subgroup_matrix_result<f32, 16, 16>();
  var acc_0_1 = subgroup_matrix_result<f32, 16, 16>();
  var nextFirst0 = vec4u();
  var nextSecond0 = vec4u();
  for (var member = 0u; member < u.groupSize; member++) {
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = maskHeadOf(b, h);
    let tiles = tilesOf(maskHead, keyBlock);
    let firstTile = tiles.x;
    let lastTile = tiles.y;
    let qHead = (bh * ((u.Sq + 255u) / 256u * 256u) + 0u) * 4u;
    let dOutHead = (bh * ((u.Sq + 255u) / 256u * 256u) + 0u) * 4u;
    var round = firstTile;
    var words = vec4u();
    var next = 0u;
    var nextPartial = false;
    var more = false;
    while ((words.x | words.y) == 0u && round < lastTile) {
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
      words = workgroupUniformLoad(&tileWords);
      round += 64u;
    }
    more = (words.x | words.y) != 0u;
    if (words.x != 0u) {
      let bit = firstTrailingBit(words.x);
      next = round - 64u + bit;
      nextPartial = ((words.z >> bit) & 1u) == 1u;
      words.x &= words.x - 1u;
    } else {
      let bit = firstTrailingBit(words.y);
      next = round - 32u + bit;
      nextPartial = ((words.w >> bit) & 1u) == 1u;
      words.y &= words.y - 1u;
    }
    if (more) {
      if (lid + 0u < 64u) { nextFirst0 = q[qHead + next * BLOCK_Q * 4u + lid + 0u]; }
      if (lid + 0u < 64u) { nextSecond0 = dOut[dOutHead + next * BLOCK_Q * 4u + lid + 0u]; }
    }
    if (more) {
      if (lid + 0u < 64u) { columns[0][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = nextFirst0; }
      if (lid + 0u < 64u) { columns[1][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = nextSecond0; }
    }
    workgroupBarrier();
    while (more) {
      let tile = next;
      let partial = nextPartial;
      while ((words.x | words.y) == 0u && round < lastTile) {
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
        words = workgroupUniformLoad(&tileWords);
        round += 64u;
      }
      more = (words.x | words.y) != 0u;
      if (words.x != 0u) {
        let bit = firstTrailingBit(words.x);
        next = round - 64u + bit;
        nextPartial = ((words.z >> bit) & 1u) == 1u;
        words.x &= words.x - 1u;
      } else {
        let bit = firstTrailingBit(words.y);
        next = round - 32u + bit;
        nextPartial = ((words.w >> bit) & 1u) == 1u;
        words.y &= words.y - 1u;
      }
      if (more) {
        if (lid + 0u < 64u) { nextFirst0 = q[qHead + next * BLOCK_Q * 4u + lid + 0u]; }
        if (lid + 0u < 64u) { nextSecond0 = dOut[dOutHead + next * BLOCK_Q * 4u + lid + 0u]; }
      }
      let qFirst = tile * BLOCK_Q;
      if (lid < COLS) {
        let terms = scaledTerms(rowTerms[bh * u.Sq + min(qFirst + lid, u.Sq - 1u)], qFirst + lid < u.Sq, qFactor, kFactor, toGradient / dOutFactor, 1.0 / vFactor);
        tileMax[lid / 4u][lid % 4u] = terms.x;
        tileFactor[lid / 4u][lid % 4u] = terms.y;
        tileDelta[lid / 4u][lid % 4u] = terms.z;
      }
      {
        var s_0_0 = subgroup_matrix_result<f32, 16, 16>();
        {
          let right0 = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&columns[role], 0u, 5u);
          s_0_0 = subgroupMatrixMultiplyAccumulate(row_0_0_0, right0, s_0_0);
        }
        {
          let right0 = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&columns[role], 2u, 5u);
          s_0_0 = subgroupMatrixMultiplyAccumulate(row_0_0_1, right0, s_0_0);
        }
        subgroupMatrixStore<row_major>(&scores[role * BANDS + band], 0u * SCORE_STRIDE + 0u, s_0_0, SCORE_STRIDE);
      }
      workgroupBarrier();
      var x0 = exp2((scores[laneBand][scoreAt + 0u] - tileMax[4u * (laneShare + 0u) / 4u]) * toScore) * tileFactor[4u * (laneShare + 0u) / 4u];
      var g0 = x0 * (scores[BANDS + laneBand][scoreAt + 0u] * toGradient - tileDelta[4u * (laneShare + 0u) / 4u]);
      if (partial) {
        let j = i32(kFirst + laneRow);
        let bounds = boundsOfKey(maskHead, u32(min(j, i32(u.Sk) - 1)));
        {
          let r = vec4i(i32(qFirst + 4u * (laneShare + 0u))) + vec4i(0, 1, 2, 3);
          let seen = visible(r, vec4i(j), bounds);
          x0 = select(vec4f(), x0, seen);
          g0 = select(vec4f(), g0, seen);
        }
      }
      weights[laneBand][0u * WEIGHT_STRIDE + weightAt + 0u] = vec4<f16>(g0);
      weights[BANDS + laneBand][0u * WEIGHT_STRIDE + weightAt + 0u] = vec4<f16>(x0);
      if (partial && notFiniteQ) {
        if (lid + 0u < 64u) { columns[0][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = cleared(columns[0][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u]); }
      }
      if (partial && notFiniteDOut) {
        if (lid + 0u < 64u) { columns[1][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = cleared(columns[1][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u]); }
      }
      workgroupBarrier();
      {
        let w_0_0 = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&weights[role * BANDS + band], 0u * WEIGHT_STRIDE + 0u, WEIGHT_STRIDE);
        {
          let right0 = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&columns[role], 0u + 0u, 5u);
          acc_0_0 = subgroupMatrixMultiplyAccumulate(w_0_0, right0, acc_0_0);
        }
        {
          let right0 = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&columns[role], 0u + 2u, 5u);
          acc_0_1 = subgroupMatrixMultiplyAccumulate(w_0_0, right0, acc_0_1);
        }
      }
      workgroupBarrier();
      if (more) {
        if (lid + 0u < 64u) { columns[0][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = nextFirst0; }
        if (lid + 0u < 64u) { columns[1][(lid + 0u) / 4u * 5u + (lid + 0u) % 4u] = nextSecond0; }
      }
      workgroupBarrier();
    }
  }
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&scores[role * BANDS + band], 0u * SCORE_STRIDE + 0u, acc_0_0, SCORE_STRIDE);
  workgroupBarrier();
  for (var i = lid; i < ROWS * 4u; i += THREADS) {
    let r = i / 4u;
    if (kFirst + r < u.Sk && i % 4u < 4u) {
      {
        let at = dkBase + (kFirst + r) * u.kRow;
        let x = scores[0u * BANDS + r / BAND_ROWS][r % BAND_ROWS * SCORE_STRIDE + i % 4u] * fromGradient * qFactor * dOutFactor * vFactor;
        if ((0u + i % 4u) < 4u) { dk[at + (0u + i % 4u)] = x; }
      }
      {
        let at = dvBase + (kFirst + r) * u.vRow;
        let x = scores[1u * BANDS + r / BAND_ROWS][r % BAND_ROWS * SCORE_STRIDE + i % 4u] * exp2(-WEIGHT_POWER) * dOutFactor;
        if ((0u + i % 4u) < 4u) { dv[at + (0u + i % 4u)] = x; }
      }
    }
  }
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&scores[role * BANDS + band], 0u * SCORE_STRIDE + 0u, acc_0_1, SCORE_STRIDE);
  workgroupBarrier();
  for (var i = lid; i < ROWS * 4u; i += THREADS) {
    let r = i / 4u;
    if (kFirst + r < u.Sk && i % 4u < 4u) {
      {
        let at = dkBase + (kFirst + r) * u.kRow;
        let x = scores[0u * BANDS + r / BAND_ROWS][r % BAND_ROWS * SCORE_STRIDE + i % 4u] * fromGradient * qFactor * dOutFactor * vFactor;
        if ((4u + i % 4u) < 4u) { dk[at + (4u + i % 4u)] = x; }
      }
      {
        let at = dvBase + (kFirst + r) * u.vRow;
        let x = scores[1u * BANDS + r / BAND_ROWS][r % BAND_ROWS * SCORE_STRIDE + i % 4u] * exp2(-WEIGHT_POWER) * dOutFactor;
        if ((4u + i % 4u) < 4u) { dv[at + (4u + i % 4u)] = x; }
      }
    }
  }
  if (notFiniteDOut) {
    for (var member = 0u; member < u.groupSize; member++) {
      let h = hkv * u.groupSize + member;
      let bh = b * u.H + h;
      let maskHead = maskHeadOf(b, h);
      let tiles = tilesOf(maskHead, keyBlock);
      let firstTile = tiles.x;
      let lastTile = tiles.y;
      let dOutHead = (bh * ((u.Sq + 255u) / 256u * 256u) + 0u) * 4u;
      storageBarrier();
      workgroupBarrier();
      for (var i = lid; i < ROWS * 4u; i += THREADS) {
        let row = kFirst + i / 4u;
        let d = i % 4u;
        if (row < u.Sk) {
          var sum = vec4f();
          var met = vec4<bool>();
          for (var c = firstTile * BLOCK_Q; c < min(lastTile * BLOCK_Q, u.Sq); c++) {
            let eight = dOut[dOutHead + c * 4u + d / 2u];
            let x = vec4f(bitcast<vec4<f16>>(select(eight.xy, eight.zw, d % 2u == 1u)));
            let notFinite = isNotFinite(x);
            if (any(notFinite) && visible(vec4i(i32(c)), vec4i(i32(row)), boundsOfKey(maskHead, row)).x) {
              sum = select(sum, sum + x, notFinite);
              met = met | notFinite;
            }
          }
          let at = dvBase + row * u.vRow;
          dv[at + d] = select(dv[at + d], dv[at + d] + sum, met);
        }
      }
    }
  }
}
