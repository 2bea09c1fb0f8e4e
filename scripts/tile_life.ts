/**
 * @file Draws who does what in the life of a tile in the CUDA kernels on Hopper: a lane for each role, time to the
 * right. `scripts/gallery.ts` writes it into docs/images. Lengths show the order of things, not measured times.
 */

/** Pixels of a unit of time. */
const UNIT = 16;
const LEFT = 150;
/** Time at the left end. */
const FIRST = -11;
const LAST = 27;
const LANE = 26;
const BAR = 19;
const width = LEFT + (LAST - FIRST) * UNIT + 14;

/** Something that a lane does from one time to another; `own` is the tile whose life is told. */
interface Work {
  lane: number;
  from: number;
  to: number;
  label: string;
  own?: boolean;
}

/** What one lane waits for: `free` from those that compute to the loading warp, else from copies to products. */
interface Wait {
  from: [lane: number, time: number];
  to: [lane: number, time: number];
  label?: string;
}

interface Panel {
  title: string;
  about: string;
  lanes: string[];
  work: Work[];
  waits: Wait[];
}

const own = (lane: number, from: number, to: number, label: string): Work => ({lane, from, to, label, own: true});
const other = (lane: number, from: number, to: number, label: string): Work => ({lane, from, to, label});

const FORWARD: Panel = {
  title: 'Forward: 128 queries stay, key blocks come',
  about: 'S: scores, O: output. One of the two warpgroups, with 64 queries; the other does the same.',
  lanes: ['loading warp', 'copy engine', 'tensor cores', 'warpgroup'],
  work: [
    own(0, -11, -8, 'finds i'),
    own(0, -8, -7, 'K'),
    own(0, -5.5, -4.5, 'V'),
    own(1, -7, -1, 'keys i'),
    own(1, -1, 3.5, 'values i'),
    other(1, 7, 13, 'later keys'),
    other(1, 21.2, 27, 'later values'),
    own(2, 0, 4, 'S i'),
    other(2, 4, 8, 'O i − 1'),
    other(2, 12, 16, 'S i + 1'),
    own(2, 16, 20, 'O i'),
    other(2, 24, 27, 'S i + 2'),
    other(3, -7, 0, 'weights i − 1'),
    own(3, 4, 6, 'hide'),
    own(3, 6, 12, 'weights i'),
    other(3, 16, 24, 'weights i + 1'),
  ],
  waits: [
    {from: [1, -1], to: [2, 0]},
    {from: [3, 6], to: [1, 7], label: 'stage of K is free'},
    {from: [1, 3.5], to: [2, 16]},
    {from: [2, 20], to: [1, 21.2], label: 'stage of V is free'},
  ],
};

const BACKWARD: Panel = {
  title: 'Backward: 128 keys and values stay, query blocks come',
  about:
    'S, dP: scores, gradients of weights, transposed. dS: gradients of scores. Warpgroups take turns at dq; two more warps have it added.',
  lanes: ['loading warp', 'copy engine', 'warpgroup 1', 'its tensor cores', 'its tensor cores', 'warpgroup 2'],
  work: [
    own(0, -11, -8, 'finds j'),
    own(0, -8, -6.7, 'Q'),
    own(0, -6.7, -5.1, 'dO'),
    own(1, -6.7, -0.5, 'queries j, terms'),
    own(1, -0.5, 3, 'dO j'),
    other(1, 14.2, 22, 'queries j + 2, dO'),
    own(1, 22.6, 27, 'adds dq j'),
    ...[
      [2, 3],
      [5, 4],
    ].flatMap(([group, products]) => [
      own(products, 0, 2.5, 'S'),
      own(products, 3, 5.5, 'dP'),
      own(products, 7, 9.5, 'dv'),
      own(products, 10.5, 13, 'dk'),
      own(group, 2.5, 7, 'weights'),
      own(group, 7, 10.5, 'dS'),
      own(group, 10.5, 13, 'store'),
    ]),
    own(3, 14.2, 18.5, 'dq j'),
    own(2, 18.5, 21, 'store'),
    other(3, 21, 23.5, 'S'),
    other(3, 24, 26.5, 'dP'),
    other(4, 13.5, 16, 'S'),
    other(4, 16.5, 19, 'dP'),
    other(4, 20.5, 23, 'dv'),
    other(4, 24, 26.5, 'dk'),
    other(5, 16, 20.5, 'weights'),
    other(5, 20.5, 24, 'dS'),
    other(5, 24, 26.5, 'store'),
  ],
  waits: [
    {from: [1, -0.5], to: [3, 0]},
    {from: [3, 13], to: [1, 14.2], label: 'stage is free'},
    {from: [5, 13], to: [3, 14.2]},
    {from: [2, 21], to: [1, 22.6]},
  ],
};

