/**
 * @file Tiles that were measured to be the fastest on a device, and how a plan takes them: pure functions. `autotune` measures; nothing
 * is measured unless the user asks.
 */
import {
  candidates,
  fits,
  MAP_BLOCK,
  type DeviceLimits,
  type DeviceTraits,
  type Pass,
  type TileShape,
  type Variant,
} from './plan.js';

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

/** Tiles that are worth measuring: those that a plan chooses from, first, and more. */
export function tilesToTry(pass: Pass, variant: Pick<Variant, 'fewQueries'>): TileShape[] {
  const chosen = candidates(pass, variant);
  if (variant.fewQueries) return chosen;
  const known = new Set(chosen.map(textOf));
  return [...chosen, ...MORE_SHAPES.filter((tiles) => !known.has(textOf(tiles)) && hasWholeMapBlocks(pass, tiles))];
}

/** All passes read one tile map, so the keys of a tile are whole blocks of it. */
export function hasWholeMapBlocks(pass: Pass, {rows, cols}: TileShape): boolean {
  return (pass === 'dkdv' ? rows : cols) % MAP_BLOCK === 0;
}

export const tilesThatFit = (pass: Pass, variant: Variant, limits: DeviceLimits): TileShape[] =>
  tilesToTry(pass, variant).filter((tiles) => fits(pass, variant, limits, tiles));

/** Names what the best tiles depend on besides the device. */
export function tuningKey(pass: Pass, v: Variant): string {
  const flags = (['causal', 'intervals', 'dropout', 'half', 'fewQueries'] as const).filter((name) => v[name]);
  return [pass, `d${v.D}x${v.Dv}`, ...flags].join('_');
}

/** The measured tiles of a pass, alone in the list that `plan` chooses from; undefined where there are none that fit. */
export function tunedShapes({tuned, limits}: DeviceTraits, pass: Pass, variant: Variant): TileShape[] | undefined {
  const chosen = tuned?.get(tuningKey(pass, variant));
  if (chosen === undefined) return undefined;
  const found = tilesThatFit(pass, variant, limits).find((tiles) => textOf(tiles) === textOf(chosen));
  return found && [found];
}

/** Equal texts mean equal tiles, whatever the order of their fields. */
function textOf(tiles: unknown): string {
  return JSON.stringify(Object.entries(Object(tiles) as object).sort(([a], [b]) => (a < b ? -1 : 1)));
}
