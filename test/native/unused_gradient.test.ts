import {expect} from 'chai';
import {isUnusedGradient} from '../../src/backends/tensorflow/unused_gradient.js';

describe('a gradient of zeros', () => {
  const zerosBut = (length: number, at?: number): Float32Array => {
    const values = new Float32Array(length);
    if (at !== undefined) values[at] = 1e-45;
    return values;
  };

  it('counts as unused, whatever its length', () => {
    for (const length of [1, 2, 3, 1000]) expect(isUnusedGradient(zerosBut(length)), String(length)).to.equal(true);
    expect(isUnusedGradient(zerosBut(10, 3).subarray(4, 9))).to.equal(true);
  });

  it('does not if one value is another number, or if its values are not on the host', () => {
    for (const at of [0, 1, 498, 999]) expect(isUnusedGradient(zerosBut(1000, at)), String(at)).to.equal(false);
    expect(isUnusedGradient(zerosBut(1, 0))).to.equal(false);
    expect(isUnusedGradient(new Float32Array(8).fill(NaN))).to.equal(false);
    expect(isUnusedGradient(new Float32Array(8).fill(2))).to.equal(false);
    expect(isUnusedGradient(null)).to.equal(false);
  });
});
