/** @file How examples/finetune chooses the next token. */
import {expect} from 'chai';
import {chooseToken, draw, warpedProbabilities} from '../../examples/finetune/model/sampling.js';

/** Logits with these probabilities. */
const logitsOf = (...probabilities: number[]): Float32Array => Float32Array.from(probabilities, Math.log);

function rounded(probabilities: Float64Array): number[] {
  return Array.from(probabilities, (p) => Math.round(p * 1e6) / 1e6);
}

describe('sampling', () => {
  it('takes the first of the most likely tokens at temperature 0', () => {
    expect(chooseToken(Float32Array.of(1, 5, 5, 2), {temperature: 0, topP: 1}, 0.99)).to.equal(1);
  });

  it('divides logits by the temperature', () => {
    const logits = logitsOf(0.1, 0.2, 0.7);
    expect(rounded(warpedProbabilities(logits, {temperature: 1, topP: 1}))).to.deep.equal([0.1, 0.2, 0.7]);
    // The squares of the probabilities, normalised to sum to 1.
    const sharp = [0.01, 0.04, 0.49].map((p) => Math.round((p / 0.54) * 1e6) / 1e6);
    expect(rounded(warpedProbabilities(logits, {temperature: 0.5, topP: 1}))).to.deep.equal(sharp);
  });

  it('takes the most likely token at any tiny temperature', () => {
    for (const temperature of [1e-30, 1e-310]) {
      const probabilities = warpedProbabilities(Float32Array.of(-3, 20, 30, 29), {temperature, topP: 0.9, topK: 3});
      expect([...probabilities]).to.deep.equal([0, 0, 1, 0]);
    }
  });

  it('keeps the fewest tokens that reach top-p, one at least', () => {
    const logits = logitsOf(0.05, 0.5, 0.15, 0.3);
    const keep = (topP: number): number[] => rounded(warpedProbabilities(logits, {temperature: 1, topP}));
    expect(keep(1)).to.deep.equal([0.05, 0.5, 0.15, 0.3]);
    expect(keep(0.81)).to.deep.equal([0, 0.526316, 0.157895, 0.315789]);
    expect(keep(0.79)).to.deep.equal([0, 0.625, 0, 0.375]);
    expect(keep(0.49)).to.deep.equal([0, 1, 0, 0]);
    expect(keep(1e-9)).to.deep.equal([0, 1, 0, 0]);
  });

  it('keeps the top k tokens and those as likely as the last of them, before top-p', () => {
    const logits = logitsOf(0.2, 0.4, 0.2, 0.1, 0.1);
    const keep = (topK: number, topP = 1): number[] =>
      rounded(warpedProbabilities(logits, {temperature: 1, topP, topK}));
    expect(keep(1)).to.deep.equal([0, 1, 0, 0, 0]);
    expect(keep(2)).to.deep.equal([0.25, 0.5, 0.25, 0, 0]);
    expect(keep(99)).to.deep.equal([0.2, 0.4, 0.2, 0.1, 0.1]);
    // The likeliest of the three remaining tokens has probability 0.5, more than topP.
    expect(keep(3, 0.45)).to.deep.equal([0, 1, 0, 0, 0]);
  });

  it('draws a token where the running sum passes the random number', () => {
    const probabilities = Float64Array.of(0, 0.25, 0, 0.5, 0.25, 0);
    expect([0, 0.2, 0.25, 0.74, 0.75, 0.99].map((x) => draw(probabilities, x))).to.deep.equal([1, 1, 3, 3, 4, 4]);
    // A sum that rounding left below 1 must not run past the end.
    expect(draw(Float64Array.of(0.5, 0.5 - 1e-9, 0), 1 - 1e-12)).to.equal(1);
  });
});
