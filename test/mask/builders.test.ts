/**
 * @file Compares every mask builder with its pair rule, per batch, at many lengths, and with the paper's sparsities.
 */
import {expect} from 'chai';
import * as fc from 'fast-check';
import * as masks from '../../src/mask/builders/index.js';
import {hashOrder} from '../../src/mask/builders/selected.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {seededRandom} from '../../src/mask/builders/random.js';
import {type VisibleRule, maskTable} from '../support/mask_table.js';

/** One, primes, and lengths around multiples of the tile sides. */
const lengths = [1, 2, 3, 5, 7, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129];

/** Builders of tensors, which test/op/bounds_on_device.test.ts runs on every device. */
const ON_DEVICE = ['padding', 'segments'];

/** Fails at the first pair for which a mask and its rule differ. */
function expectRule(mask: FlashMask, visible: VisibleRule): void {
  for (let b = 0; b < mask.batch; b++) {
    for (let h = 0; h < mask.heads; h++) {
      const dense = mask.toDense(b, h);
      for (let at = 0; at < dense.length; at++) {
        const [r, j] = [Math.floor(at / mask.keyLength), at % mask.keyLength];
        if ((dense[at] === 1) === visible(r, j, b, h)) continue;
        expect.fail(
          `${mask.name}, ${mask.queryLength} × ${mask.keyLength}: (${r}, ${j}) of batch ${b}, head ${h} is ${dense[at]}`,
        );
      }
    }
  }
}

describe('mask builders', () => {
  it('the table has every builder once', () => {
    expect(maskTable.map(({name}) => name).sort()).to.deep.equal(
      Object.keys(masks)
        .filter((name) => !ON_DEVICE.includes(name))
        .sort(),
    );
  });

  for (const {name, sample} of maskTable) {
    it(`${name} follows its rule at ${lengths.length} lengths`, () => {
      for (const S of lengths) {
        for (let seed = 0; seed < 3; seed++) {
          const {mask, visible} = sample(S, seededRandom(1000 * seed + S));
          expect(mask.name).to.equal(name);
          expect([mask.queryLength, mask.keyLength]).to.deep.equal([S, S]);
          expectRule(mask, visible);
        }
      }
    });
  }

  it('masks of an equal draw are equal', () => {
    for (const {build} of maskTable)
      expect(build(50, seededRandom(4)).bounds).to.deep.equal(build(50, seededRandom(4)).bounds);
  });
});

/** The document of a token, found one token at a time: the truth for the packed builders. */
function documentOf(lengths: readonly number[], token: number): number {
  let end = 0;
  return lengths.findIndex((length) => (end += length) > token);
}

describe('mask builders, a row of the batch each', () => {
  const rows = [[3, 4, 6], [13], [1, 1, 5, 4, 2]];
  const packed = {
    causalDocument: masks.causalDocument,
    document: masks.document,
    causalBlockwise: masks.causalBlockwise,
  };

  for (const [name, build] of Object.entries(packed)) {
    it(`${name} of many rows is that of each row`, () => {
      const all = build(rows);
      expect(all.batch).to.equal(3);
      rows.forEach((row, b) => expect(all.toDense(b)).to.deep.equal(build(row).toDense()));
    });
  }

  it('prefixLmDocument', () => {
    const prefixes = [[1, 0, 6], [5], [1, 0, 2, 4, 1]];
    const all = masks.prefixLmDocument(rows, prefixes);
    rows.forEach((row, b) => expect(all.toDense(b)).to.deep.equal(masks.prefixLmDocument(row, prefixes[b]).toDense()));
  });

  it('sharedQuestion, of a group, of a row of groups, of rows', () => {
    const groups = [
      [
        [4, 2, 3],
        [2, 2],
      ],
      [[13]],
      [[1, 2, 0, 4], [6]],
    ];
    const all = masks.sharedQuestion(groups);
    groups.forEach((row, b) => expect(all.toDense(b)).to.deep.equal(masks.sharedQuestion(row).toDense()));
    expect(masks.sharedQuestion([[4, 2, 3]]).bounds).to.deep.equal(masks.sharedQuestion([4, 2, 3]).bounds);
    expect([...masks.sharedQuestion([2, 2, 1]).bounds!]).to.deep.equal([5, 5, 4, 4, 5]);
  });

  it('prefixLmCausal, qkSparse, hashSparse, fromSegmentIds', () => {
    expect(masks.prefixLmCausal(7, [0, 3, 7]).toDense(1)).to.deep.equal(masks.prefixLmCausal(7, 3).toDense());
    const spans = [
      [
        [1, 3],
        [4, 6],
      ],
      [],
      [[0, 7]],
    ];
    spans.forEach((row, b) =>
      expect(masks.qkSparse(7, spans).toDense(b)).to.deep.equal(masks.qkSparse(7, row).toDense()),
    );
    const hashes = [
      [1, 0, 1, 2],
      [2, 2, -1, 2],
    ];
    expect(masks.hashSparse(hashes).toDense(1)).to.deep.equal(masks.hashSparse(hashes[1]).toDense());
    const ids = [
      [0, 0, 3, -1],
      [1, 2, 2, 2],
    ];
    expect(masks.fromSegmentIds(ids, {causal: true}).toDense(1)).to.deep.equal(
      masks.fromSegmentIds(ids[1], {causal: true}).toDense(),
    );
  });

  it('padding sees nothing and is seen by none', () => {
    const short = [[3, 4], [9], [2]];
    const groups = short.map((row) => [row]);
    const inDocument: VisibleRule = (r, j, b = 0) =>
      documentOf(short[b], r) === documentOf(short[b], j) && documentOf(short[b], r) >= 0;
    expectRule(masks.document(short, {padTo: 9}), inDocument);
    expectRule(masks.causalDocument(short, {padTo: 9}), (r, j, b) => inDocument(r, j, b) && j <= r);
    expectRule(masks.prefixLmDocument(short, short, {padTo: 9}), inDocument);
    const sum = (row: number[]): number => row.reduce((a, b) => a + b);
    expectRule(masks.sharedQuestion(groups, {padTo: 9}), (r, j, b = 0) => j <= r && r < sum(short[b]));
  });

  it('typed arrays are lists too', () => {
    expect(masks.document(Int32Array.of(2, 3)).bounds).to.deep.equal(masks.document([2, 3]).bounds);
    expect(masks.document([Int32Array.of(2, 3)]).bounds).to.deep.equal(masks.document([2, 3]).bounds);
  });
});

