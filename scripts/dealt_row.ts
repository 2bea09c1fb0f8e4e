/**
 * @file Draws how one packed row is dealt to ranks: the tiles of its mask in the colour of the rank that computes them,
 * the keys that each rank has and gets, and the work of each rank. `scripts/gallery.ts` writes it into docs/images.
 */
import {type ContextParallelPlan, planContextParallel} from '../src/distributed/context_parallel.js';
import {tileKinds} from '../src/mask/bounds/classify.js';
import * as masks from '../src/mask/builders/index.js';

const RANKS = 4;
const CHUNK = 128;
const mask = masks.causalDocument([700, 420, 2300, 676]);
/** Pixels of a tile. */
const CELL = 11;
const LEFT = 58;
const TOP = 78;
/** Height of the line of a rank, below the mask and in the bars. */
const LINE = 16;
const chunks = mask.keyLength / CHUNK;
const side = chunks * CELL;
const BARS = LEFT + side + 46;
const BAR = 150;
const width = BARS + BAR + 62;

const STYLE = [
  "text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}",
  '.m{fill:#59636e}.card{fill:#fff;stroke:#d0d7de}.e{fill:#eceff3}.p{fill-opacity:.62}.get{fill-opacity:.38}',
  '.r0{fill:#3874d8}.r1{fill:#d1622f}.r2{fill:#2c974b}.r3{fill:#8250df}',
  '@media (prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}.card{fill:#0d1117;stroke:#3d444d}',
  '.e{fill:#1c222b}.r0{fill:#4e8ef2}.r1{fill:#e8834f}.r2{fill:#3fb950}.r3{fill:#a371f7}}',
].join('');

/** The picture. It is the same in every run. */
export function dealtPicture(): string {
  const plan = planContextParallel(mask, {ranks: RANKS, chunk: CHUNK});
  const owner = ownersOf(plan);
  const contiguous = Array.from(owner, (_, chunk) => Math.floor((chunk * RANKS) / chunks));
  const bottom = TOP + side + 26;
  const height = bottom + RANKS * LINE + 24;
  const body = [
    text(16, 25, 't', 'A row dealt to four ranks'),
    text(
      16,
      43,
      'm',
      `4,096 tokens in four documents, causal. A chunk has ${CHUNK} tokens, a rank ${chunks / RANKS} chunks.`,
    ),
    text(LEFT, TOP - 8, 'm', 'keys →'),
    text(LEFT - 10, TOP - 8, 'm', 'rank', 'end'),
    drawTiles(owner),
    text(LEFT, bottom - 6, 'm', 'keys that a rank has (dark) and gets from others (light)'),
    ...ranks().map((rank) => drawKeys(plan, rank, bottom + rank * LINE)),
    drawBars('Live tiles, dealt so', loads(owner), TOP + 8),
    drawBars('Dealt contiguously', loads(contiguous), TOP + 120),
  ];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    '<title>A row dealt to four ranks</title>',
    `<style>${STYLE}</style>`,
    `<rect class="card" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>`,
    ...body,
    '</svg>\n',
  ].join('\n');
}

const ranks = (): number[] => Array.from({length: RANKS}, (_, rank) => rank);

const {kinds} = tileKinds(mask, CHUNK, CHUNK);

/** The rank of each chunk. */
function ownersOf(plan: ContextParallelPlan): number[] {
  const owner: number[] = [];
  for (const rank of ranks()) plan.rows(rank).forEach((row) => (owner[Math.floor(row / CHUNK)] = rank));
  return owner;
}

/** Live tiles of each rank. */
function loads(owner: readonly number[]): number[] {
  const sums = Array<number>(RANKS).fill(0);
  kinds.forEach((kind, i) => (sums[owner[Math.floor(i / chunks)]] += kind === 'empty' ? 0 : 1));
  return sums;
}

/** A row of tiles for each chunk, and its rank beside it. */
function drawTiles(owner: readonly number[]): string {
  const tiles = kinds.map((kind, i) => {
    const [row, column] = [Math.floor(i / chunks), i % chunks];
    const look = kind === 'empty' ? 'e' : `r${owner[row]}${kind === 'partial' ? ' p' : ''}`;
    return square(LEFT + column * CELL, TOP + row * CELL, look);
  });
  const labels = owner.map((rank, row) => text(LEFT - 10, TOP + row * CELL + 9.5, '', String(rank), 'end'));
  return [...tiles, ...labels].join('\n');
}

/** The key blocks of a rank's call. */
function drawKeys(plan: ContextParallelPlan, rank: number, y: number): string {
  const keys = new Set(Array.from(plan.keys(rank), (key) => Math.floor(key / CHUNK)));
  const own = new Set(Array.from(plan.rows(rank), (row) => Math.floor(row / CHUNK)));
  const squares = Array.from({length: chunks}, (_, block) => {
    const look = own.has(block) ? `r${rank}` : keys.has(block) ? `r${rank} get` : 'e';
    return square(LEFT + block * CELL, y, look);
  });
  return [text(LEFT - 10, y + 9.5, '', String(rank), 'end'), ...squares].join('\n');
}

function drawBars(title: string, tiles: readonly number[], top: number): string {
  // The contiguous dealing has the longest bar.
  const most = Math.max(...loads(Array.from({length: chunks}, (_, chunk) => Math.floor((chunk * RANKS) / chunks))));
  const bars = tiles.map((count, rank) => {
    const [y, length] = [top + 10 + rank * LINE, Math.round((BAR * count) / most)];
    const bar = `<rect class="r${rank}" x="${BARS}" y="${y}" width="${length}" height="10"/>`;
    return `${text(BARS - 6, y + 9, '', String(rank), 'end')}\n${bar}\n${text(BARS + length + 5, y + 9, '', String(count))}`;
  });
  return [text(BARS, top, 'm', title), ...bars].join('\n');
}

function square(x: number, y: number, look: string): string {
  return `<rect class="${look}" x="${x}" y="${y}" width="${CELL - 1}" height="${CELL - 1}"/>`;
}

function text(x: number, y: number, look: string, content: string, anchor?: 'end'): string {
  const attributes = `${look === '' ? '' : ` class="${look}"`} x="${x}" y="${y}"${anchor ? ' text-anchor="end"' : ''}`;
  return `<text${attributes}>${content}</text>`;
}
