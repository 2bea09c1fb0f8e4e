/** @file The packed package has the shaders of the sources: the build drops only comments and white space of WGSL. */
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {expect} from 'chai';
import {EXAMPLES, type Fields, exampleOf} from '../../scripts/wgsl.js';
import type {Shader} from '../../src/backends/webgpu/wgsl/shader.js';
import {Project} from '../support/packed_project.js';

const REGISTRY = 'node_modules/tfjs-flashmask/dist/esm/src/backends/webgpu/wgsl/all_shaders.js';

const textOf = (shader: Shader<Fields>, values: Fields): string => shader.declarations(values) + shader.body(values);
const withoutComments = (text: string): string => text.replace(/\/\/.*/g, '').replace(/\s+/g, '');

describe('WGSL of the package', () => {
  let packed: readonly Shader<Fields>[];

  before(async () => {
    const {allShaders} = (await import(pathToFileURL(join(new Project().folder, REGISTRY)).href)) as {
      allShaders: readonly Shader<Fields>[];
    };
    packed = allShaders;
  });

  for (const [name, fields] of EXAMPLES) {
    it(`${name} ${JSON.stringify(fields)}`, () => {
      const {shader, values} = exampleOf(name, fields);
      const own = packed.find((one) => one.name === name)!;
      expect(Object.keys(own.fields)).to.deep.equal(Object.keys(shader.fields));
      expect(own.bindings(values)).to.deep.equal(shader.bindings(values));
      expect(withoutComments(textOf(own, values))).to.equal(withoutComments(textOf(shader, values)));
    });
  }

  it('takes fewer bytes', () => {
    const {shader, values} = exampleOf('forward');
    const own = packed.find(({name}) => name === 'forward')!;
    expect(textOf(own, values).length).to.be.below(textOf(shader, values).length);
  });
});
