/** @file Philox4x32-10 against the known answers of Random123, and the dropout factors computed from it. */
import {expect} from 'chai';
import {dropoutOf, keepFactors, philox4x32} from '../../src/call/dropout.js';

function philox(counter: number[], key: number[]): string {
  const out = new Uint32Array(4);
  philox4x32(out, counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return [...out].map((word) => word.toString(16).padStart(8, '0')).join(' ');
}

describe('philox4x32', () => {
  const ones = 0xffffffff;

  it('gives the known answers of Random123', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).to.equal('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    expect(philox([ones, ones, ones, ones], [ones, ones])).to.equal('408f276d 41c83b0e a20bc7c6 6d5451fd');
    const pi = philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
    expect(pi).to.equal('d16cfe09 94fdcceb 5001e420 24126ea1');
  });
});

describe('keepFactors', () => {
  const seed = 2 ** 40 + 12345;
  const row = (p: number, column: number, columns: number, batchHead = 3): number[] => {
    const out = new Float64Array(columns + 1).fill(-1);
    keepFactors(out, 1, dropoutOf(p, seed), batchHead, 7, column, columns);
    expect(out[0]).to.equal(-1);
    return [...out.subarray(1)];
  };

  it('splits the seed into two key words and compares as unsigned integers', () => {
    const words = new Uint32Array(4);
    philox4x32(words, 2, 7, 3, 0, 12345, 2 ** 8);
    const expected = [...words].map((word) => (word < Math.floor(0.7 * 2 ** 32) ? 0 : 1 / (1 - 0.7)));
    expect(row(0.7, 8, 4)).to.deep.equal(expected);
  });

  it('depends on the column alone, not on where a tile begins or ends', () => {
    const whole = row(0.5, 0, 64);
    for (const [first, count] of [
      [1, 3],
      [2, 1],
      [5, 30],
      [61, 3],
    ]) {
      expect(row(0.5, first, count), `${first} +${count}`).to.deep.equal(whole.slice(first, first + count));
    }
    expect(row(0.5, 0, 64, 4)).to.not.deep.equal(whole);
  });

  it('drops the asked fraction and keeps the mean', () => {
    const n = 40000;
    const dropped = row(0.3, 0, n).filter((f) => f === 0).length / n;
    expect(dropped).to.be.within(0.29, 0.31);
    expect(row(0, 0, 100)).to.deep.equal(new Array(100).fill(1));
  });
});