describe('mask builders, more keys or more queries', () => {
  for (const [queryLength, keyLength] of [
    [1, 9],
    [3, 10],
    [10, 3],
    [7, 7],
    [1, 1],
    [5, 1],
  ]) {
    it(`${queryLength} queries, ${keyLength} keys: the queries are the last tokens`, () => {
      const at = (r: number): number => r + keyLength - queryLength;
      const options = {queryLength};
      expectRule(masks.full(keyLength, options), () => true);
      expectRule(masks.causal(keyLength, options), (r, j) => j <= at(r));
      expectRule(masks.slidingWindow(keyLength, 3, options), (r, j) => j <= at(r) && j > at(r) - 3);
      expectRule(masks.window(keyLength, [2, 1], options), (r, j) => j >= at(r) - 2 && j <= at(r) + 1);
      expectRule(masks.window(keyLength, 2, {queryLength, causal: true}), (r, j) => j >= at(r) - 2 && j <= at(r));
      expectRule(masks.window(keyLength, [Infinity, 1], options), (r, j) => j <= at(r) + 1);
      expectRule(masks.window(keyLength, [1, Infinity], options), (r, j) => j >= at(r) - 1);
      expectRule(masks.prefixLmCausal(keyLength, 1, options), (r, j) => j < 1 || j <= at(r));
    });
  }

  it('hashSparse and fromSegmentIds of random queries and keys', () => {
    const list = fc.array(fc.integer({min: 0, max: 3}), {minLength: 1, maxLength: 12});
    fc.assert(
      fc.property(list, list, fc.boolean(), (queries, keys, causal) => {
        const offset = keys.length - queries.length;
        const [queryAt, keyAt] = [hashOrder(queries), hashOrder(keys)];
        expectRule(
          masks.hashSparse(queries, keys),
          (r, j) => queries[queryAt[r]] === keys[keyAt[j]] && keyAt[j] <= queryAt[r] + offset,
        );
        // Sorted, the segments are next to each other, in ascending or descending order.
        const [ids, queryIds] = [
          [...keys].sort().map((id) => id - 1),
          [...queries]
            .sort()
            .reverse()
            .map((id) => id - 1),
        ];
        const visible: VisibleRule = (r, j) => ids[j] >= 0 && ids[j] === queryIds[r] && (!causal || j <= r + offset);
        expectRule(masks.fromSegmentIds(ids, {queryIds, causal}), visible);
      }),
      {seed: 1, numRuns: 300},
    );
  });
});

describe('randomEviction', () => {
  const mask = masks.randomEviction(40, 9, {heads: 3, batch: 2, seed: 5});

  it('every row sees itself and at most as many keys as stay, and no key comes back', () => {
    for (let b = 0; b < 2; b++) {
      for (let h = 0; h < 3; h++) {
        const dense = mask.toDense(b, h);
        for (let r = 0; r < 40; r++) {
          const row = dense.subarray(r * 40, (r + 1) * 40);
          expect(row.reduce((a, x) => a + x, 0)).to.equal(Math.min(r + 1, 9));
          expect(row[r]).to.equal(1);
          if (r > 0) row.forEach((x, j) => expect(x === 1 && j < r && dense[(r - 1) * 40 + j] === 0).to.equal(false));
        }
      }
    }
  });

  it('heads, batch rows and seeds differ; an equal seed is equal', () => {
    const drawn = [
      mask.toDense(0, 0),
      mask.toDense(0, 1),
      mask.toDense(1, 0),
      masks.randomEviction(40, 9, {seed: 6}).toDense(),
    ];
    expect(new Set(drawn.map((dense) => dense.join(''))).size).to.equal(4);
    expect(masks.randomEviction(40, 9, {heads: 3, batch: 2, seed: 5}).bounds).to.deep.equal(mask.bounds);
  });
});

