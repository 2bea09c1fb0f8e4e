/**
 * @file The oracle on calls small enough to compute by hand, the Philox reference on its published vectors, and the
 * comparison.
 */
import {expect} from 'chai';
import {type ActualResult, compare} from '../support/compare.js';
import {type AttentionCall, type OracleResult, oracle, visibleByBounds} from '../support/oracle.js';
import {keptPairs, philox} from '../support/philox_reference.js';

/** Two queries, two keys, one channel: scores [[0, ln 3], [0, 0]] without scale. */
const twoByTwo: AttentionCall = {
  B: 1,
  H: 1,
  Hkv: 1,
  Sq: 2,
  Sk: 2,
  D: 1,
  Dv: 1,
  layout: 'bshd',
  q: [Math.log(3), 0],
  k: [0, 1],
  v: [4, 8],
  dOut: [1, 1],
  dLse: [0, 0],
  scale: 1,
  dropout: 0,
  visible: () => true,
  kept: () => true,
};

describe('oracle', () => {
  it('weighs 1/4 and 3/4 by hand', () => {
    const {out, lse, dv, dq, dk} = oracle(twoByTwo);
    expect(out[0]).to.be.closeTo(7, 1e-12);
    expect(out[1]).to.be.closeTo(6, 1e-12);
    expect(lse[0]).to.be.closeTo(Math.log(4), 1e-12);
    expect(lse[1]).to.be.closeTo(Math.log(2), 1e-12);
    expect(Array.from(dv)).to.satisfy((x: number[]) => Math.abs(x[0] - 0.75) + Math.abs(x[1] - 1.25) < 1e-12);
    // dS of row 0: [1/4 (4 - 7), 3/4 (8 - 7)] = [-3/4, 3/4]; of row 1: [-1, 1].
    expect(dq[0]).to.be.closeTo(0.75, 1e-12);
    expect(dq[1]).to.be.closeTo(1, 1e-12);
    expect(dk[0]).to.be.closeTo(-0.75 * Math.log(3), 1e-12);
    expect(dk[1]).to.be.closeTo(0.75 * Math.log(3), 1e-12);
  });

  it('gives 0 and -Infinity for a row without keys, and nothing flows through it', () => {
    const {out, lse, dq, dk, dv} = oracle({...twoByTwo, dLse: [5, 0], visible: (_b, _h, r) => r === 1});
    expect(out[0]).to.equal(0);
    expect(lse[0]).to.equal(-Infinity);
    expect(dq[0]).to.equal(0);
    expect(Array.from(dv)).to.deep.equal([0.5, 0.5]);
    expect(Array.from(dk, Math.abs)).to.deep.equal([0, 0]);
  });

  it('lets NaN through visible pairs alone', () => {
    // Row 0 sees key 0 alone, row 1 sees key 1 alone.
    const apart = {...twoByTwo, visible: (_b: number, _h: number, r: number, j: number) => r === j};
    const {out, lse, dq, dk, dv} = oracle({...apart, q: [NaN, 0], v: [4, 8], dOut: [1, 1]});
    for (const x of [out, lse, dq, dk, dv]) expect(Array.from(x, Number.isNaN)).to.deep.equal([true, false]);
    // A value influences the output, and through dOut·out the gradients of scores, but no weight.
    const spoilt = oracle({...apart, v: [NaN, 8]});
    for (const x of [spoilt.out, spoilt.dq, spoilt.dk])
      expect(Array.from(x, Number.isNaN)).to.deep.equal([true, false]);
    for (const x of [spoilt.lse, spoilt.dv]) expect(Array.from(x, Number.isNaN)).to.deep.equal([false, false]);
  });

  it('takes the log-sum-exp before dropout and divides what is kept', () => {
    const {out, lse} = oracle({...twoByTwo, dropout: 0.5, kept: (_b, _h, _r, j) => j === 1});
    expect(lse[0]).to.be.closeTo(Math.log(4), 1e-12);
    expect(out[0]).to.be.closeTo(12, 1e-12);
  });

  it('reads the four forms of bounds as the definition says', () => {
    const picture = (causal: boolean, bounds: number[]) => {
      const visible = visibleByBounds({data: bounds, maskB: 1, Hm: 1, n: bounds.length, causal}, {H: 1, Sq: 6, Sk: 6});
      return Array.from({length: 6}, (_, r) => (visible(0, 0, r, 0) ? '#' : '.')).join('');
    };
    expect(picture(true, [2])).to.equal('##....');
    expect(picture(true, [2, 4])).to.equal('##..##');
    expect(picture(false, [4, 2])).to.equal('..##..');
    expect(picture(false, [1, 2, 4, 9])).to.equal('#.##..');
    expect(picture(false, [4, 9, 1, 2])).to.equal('#.##..');
    expect(picture(false, [4, 2, -7, 1])).to.equal('.#####');
  });

  it('aligns the causal triangle at the bottom right', () => {
    const rows = (Sq: number, Sk: number) => {
      const visible = visibleByBounds({data: [], maskB: 1, Hm: 1, n: 0, causal: true}, {H: 1, Sq, Sk});
      return Array.from({length: Sq}, (_, r) =>
        Array.from({length: Sk}, (_, j) => (visible(0, 0, r, j) ? '#' : '.')).join(''),
      );
    };
    expect(rows(2, 4)).to.deep.equal(['###.', '####']);
    expect(rows(4, 2)).to.deep.equal(['..', '..', '#.', '##']);
  });
});

