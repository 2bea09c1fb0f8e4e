/** @file The TypeScript copies of the rules that each language has, against the shared vectors. */
import {expect} from 'chai';
import {dropoutOf, keepFactors, philox4x32} from '../../src/call/dropout.js';
import {type Problem, maskHeadOf} from '../../src/call/problem.js';
import {classifyTile} from '../../src/mask/bounds/classify.js';
import {intervalsAt} from '../../src/mask/bounds/intervals.js';
import {vectors} from '../support/vectors.js';

describe('shared vectors in TypeScript', () => {
  it('intervals of a column', () => {
    for (const {n, causal, bounds, intervals} of vectors('intervals')) {
      expect(intervalsAt(bounds, n, causal, 0), `${n} bounds ${bounds.join()}`).to.deep.equal(intervals);
    }
  });

  it('kinds of tiles', () => {
    for (const x of vectors('classify')) {
      const kind = classifyTile(x.map, 0, x.causal, x.r0, x.r1, x.c0, x.c1, x.Sk - x.Sq);
      expect(kind, JSON.stringify(x)).to.equal(x.kind);
    }
  });

  it('Philox', () => {
    const out = new Uint32Array(4);
    for (const {
      counter: [c0, c1, c2, c3],
      key: [k0, k1],
      words,
    } of vectors('philox')) {
      philox4x32(out, c0, c1, c2, c3, k0, k1);
      expect([...out]).to.deep.equal(words);
    }
  });

  it('dropout', () => {
    for (const x of vectors('dropout')) {
      const dropout = dropoutOf(x.rate, x.seed);
      expect(dropout.threshold).to.equal(x.threshold);
      const factors = new Float64Array(x.kept.length);
      keepFactors(factors, 0, dropout, x.batchHead, x.row, 0, factors.length);
      expect([...factors], JSON.stringify(x)).to.deep.equal(
        Array.from(x.kept, (digit) => (digit === '1' ? dropout.keepScale : 0)),
      );
    }
  });

  it('mask head of a query head', () => {
    for (const x of vectors('mask_head')) {
      expect(maskHeadOf(x as unknown as Problem, x.b, x.h), JSON.stringify(x)).to.equal(x.maskHead);
    }
  });
});
