/**
 * @file Tiles that `autotune` measured to be the fastest on a device, and how a plan chooses them: pure functions.
 * Nothing is measured unless the user calls `autotune`.
 */
import {loadedMatrixPlan, loadedMatrixTiles} from './loaded_matrix_plan.js';
import type {MatrixTile} from './matrix_plan.js';
import {candidates, fits, type DeviceCapabilities, type Pass, type TileShape, type Variant} from './vector_plan.js';
import {MAP_BLOCK} from '../../../call/constants.js';

/** Tiles of a pass, on vectors or on subgroup matrices. */
export type Tiles = TileShape | MatrixTile;

export const isMatrixTile = (tiles: Tiles): tiles is MatrixTile => 'subgroups' in tiles;

/**
 * The fastest tiles of each pass, by `tuningKey`. They may come from a file, so only tiles that are candidates are
 * used.
 */
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

/** Tiles on vectors that are worth measuring: first those that a plan chooses from, then more. */
export function tilesToTry(pass: Pass, variant: Pick<Variant, 'fewQueries'>): TileShape[] {
  const chosen = candidates(pass, variant);
  if (variant.fewQueries) return chosen;
  const known = new Set(chosen.map(textOf));
  return [...chosen, ...MORE_SHAPES.filter((tiles) => !known.has(textOf(tiles)) && hasWholeMapBlocks(pass, tiles))];
}

/** All passes read one bounds map, so the keys of a tile must be whole blocks of the map. */
function hasWholeMapBlocks(pass: Pass, {rows, cols}: TileShape): boolean {
  return (pass === 'dkdv' ? rows : cols) % MAP_BLOCK === 0;
}

/** The tiles that a pass of a variant may run with on a device, the plan's own first. */
export function tilesThatFit(device: DeviceCapabilities, pass: Pass, variant: Variant): Tiles[] {
  const onMatrices = loadedMatrixPlan(pass, variant, device);
  return onMatrices
    ? loadedMatrixTiles(onMatrices).filter((tiles) => loadedMatrixPlan(pass, variant, device, [tiles]) !== null)
    : tilesToTry(pass, variant).filter((tiles) => fits(pass, device.limits, tiles));
}

/** A key of everything besides the device that the best tiles depend on. */
export function tuningKey(pass: Pass, v: Variant): string {
  const flags = (['causal', 'intervals', 'dropout', 'fewQueries'] as const).filter((name) => v[name]);
  return [pass, `d${v.D}x${v.Dv}`, `halves${v.halvesPerNumber}`, ...flags].join('_');
}

/** The measured tiles of a pass; undefined if there are none or they do not fit. */
export function tunedTiles(device: DeviceCapabilities, pass: Pass, variant: Variant): Tiles | undefined {
  const chosen = device.tuned?.get(tuningKey(pass, variant));
  if (chosen === undefined) return undefined;
  return tilesThatFit(device, pass, variant).find((tiles) => textOf(tiles) === textOf(chosen));
}

/** Equal texts mean equal tiles, whatever the order of their fields. */
function textOf(tiles: unknown): string {
  return JSON.stringify(Object.entries(Object(tiles) as object).sort(([a], [b]) => (a < b ? -1 : 1)));
}