describe('reference generator', () => {
  // Known answers of philox4x32-10 from the Random123 distribution (tests/kat_vectors).
  const known: [bigint[], bigint[], bigint[]][] = [
    [
      [0n, 0n, 0n, 0n],
      [0n, 0n],
      [0x6627e8d5n, 0xe169c58dn, 0xbc57ac4cn, 0x9b00dbd8n],
    ],
    [
      [0xffffffffn, 0xffffffffn, 0xffffffffn, 0xffffffffn],
      [0xffffffffn, 0xffffffffn],
      [0x408f276dn, 0x41c83b0en, 0xa20bc7c6n, 0x6d5451fdn],
    ],
    [
      [0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n],
      [0xa4093822n, 0x299f31d0n],
      [0xd16cfe09n, 0x94fdccebn, 0x5001e420n, 0x24126ea1n],
    ],
  ];

  it('matches the published vectors', () => {
    for (const [counter, key, answer] of known) {
      expect(philox(counter as [bigint, bigint, bigint, bigint], key as [bigint, bigint])).to.deep.equal(answer);
    }
  });

  it('drops the asked fraction of pairs', () => {
    const kept = keptPairs(1, 0.3, 12345);
    let dropped = 0;
    for (let r = 0; r < 100; r++) {
      for (let j = 0; j < 100; j++) {
        dropped += kept(0, 0, r, j) ? 0 : 1;
      }
    }
    expect(dropped / 10000).to.be.closeTo(0.3, 0.02);
  });
});

describe('comparison', () => {
  const exact = oracle({...twoByTwo, visible: (_b, _h, r) => r === 1});
  const dense: OracleResult = {...exact, out: exact.out.map((x) => x + 1e-6)};
  const check = (actual: ActualResult) => () => compare(actual, exact, dense);

  it('accepts up to twice the error of dense attention', () => {
    expect(check({out: exact.out.map((x, i) => (i === 1 ? x + 1.9e-6 : x))})).not.to.throw();
  });

  it('refuses more than twice', () => {
    const wrong = exact.out.map((x, i) => (i === 1 ? x + 6e-6 : x));
    expect(check({out: wrong})).to.throw(/^out: largest error 6\.00e-6/);
  });

  it('refuses an error in a row to which nothing is added', () => {
    expect(check({out: [1e-30, exact.out[1]]})).to.throw(/must be exact/);
  });

  it('refuses NaN, a wrong infinity, and a wrong length', () => {
    expect(check({out: [0, NaN]})).to.throw(/exact or finite/);
    expect(check({lse: [Infinity, exact.lse[1]]})).to.throw(/expected -Infinity/);
    expect(check({lse: [-1e30, exact.lse[1]]})).to.throw(/expected -Infinity/);
    expect(check({lse: [-Infinity, -Infinity]})).to.throw(/exact or finite/);
    expect(check({out: [0]})).to.throw(/1 elements, expected 2/);
  });

  it('refuses to judge where dense attention is not finite', () => {
    const broken = {...exact, out: exact.out.map(() => NaN)};
    expect(() => compare({out: exact.out}, exact, broken)).to.throw(/gives no tolerance/);
  });
});
