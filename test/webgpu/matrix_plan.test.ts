/**
 * @file Which kernel each device runs for a pass: on subgroup matrices or on vectors, and with which tiles. Needs no
 * GPU.
 */
import {expect} from 'chai';
import {loadMatrixCode} from '../../src/backends/webgpu/device/matrix_code.js';
import * as fc from 'fast-check';
import {halvesPerNumberIn, planOn, variantOf} from '../../src/backends/webgpu/plan/choose_plan.js';
import {
  isMatrixPlan,
  matrixCandidates,
  type MatrixPlan,
  matrixPlan,
  matrixTilesToTry,
  type MatrixTile,
} from '../../src/backends/webgpu/plan/matrix_plan.js';
import {
  type DeviceCapabilities,
  FEW_QUERIES,
  type MatrixConfig,
  type Pass,
  type VectorPlan,
  type Variant,
} from '../../src/backends/webgpu/plan/vector_plan.js';
import {MAP_BLOCK} from '../../src/call/constants.js';
import {shaderOf} from '../../src/backends/webgpu/passes/attention_pass.js';
import {tuningKey} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {PADDED_ROWS} from '../../src/backends/webgpu/wgsl/matrix/float16_copies.js';

loadMatrixCode();

const passes: Pass[] = ['forward', 'dq', 'dkdv'];

/** The matrices of an NVIDIA GPU through Dawn, and those of an Apple GPU. */
const large: MatrixConfig = {M: 16, N: 16, K: 16, lanes: 32};
const small: MatrixConfig = {M: 8, N: 8, K: 8, lanes: 32};
/** Other kinds that the trial of a device accepts, with other numbers of lanes. */
const others: MatrixConfig[] = [
  {M: 8, N: 8, K: 8, lanes: 8},
  {M: 8, N: 16, K: 16, lanes: 16},
  {M: 16, N: 16, K: 16, lanes: 64},
];

const device = (matrix: MatrixConfig | null = large, bytes = 49152, threads = 1024): DeviceCapabilities => ({
  limits: {maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: threads},
  float16: true,
  matrix,
});

const variant = (fields: Partial<Variant> = {}): Variant => ({
  ...{D: 64, Dv: 64, causal: true, intervals: false, dropout: false, halvesPerNumber: 1, fewQueries: false},
  ...fields,
});

const kindOf = (plan: MatrixPlan | VectorPlan): string => (isMatrixPlan(plan) ? 'matrices' : 'vectors');

/** All plans of a pass: the default, and those that autotune may choose. Empty where vectors run. */
function plansOf(pass: Pass, of: Variant, traits: DeviceCapabilities): MatrixPlan[] {
  const own = matrixPlan(pass, of, traits);
  if (!own) return [];
  const tiles = [...matrixCandidates(pass, traits.matrix!, own), ...matrixTilesToTry(own)];
  return tiles.flatMap((tile) => matrixPlan(pass, of, traits, [tile]) ?? []);
}

/** The least workgroup memory that has room for some tile of each pass. */
function leastBytes(v: Variant): number {
  const room = device(large, Infinity);
  const sizes = (pass: Pass): number[] =>
    matrixCandidates(pass, large, matrixPlan(pass, v, room)!).flatMap(
      (tile) => matrixPlan(pass, v, room, [tile])?.workgroupBytes ?? [],
    );
  return Math.max(...passes.map((pass) => Math.min(...sizes(pass))));
}

/** Whether each pass of a variant runs on matrices or on vectors. */
const kinds = (traits: DeviceCapabilities, v: Variant): string[] =>
  passes.map((pass) => kindOf(planOn(traits, pass, v)));
const onMatrices = ['matrices', 'matrices', 'matrices'];
const onVectors = ['vectors', 'vectors', 'vectors'];

