/**
 * @file Tiles that were measured to be the fastest on a device, and how a plan takes them: pure functions. `autotune` measures; nothing
 * is measured unless the user asks.
 */
import {matrixPlan, type MatrixPlan, type MatrixTile} from './matrix_plan.js';
import {candidates, fits, type DeviceTraits, type Pass, type TileShape, type Variant} from './vector_plan.js';
import {MAP_BLOCK} from '../../../call/constants.js';

/** Tiles of a pass, on vectors or on subgroup matrices. */
export type Tiles = TileShape | MatrixTile;

export const isMatrixTile = (tiles: Tiles): tiles is MatrixTile => 'subgroups' in tiles;

/** The fastest tiles of each pass, by `tuningKey`. They may come from a file: only tiles that are candidates are ever taken. */
export type TunedTiles = Map<string, unknown>;

const shape = (rows: number, cols: number, threadsX: number, threadsY: number): TileShape => ({
  rows,
  cols,
  threadsX,
  threadsY,
});

/** Register tiles from 4 x 4 to 8 x 8. */
const MORE_SHAPES = [
  shape(64, 32, 8, 8),
  shape(64, 64, 8, 16),
  shape(64, 64, 8, 8),
  shape(128, 32, 8, 32),
  shape(128, 32, 8, 16),
  shape(96, 32, 8, 24),
  shape(128, 64, 8, 32),
  shape(64, 96, 8, 16),
];

/** Tiles on vectors that are worth measuring: those that a plan chooses from, first, and more. */
export function tilesToTry(pass: Pass, variant: Pick<Variant, 'fewQueries'>): TileShape[] {
  const chosen = candidates(pass, variant);
  if (variant.fewQueries) return chosen;
  const known = new Set(chosen.map(textOf));
  return [...chosen, ...MORE_SHAPES.filter((tiles) => !known.has(textOf(tiles)) && hasWholeMapBlocks(pass, tiles))];
}

/** Tiles on subgroup matrices that are worth measuring, the plan's own first. */
export function matrixTilesToTry({subgroups, bandRows, cols, matrix: {M, lanes}}: MatrixPlan): MatrixTile[] {
  const first = {subgroups, bandRows, cols};
  const heights = lanes >= 2 * M ? [M, 2 * M] : [M];
  const all = [4, 8, 16].flatMap((count) =>
    heights.flatMap((height) => [16, 32, 64].map((width) => ({subgroups: count, bandRows: height, cols: width}))),
  );
  return [first, ...all.filter((tiles) => textOf(tiles) !== textOf(first))];
}

/** All passes read one tile map, so the keys of a tile are whole blocks of it. */
function hasWholeMapBlocks(pass: Pass, {rows, cols}: TileShape): boolean {
  return (pass === 'dkdv' ? rows : cols) % MAP_BLOCK === 0;
}

/** The tiles that a pass of a variant may run with on a device, the plan's own first. */
export function tilesThatFit(device: DeviceTraits, pass: Pass, variant: Variant): Tiles[] {
  const onMatrices = matrixPlan(pass, variant, device);
  return onMatrices
    ? matrixTilesToTry(onMatrices).filter((tiles) => matrixPlan(pass, variant, device, [tiles]) !== null)
    : tilesToTry(pass, variant).filter((tiles) => fits(pass, device.limits, tiles));
}

/** Names what the best tiles depend on besides the device. */
export function tuningKey(pass: Pass, v: Variant): string {
  const flags = (['causal', 'intervals', 'dropout', 'fewQueries'] as const).filter((name) => v[name]);
  return [pass, `d${v.D}x${v.Dv}`, `parts${v.parts}`, ...flags].join('_');
}

/** The measured tiles of a pass; undefined where there are none that may be taken. */
export function tunedTiles(device: DeviceTraits, pass: Pass, variant: Variant): Tiles | undefined {
  const chosen = device.tuned?.get(tuningKey(pass, variant));
  if (chosen === undefined) return undefined;
  return tilesThatFit(device, pass, variant).find((tiles) => textOf(tiles) === textOf(chosen));
}

/** Equal texts mean equal tiles, whatever the order of their fields. */
function textOf(tiles: unknown): string {
  return JSON.stringify(Object.entries(Object(tiles) as object).sort(([a], [b]) => (a < b ? -1 : 1)));
}
