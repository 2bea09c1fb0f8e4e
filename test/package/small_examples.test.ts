/** @file The small examples, as a user has them: in a project with the packed package, on tfjs's cpu backend. */
import {readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {expect} from 'chai';
import {Project, root} from '../support/packed_project.js';

const folder = join(root, 'examples/small');
const names = readdirSync(folder).filter((name) => name.endsWith('.mjs'));

/** What an example prints. */
const PRINTS: Record<string, RegExp> = {
  'custom_model.mjs': /^loss (\d\.\d+) -> (\d\.\d+)\nthe loaded model guesses \d+ % of the tokens$/,
  'decoding.mjs': /^generateWithCache: \d+ tokens\/s\ngenerateWithout: \d+ tokens\/s\nthe same text: true$/,
  'packed_training.mjs': /^12 texts in 4 rows, 78 % of them tokens\nloss (\d\.\d+) -> (\d\.\d+), \d+ tokens\/s$/,
  'sliding_window.mjs': /^(\d+ tokens read, 15872 bytes of keys and values\n){3}largest difference .*: [0-9.]+e[-+]\d$/,
};

describe('small examples', () => {
  let parts: Record<string, string>;

  before(async () => {
    const project = new Project();
    for (const name of names) project.write(name, readFileSync(join(folder, name), 'utf8'));
    // One process: they start once.
    const lines = names.map((name) => `console.log('FILE ${name}');\nawait import('./${name}');`);
    const {stdout, stderr, code} = await project.run('all.mjs', lines.join('\n'));
    expect(code, stderr).to.equal(0);
    const files = stdout.split('FILE ').slice(1);
    parts = Object.fromEntries(
      files.map((text) => [text.split('\n', 1)[0], text.split('\n').slice(1).join('\n').trim()]),
    );
  });

  it('are those that are tested', () => {
    expect(names.sort()).to.deep.equal(Object.keys(PRINTS).sort());
  });

  for (const [name, pattern] of Object.entries(PRINTS)) {
    it(`${name} runs, in under 120 lines`, () => {
      expect(readFileSync(join(folder, name), 'utf8').split('\n').length).to.be.below(120);
      const printed = pattern.exec(parts[name]);
      expect(printed, parts[name]).not.to.equal(null);
      const [, before, after] = printed!;
      if (name.includes('model') || name.includes('training')) expect(Number(after)).to.be.below(Number(before));
    });
  }
});