describe('the plan of a pass', () => {
  it('is on matrices where the precision reads halves, in one part or two', () => {
    expect(halvesPerNumberIn('float16')).to.equal(1);
    expect(halvesPerNumberIn('float32')).to.equal(2);
    expect(halvesPerNumberIn('auto')).to.equal(0);
    expect(kinds(device(), variant({halvesPerNumber: 1}))).to.deep.equal(onMatrices);
    expect(kinds(device(), variant({halvesPerNumber: 2}))).to.deep.equal(onMatrices);
    expect(kinds(device(), variant({halvesPerNumber: 0}))).to.deep.equal(onVectors);
  });

  it('is on vectors where the device has no float16, or no matrices that passed their trial', () => {
    expect(kinds({...device(), float16: false}, variant())).to.deep.equal(onVectors);
    expect(kinds(device(null), variant())).to.deep.equal(onVectors);
  });

  it('is on matrices up to 128 channels of keys and of values', () => {
    expect(kinds(device(large, 65536), variant({D: 128, Dv: 128}))).to.deep.equal(onMatrices);
    expect(kinds(device(large, 65536), variant({D: 129, Dv: 64}))).to.deep.equal(onVectors);
    expect(kinds(device(large, 65536), variant({D: 64, Dv: 129}))).to.deep.equal(onVectors);
  });

  it('is on vectors for few queries', () => {
    const sizes = {
      B: 1,
      H: 1,
      Hkv: 1,
      Sk: 99,
      D: 64,
      Dv: 64,
      layout: 'bshd',
      causal: true,
      maskB: 1,
      Hm: 1,
      n: 0,
    } as const;
    const attrs = {causal: true, scale: 1, layout: 'bshd', dropout: 0, seed: 0, deterministic: false} as const;
    const of = (Sq: number): string[] => kinds(device(), variantOf({...sizes, Sq}, {...attrs, precision: 'float16'}));
    expect(of(FEW_QUERIES)).to.deep.equal(onVectors);
    expect(of(FEW_QUERIES + 1)).to.deep.equal(onMatrices);
  });

  for (const pass of passes) {
    for (const halvesPerNumber of [1, 2] as const) {
      it(`takes the tiles of short heads up to 64 channels: ${pass}, halvesPerNumber ${halvesPerNumber}`, () => {
        const tiles = (D: number): MatrixTile[] => {
          const of = variant({D, Dv: 1, halvesPerNumber});
          return matrixCandidates(pass, large, matrixPlan(pass, of, device(large, Infinity))!);
        };
        expect(tiles(64)).to.deep.equal(tiles(1));
        expect(tiles(65)).to.deep.equal(tiles(128));
        // dq runs fastest with the same tiles at all sizes.
        if (pass === 'dq' && halvesPerNumber === 1) expect(tiles(64)).to.deep.equal(tiles(65));
        else expect(tiles(64)[0]).to.not.deep.equal(tiles(65)[0]);
      });

      it(`takes a smaller tile at one byte or thread less than the first needs: ${pass}, halvesPerNumber ${halvesPerNumber}`, () => {
        const of = variant({halvesPerNumber});
        const first = matrixPlan(pass, of, device(large, Infinity))!;
        const {workgroupBytes, threads} = first;
        // The other passes need room too.
        const bytes = Math.max(workgroupBytes, leastBytes(of));
        expect(matrixPlan(pass, of, device(large, bytes, threads))).to.deep.equal(first);
        for (const less of [device(large, workgroupBytes - 1, threads), device(large, bytes, threads - 1)]) {
          expect(matrixPlan(pass, of, less)).to.not.deep.equal(first);
        }
      });
    }
  }

  it('is on matrices in all passes or in none', () => {
    for (const halvesPerNumber of [1, 2] as const) {
      for (const D of [1, 64, 128]) {
        const of = variant({D, Dv: D, halvesPerNumber});
        const found = (bytes: number): boolean[] =>
          passes.map((pass) => matrixPlan(pass, of, device(large, bytes)) !== null);
        expect(found(leastBytes(of))).to.deep.equal([true, true, true]);
        expect(found(leastBytes(of) - 1)).to.deep.equal([false, false, false]);
      }
    }
  });

  it('is on vectors where no tile of matrices fits', () => {
    expect(kinds(device(large, 16384), variant({D: 128, Dv: 128, halvesPerNumber: 2}))).to.deep.equal(onVectors);
    expect(kinds(device(large, 49152, 64), variant())).to.deep.equal(onVectors);
    // With 128 lanes each lane would have less than one vec4.
    expect(kinds(device({...large, lanes: 128}), variant())).to.deep.equal(onVectors);
  });

  it('runs on the matrices of every kind that pass a trial, wherever there is room', () => {
    for (const matrix of [small, ...others]) {
      for (const halvesPerNumber of [1, 2] as const) {
        expect(kinds(device(matrix, 65536), variant({halvesPerNumber})), JSON.stringify(matrix)).to.deep.equal(
          onMatrices,
        );
      }
    }
  });

  it('takes measured tiles of the kind that runs, and no others', () => {
    const [pass, of] = ['dkdv', variant()] as const;
    const own = matrixPlan(pass, of, device())!;
    const other = matrixTilesToTry(own).find(
      (tile) => tile.subgroups !== own.subgroups && matrixPlan(pass, of, device(), [tile]),
    )!;
    const tuned = (tiles: unknown): DeviceCapabilities => ({
      ...device(),
      tuned: new Map([[tuningKey(pass, of), tiles]]),
    });
    expect(planOn(tuned(other), pass, of)).to.include(other);
    expect(planOn(tuned({rows: 64, cols: 64, threadsX: 8, threadsY: 8}), pass, of)).to.deep.equal(own);
    expect(planOn(tuned({...other, cols: 17}), pass, of)).to.deep.equal(own);
  });
});

