/**
 * @file Pictures of masks: text against snapshots, SVG read back pixel by pixel, and the committed gallery against the
 * library.
 */
import {inspect} from 'node:util';
import {expect} from 'chai';
import {parseHTML} from 'linkedom';
import {differences, galleryPicture} from '../../scripts/gallery.js';
import * as masks from '../../src/mask/builders/index.js';
import {toSVG} from '../../src/mask/pictures/svg.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {seededRandom} from '../../src/mask/builders/random.js';
import {maskTable} from '../support/mask_table.js';
import {tileKinds} from '../../src/mask/bounds/classify.js';

describe('masks as text', () => {
  const pictures: [FlashMask, string[]][] = [
    [
      masks.causalDocument([2, 3]),
      ['causalDocument, 5 queries × 5 keys, causal, 1 vector', '█····', '██···', '··█··', '··██·', '··███'],
    ],
    [
      masks.globalSlidingWindow(6, 1, 1),
      [
        'globalSlidingWindow, 6 queries × 6 keys, 4 vectors',
        '██████',
        '███···',
        '████··',
        '█·███·',
        '█··███',
        '█···██',
      ],
    ],
    [masks.causal(5, {queryLength: 2}), ['causal, 2 queries × 5 keys, causal, 0 vectors', '████·', '█████']],
    [
      masks.document([[2, 2], [3]], {padTo: 4}),
      ['document, 4 queries × 4 keys, 2 batches, 2 vectors', '██··', '██··', '··██', '··██'],
    ],
  ];

  for (const [mask, lines] of pictures) {
    it(lines[0], () => expect(mask.toString()).to.equal(lines.join('\n')));
  }

  it('another row of the batch', () => {
    const mask = masks.document([[2, 2], [3]], {padTo: 4});
    expect(mask.toString({batch: 1}).split('\n').slice(1)).to.deep.equal(['███·', '███·', '███·', '····']);
  });

  it('blocks of pairs where there are too many, the last ones short', () => {
    expect(masks.causalDocument([40, 57]).toString({blocks: 10})).to.equal(
      [
        'causalDocument, 97 queries × 97 keys, causal, 1 vector, 10 × 10 pairs a character',
        '▒·········',
        '█▒········',
        '██▒·······',
        '███▒······',
        '····▒·····',
        '····█▒····',
        '····██▒···',
        '····███▒··',
        '····████▒·',
        '····█████▒',
      ].join('\n'),
    );
  });

  it('is what String() gives', () => expect(String(masks.full(1))).to.equal('full, 1 query × 1 key, 0 vectors\n█'));
});

/** The class of the path that covers the middle of each pair, read from the rectangles of the paths. */
function paintedPairs(svg: string, mask: FlashMask, cell: number): string[] {
  const painted = Array<string>(mask.queryLength * mask.keyLength).fill('nothing');
  // Paths of the vector strips below the mask use `v` steps and do not match.
  for (const [, fill, path] of svg.matchAll(
    /<path class="fm-(full|visible|masked|empty)" shape-rendering="crispEdges" d="([^"]*)"/g,
  )) {
    for (const [, x0, y0, x1, y1] of path.matchAll(/M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H\1Z/g)) {
      for (let r = Math.round((+y0 - 98) / cell); r < Math.round((+y1 - 98) / cell); r++) {
        for (let j = Math.round((+x0 - 52) / cell); j < Math.round((+x1 - 52) / cell); j++) {
          const at = r * mask.keyLength + j;
          expect(painted[at], `(${r}, ${j}) is painted once`).to.equal('nothing');
          painted[at] = fill;
        }
      }
    }
  }
  return painted;
}

/** The fill that each pair must have. */
function trueFills(mask: FlashMask, blockQ: number, blockK: number): string[] {
  const {kinds, columns} = tileKinds(mask, blockQ, blockK);
  return Array.from(mask.toDense(), (visible, at) => {
    const [r, j] = [Math.floor(at / mask.keyLength), at % mask.keyLength];
    const kind = kinds[Math.floor(r / blockQ) * columns + Math.floor(j / blockK)];
    return kind === 'partial' ? (visible ? 'visible' : 'masked') : kind;
  });
}