/** The five packed rows of 8192 tokens of the paper's benchmark (umiswing/test_flashmask, kernel_test_seq_info.txt). */
const samples = [
  {lengths: [3145, 2203, 2844], prefixes: [885, 296, 528], dropped: [0, 1, 0]},
  {lengths: [2481, 1388, 1978, 2345], prefixes: [321, 245, 428, 357], dropped: [0, 0, 1, 0]},
  {lengths: [1041, 2718, 1420, 1191, 1822], prefixes: [245, 737, 391, 275, 328], dropped: [0, 1, 1, 0, 0]},
  {lengths: [1858, 872, 529, 2059, 1089, 1785], prefixes: [310, 218, 156, 340, 138, 416], dropped: [0, 1, 0, 0, 1, 0]},
  {
    lengths: [1144, 407, 1709, 1187, 1138, 915, 1692],
    prefixes: [114, 64, 483, 300, 168, 150, 490],
    dropped: [0, 0, 1, 0, 0, 1, 0],
  },
];
const S = 8192;

describe("the paper's masks", () => {
  /** Mean share of empty 128 × 128 tiles, the figure of the paper's tables. */
  function meanEmpty(build: (sample: (typeof samples)[number]) => FlashMask): number {
    const shares = samples.map((sample) => build(sample).sparsity({blockQ: 128, blockK: 128}).emptyTiles);
    return shares.reduce((a, b) => a + b) / shares.length;
  }

  const published: [string, number, (sample: (typeof samples)[number]) => FlashMask][] = [
    ['causal', 0.492, () => masks.causal(S)],
    ['slidingWindow', 0.924, () => masks.slidingWindow(S, S / 16)],
    ['causalDocument', 0.8625, ({lengths}) => masks.causalDocument(lengths)],
    ['globalSlidingWindow', 0.835, () => masks.globalSlidingWindow(S, S / 16, 16)],
    ['causalBlockwise', 0.673, ({lengths}) => masks.causalBlockwise(lengths)],
    ['prefixLmDocument', 0.856, ({lengths, prefixes}) => masks.prefixLmDocument(lengths, prefixes)],
    ['prefixLmCausal', 0.371, () => masks.prefixLmCausal(S, S / 2)],
    ['qkSparse', 0.52, ({lengths, dropped}) => masks.qkSparse(S, flaggedSpans(lengths, dropped))],
  ];

  function flaggedSpans(lengths: number[], dropped: number[]): number[][] {
    let end = 0;
    return lengths.map((length) => [end, (end += length)]).filter((_, i) => dropped[i] === 1);
  }

  for (const [name, sparsity, build] of published) {
    it(`${name} has the published sparsity at 8192, ${sparsity}`, () => {
      expect(meanEmpty(build)).to.be.closeTo(sparsity, 0.0012);
    });
  }

  it('document is a true one, unlike the published benchmark, whose upper ends are those of the next document', () => {
    for (const {lengths} of samples) {
      const mask = masks.document(lengths);
      const LTS = mask.bounds!.filter((_, i) => i % 2 === 0);
      const UTE = mask.bounds!.filter((_, i) => i % 2 === 1);
      let start = 0;
      for (const length of lengths) {
        const end = start + length;
        expect([LTS[start], UTE[start], LTS[end - 1], UTE[end - 1]]).to.deep.equal([end, start, end, start]);
        start = end;
      }
    }
    expect(meanEmpty(({lengths}) => masks.document(lengths))).to.be.closeTo(0.7405, 0.0001);
    const buggy = meanEmpty(({lengths}) => {
      const mask = masks.document(lengths);
      // Puts the end of a document less the first length where its start belongs.
      const bounds = mask.bounds!.map((bound, i, all) => (i % 2 === 0 ? bound : all[i - 1] - lengths[0]));
      return masks.fromStartEndRowIndices(bounds, {causal: false, shape: [1, 1, S, 2]});
    });
    expect(buggy).to.be.closeTo(0.7409, 0.0001);
  });

  it('the bounds of figure 1(b)(11), hash-sparse, draw its picture', () => {
    const LTS = [2, 2, 4, 5, 5, 8, 8, 9, 10, 10];
    const UTE = [0, 0, 1, 3, 4, 4, 5, 7, 8, 9];
    const mask = masks.fromStartEndRowIndices([[LTS.map((bound, j) => [bound, UTE[j]])]], {causal: false});
    expectRule(mask, (r, j) => r >= UTE[j] && r < LTS[j]);
    expect(mask.toString().split('\n').slice(1)).to.deep.equal([
      '██········',
      '███·······',
      '··█·······',
      '··██······',
      '···███····',
      '·····██···',
      '·····██···',
      '·····███··',
      '·······██·',
      '········██',
    ]);
  });
});