const STYLE = [
  "text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}",
  '.b{font-weight:600}.m{fill:#59636e}.card{fill:#fff;stroke:#d0d7de}.lane{fill:#f3f5f7}',
  '.own{fill:#3874d8}.other{fill:#d3d9e0}.in{fill:#fff}.w{fill:none;stroke:#d1622f;stroke-width:1.4}.wt{fill:#b04a1c}',
  '@media (prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}.card{fill:#0d1117;stroke:#3d444d}',
  '.lane{fill:#161b22}.own{fill:#2f6fdb}.other{fill:#3d444d}.w{stroke:#e8834f}.wt{fill:#e8834f}}',
].join('');

/** The picture. It is the same in every run. */
export function tilePicture(): string {
  const top = 62;
  const second = top + heightOf(FORWARD) + 14;
  const height = second + heightOf(BACKWARD) + 6;
  const title = 'The life of a tile on Hopper';
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${title}</title>`,
    `<style>${STYLE}</style>`,
    '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="wt" d="M0 0 8 4 0 8z"/></marker></defs>',
    `<rect class="card" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>`,
    text(16, 25, 't', title),
    text(
      16,
      43,
      'm',
      'Time goes right. Blue: one tile. Grey: the tiles before and after it. Arrows: who waits for whom.',
    ),
    drawPanel(FORWARD, top),
    drawPanel(BACKWARD, second),
    '</svg>\n',
  ].join('\n');
}

const heightOf = ({lanes}: Panel): number => 40 + lanes.length * LANE;
const x = (time: number): number => LEFT + (time - FIRST) * UNIT;

function drawPanel({title, about, lanes, work, waits}: Panel, top: number): string {
  const y = (lane: number): number => top + 34 + lane * LANE;
  const rows = lanes.map(
    (name, lane) =>
      `<rect class="lane" x="${LEFT}" y="${y(lane)}" width="${(LAST - FIRST) * UNIT}" height="${BAR}"/>\n${text(LEFT - 8, y(lane) + 13.5, '', name, 'end')}`,
  );
  return [
    text(16, top + 8, 'b', title),
    text(16, top + 24, 'm', about),
    ...rows,
    ...work.map((one) => drawWork(one, y(one.lane))),
    ...waits.map((wait) => drawWait(wait, y)),
  ].join('\n');
}

function drawWork({from, to, label, own: isOwn}: Work, y: number): string {
  const [left, length] = [x(from), (to - from) * UNIT];
  const bar = `<rect class="${isOwn ? 'own' : 'other'}" x="${left + 0.5}" y="${y}" width="${length - 1}" height="${BAR}" rx="3"/>`;
  return `${bar}\n${text(left + length / 2, y + 13.5, isOwn ? 'in' : '', label, 'middle')}`;
}

/** From the edge of one bar to that of the other that is nearer. */
function drawWait({from: [lane, start], to: [other, end], label}: Wait, y: (lane: number) => number): string {
  const down = other > lane;
  const [x1, y1] = [x(start), y(lane) + (down ? BAR : 0)];
  const [x2, y2] = [x(end), y(other) + (down ? 0 : BAR)];
  const path = `<path class="w" marker-end="url(#a)" d="M${x1} ${y1}L${x2} ${y2}"/>`;
  return label === undefined ? path : `${path}\n${text(x2 + 6, y(other) - 4, 'wt', label)}`;
}

function text(left: number, y: number, look: string, content: string, anchor?: 'end' | 'middle'): string {
  const attributes = `${look === '' ? '' : ` class="${look}"`} x="${left}" y="${y}"${anchor ? ` text-anchor="${anchor}"` : ''}`;
  return `<text${attributes}>${content}</text>`;
}