/** Checks what the shaders assume of a plan. */
function expectSound(p: MatrixPlan): void {
  const {M, N, K, lanes} = p.matrix;
  const {rows, cols, bandRows, rowLanes, roles, channels, blockQ, blockK} = p;
  const name = shaderOf(p).key;
  expect(bandRows % M, `${name}: matrices in a band's height`).to.equal(0);
  expect(cols % Math.max(N, K), `${name}: matrices in the columns`).to.equal(0);
  expect(channels % (roles * Math.max(N, K)), `${name}: matrices in the channels of a role`).to.equal(0);
  expect(channels, name).to.be.at.least(Math.max(p.D, p.Dv));
  expect(rowLanes * bandRows, `${name}: lanes of a band`).to.equal(lanes);
  expect(cols % (4 * rowLanes * roles), `${name}: vec4s of a row for each lane`).to.equal(0);
  expect(PADDED_ROWS % rows, `${name}: whole blocks of the rows of a copy`).to.equal(0);
  expect(PADDED_ROWS % cols, `${name}: whole blocks of the rows of a copy`).to.equal(0);
  expect(p.threads, name).to.equal(p.subgroups * lanes);
  expect([blockQ, blockK]).to.deep.equal(p.pass === 'dkdv' ? [cols, rows] : [rows, cols]);
  expect(Math.max(blockK, MAP_BLOCK) % Math.min(blockK, MAP_BLOCK), `${name}: blocks of the bounds map`).to.equal(0);
}

describe('plans on subgroup matrices', () => {
  const heads = fc.integer({min: 1, max: 128});
  const anyVariant = fc.record({
    D: heads,
    Dv: heads,
    causal: fc.boolean(),
    intervals: fc.boolean(),
    dropout: fc.boolean(),
    halvesPerNumber: fc.constantFrom(1 as const, 2 as const),
    fewQueries: fc.constant(false),
  });
  const anyDevice = fc
    .record({
      matrix: fc.constantFrom(large, small, ...others),
      bytes: fc.integer({min: 16384, max: 131072}),
      threads: fc.constantFrom(128, 256, 512, 1024),
    })
    .map(({matrix, bytes, threads}) => device(matrix, bytes, threads));
  const anyPass = fc.constantFrom(...passes);

  it('keep to the limits and to what their shaders take for granted, those of autotune too', () => {
    fc.assert(
      fc.property(anyPass, anyVariant, anyDevice, (pass, of, traits) => {
        for (const p of plansOf(pass, of, traits)) {
          expect(p.workgroupBytes).to.be.at.most(traits.limits.maxComputeWorkgroupStorageSize);
          expect(p.threads).to.be.at.most(traits.limits.maxComputeInvocationsPerWorkgroup);
          expectSound(p);
        }
      }),
      {numRuns: 200},
    );
  });

  it('have keys that tell all apart', () => {
    const booleans = [false, true];
    const flags = booleans.flatMap((causal) =>
      booleans.flatMap((intervals) => booleans.map((dropout) => ({causal, intervals, dropout}))),
    );
    const variants = [
      [64, 80],
      [80, 64],
    ].flatMap(([D, Dv]) =>
      ([1, 2] as const).flatMap((halvesPerNumber) => flags.map((some) => variant({...some, D, Dv, halvesPerNumber}))),
    );
    const names = new Map<string, string>();
    for (const matrix of [large, small, ...others]) {
      for (const {of, pass} of variants.flatMap((each) => passes.map((one) => ({of: each, pass: one})))) {
        for (const p of plansOf(pass, of, device(matrix, 131072))) {
          const text = JSON.stringify({pass, of, matrix, rows: p.rows, cols: p.cols, bandRows: p.bandRows});
          const {key} = shaderOf(p);
          expect(names.get(key) ?? text, key).to.equal(text);
          names.set(key, text);
        }
      }
    }
    expect(names.size).to.be.above(1000);
  });
});
