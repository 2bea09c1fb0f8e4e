/**
 * @file Compares generated WGSL with the goldens in test/webgpu/golden, so that a review sees how a change of a
 * generator changes its shaders.
 */
import {existsSync, readFileSync, readdirSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {variantFor, goldens} from '../../scripts/wgsl.js';
import {allShaders} from '../../src/backends/webgpu/wgsl/all_shaders.js';

const folder = new URL('golden/', import.meta.url);
const REMEDY = 'If the change is meant, run `npm run wgsl -- --update` and look at the difference.';

describe('shaders as text', () => {
  for (const {file, code} of goldens()) {
    it(file, () => {
      const path = new URL(file, folder);
      expect(existsSync(path) ? readFileSync(path, 'utf8') : '', `${fileURLToPath(path)}: ${REMEDY}`).to.equal(code);
    });
  }

  it('no golden is left of a shader that is gone', () => {
    expect(readdirSync(folder).sort()).to.deep.equal(
      goldens()
        .map(({file}) => file)
        .sort(),
    );
  });

  it('names of shaders differ', () => {
    const names = allShaders.map(({name}) => name);
    expect(new Set(names).size).to.equal(names.length);
  });

  it('keys tell variants apart, and ignore what a shader does not depend on', () => {
    expect(variantFor('delta', {Dv: 8}).key).to.equal('delta Dv=8');
    expect(variantFor('delta', {Dv: 8, rounded: true}).key).to.equal('delta Dv=8 rounded');
    expect(variantFor('delta', {Dv: 8, causal: false})).to.equal(variantFor('delta', {Dv: 8}));
    expect(variantFor('magnitude', {names: ['q', 'k']}).key).to.match(/^magnitude names=qxk D=64/);
  });

  it('the command names what it does not know', () => {
    expect(() => variantFor('backward')).to.throw(/wgsl: NAME must be among copy_rows, .*got 'backward'/);
    expect(() => variantFor('delta', {width: 3})).to.throw(/wgsl: fields of delta must be among Dv, .*got 'width'/);
  });
});