describe('a mask in the console of Node', () => {
  it('is a line', () => {
    expect(inspect(masks.causalDocument([3, 5]))).to.equal(
      'FlashMask(causalDocument, 8 queries × 8 keys, causal, 1 vector)',
    );
  });
});

describe('masks as SVG', () => {
  for (const {name, build} of maskTable) {
    it(`${name} is painted pair by pair as it is`, () => {
      const mask = build(24, seededRandom(5));
      expect(paintedPairs(toSVG(mask, {blockQ: 4, blockK: 5}), mask, 14)).to.deep.equal(trueFills(mask, 4, 5));
    });
  }

  it('ragged masks, of more keys than queries', () => {
    const mask = masks.slidingWindow(28, 9, {queryLength: 11});
    expect(paintedPairs(toSVG(mask, {blockQ: 4, blockK: 6}), mask, 12)).to.deep.equal(trueFills(mask, 4, 6));
  });

  it('large masks are painted tile by tile', () => {
    const mask = masks.causalDocument([300, 420]);
    const svg = toSVG(mask);
    const tiles = svg.match(/tiles of 16 × 16/);
    expect(tiles).to.not.equal(null);
    expect(svg).to.contain('fm-full').and.to.not.contain('class="fm-masked"');
    expect(svg.length).to.be.below(40000);
  });

  it('the numbers under the mask are its vectors, by name', () => {
    const mask = masks.globalSlidingWindow(20, 3, 2);
    const {document} = parseHTML(toSVG(mask));
    const texts = (name: string): string[] =>
      [...document.querySelectorAll(`text.${name}`)].map((node) => node.textContent!);
    expect(texts('fm-name')).to.deep.equal(['LTS', 'LTE', 'UTS', 'UTE']);
    const byVector = [0, 1, 2, 3].flatMap((vector) => [...mask.bounds!].filter((_, i) => i % 4 === vector));
    expect(texts('fm-num')).to.deep.equal(byVector.map(String));
  });

  it('bounds too long for a cell are shortened', () => {
    const bounds = [2147483647, -2147483648, 100, -100, -5, 99];
    const mask = masks.fromStartEndRowIndices(bounds, {causal: false, shape: [1, 1, 3, 2]});
    const numbers = [...toSVG(mask).matchAll(/class="fm-num"[^>]*>([^<]*)</g)].map(([, text]) => text);
    expect(numbers).to.deep.equal(['∞', '…', '−5', '−∞', '−…', '99']);
  });

  it('says the share of masked pairs and skipped tiles of the head it shows', () => {
    const mask = masks.fromStartEndRowIndices(
      [
        [
          [[0], [0]],
          [[2], [2]],
        ],
      ],
      {causal: true},
    );
    expect(toSVG(mask, {head: 0}))
      .to.contain('100% of pairs masked, 100% of tiles skipped')
      .and.to.contain('(head 0)');
    expect(toSVG(mask, {head: 1})).to.contain('25% of pairs masked, 0% of tiles skipped');
  });

  it('themes: the reader decides, or the caller', () => {
    const mask = masks.causal(8);
    expect(toSVG(mask)).to.contain('@media (prefers-color-scheme:dark)');
    expect(toSVG(mask, {theme: 'dark'}))
      .to.not.contain('@media')
      .and.to.not.contain('#ffffff');
    expect(toSVG(mask, {theme: 'light'}))
      .to.contain('#ffffff')
      .and.to.not.contain('@media');
  });

  it('titles are escaped', () => {
    expect(toSVG(masks.causal(2), {title: 'a < b & c'}))
      .to.contain('a &lt; b &amp; c')
      .and.to.not.contain('a < b');
  });
});

describe('the gallery', () => {
  it('the committed pictures are what the library draws', () => expect(differences()).to.deep.equal([]));

  it('a picture of every row of the table, each with its title', () => {
    for (const row of maskTable) expect(galleryPicture(row)).to.contain(`>${row.title}</text>`);
  });
});
