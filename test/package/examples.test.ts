/**
 * @file `npx tfjs-flashmask example`, and the examples that it copies, as a user has them: out of the packed package.
 * Those in Node run here, on tfjs's cpu backend; test/site has the pages, test/layers Keras's.
 */
import {existsSync, readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {expect} from 'chai';
import {devices} from '../support/devices.js';
import {type Finished, Project, root} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

const SOURCES = join(root, 'examples');
const names = readdirSync(SOURCES).filter((name) => existsSync(join(SOURCES, name, 'package.json')));

interface Manifest {
  description: string;
  scripts: Record<string, string>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}

const manifestOf = (folder: string): Manifest =>
  JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;

/** What the programs of an example print. */
const PRINTS: Record<string, RegExp> = {
  'custom_model/custom_model.mjs': /^loss (\d\.\d+) -> (\d\.\d+)\nthe loaded model guesses \d+ % of the tokens$/,
  'decoding/decoding.mjs': /^generateWithCache: \d+ tokens\/s\ngenerateWithout: \d+ tokens\/s\nthe same text: true$/,
  'packed_training/packed_training.mjs':
    /^12 texts in 4 rows, 78 % of them tokens\nloss (\d\.\d+) -> (\d\.\d+), \d+ tokens\/s$/,
  'sliding_window/sliding_window.mjs':
    /^(?:\d+ tokens read, 15872 bytes of keys and values\n){3}largest difference .*: [0-9.]+e[-+]\d$/,
  'sft_dpo/sft.ts':
    /^8 samples in 2 rows of 64 tokens\nepoch 1: loss (\d\.\d+)\nepoch 2: .*\nepoch 3: loss (\d\.\d+)\nFrance.*\nsaved in my-model$/,
  // Without a difference to the reference the loss is log 2.
  'sft_dpo/dpo.ts':
    /^6 pairs in 2 rows of 64 tokens\nepoch 1: loss (0\.6931), .* 0\.0000\n(?:.*\n){2}epoch 4: loss (0\.\d+), rewards\/accuracies [01]\.\d+, rewards\/margins 0\.\d+\nsaved in model-dpo$/,
};

/** The programs' arguments. */
const ARGUMENTS: Record<string, string[]> = {
  'sft_dpo/sft.ts': ['my-model', '', '3'],
  'sft_dpo/dpo.ts': ['my-model', 'model-dpo', '', '4'],
};

describe('examples', () => {
  let project: Project;
  const command = (...args: string[]): Promise<Finished> =>
    project.start(['node_modules/tfjs-flashmask/dist/cli/main.js', 'example', ...args]);

  before(async () => {
    project = new Project();
    project.link('tsx');
    for (const name of names) {
      const {code, stdout, stderr} = await command(name);
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(new RegExp(`^Copied ${name} into ${name}: .*package.json.*\nNext:\n  cd ${name}\n  .`));
    }
  });

  it('are listed with a line each', async () => {
    const {code, stdout} = await command();
    expect(code).to.equal(0);
    const lines = names.map((name) => new RegExp(`^  ${name} +${manifestOf(join(SOURCES, name)).description}$`, 'm'));
    lines.forEach((line) => expect(stdout).to.match(line));
    expect(stdout).to.match(/\n\nnpx tfjs-flashmask example NAME \[folder\] copies one\.\n$/);
  });

  it('are copied whole, with the versions that the tests use', () => {
    const own = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest & {version: string};
    const nested = manifestOf(join(root, 'test/tfjs_node'));
    const versions = {...own.devDependencies, ...nested.dependencies, 'tfjs-flashmask': own.version};
    for (const name of names) {
      const [source, copy] = [join(SOURCES, name), join(project.folder, name)];
      expect(readdirSync(copy).sort()).to.deep.equal(readdirSync(source).sort());
      const {dependencies, devDependencies, ...rest} = manifestOf(copy);
      expect(rest).not.to.have.property('tfjs-flashmask');
      expect(versions).to.include({...dependencies, ...devDependencies});
    }
  });

  it('never overwrite: the folder must be new or empty', async () => {
    const {code, stdout, stderr} = await command('decoding');
    expect([code, stdout]).to.deep.equal([1, '']);
    expect(stderr).to.match(
      /^example decoding: the folder must be new or empty, .* got .*\/decoding \(it has decoding\.mjs\)\. Name another one: npx tfjs-flashmask example decoding FOLDER\n$/,
    );
    const file = await command('decoding', 'package.json');
    expect(file.stderr).to.match(/new or empty, .* got .*\/package\.json \(EEXIST.*\)\. Name another/);
    expect(readFileSync(join(project.folder, 'package.json'), 'utf8')).to.include('a-project');
    const another = await command('decoding', 'a/b');
    expect(another.stdout).to.include('Copied decoding into a/b: decoding.mjs, package.json\nNext:\n  cd a/b\n');
  });

  it('are named where there is none of the name', async () => {
    const {code, stderr} = await command('decode');
    expect(code).to.equal(1);
    expect(stderr).to.match(/^example: NAME must be one of the examples, got 'decode'\. There are:\n/);
    names.forEach((name) => expect(stderr).to.include(`\n  ${name} `));
  });

  it('have fewer than 120 lines a file', () => {
    const long = names.flatMap((name) =>
      readdirSync(join(SOURCES, name)).filter(
        (file) => readFileSync(join(SOURCES, name, file), 'utf8').split('\n').length >= 120,
      ),
    );
    expect(long).to.deep.equal([]);
  });

  describe('in Node', () => {
    let printed: Record<string, string>;

    before(async () => {
      // One process: they start once.
      const lines = Object.keys(PRINTS).map((file) => {
        const args = JSON.stringify(ARGUMENTS[file] ?? []);
        return `console.log('FILE ${file}');\nprocess.argv.splice(2, 9, ...${args});\nawait import('./${file}');`;
      });
      const {stdout, stderr, code} = await project.start(['--import=tsx', project.write('all.mjs', lines.join('\n'))]);
      expect(code, stderr).to.equal(0);
      const parts = stdout.split('FILE ').slice(1);
      printed = Object.fromEntries(parts.map((text) => [text.split('\n', 1)[0], text.replace(/.*\n/, '').trim()]));
    });

    for (const [file, pattern] of Object.entries(PRINTS)) {
      it(`${file} runs${file.includes('decod') || file.includes('sliding') ? '' : ' and learns'}`, () => {
        const [name, program] = file.split('/');
        expect(Object.values(manifestOf(join(SOURCES, name)).scripts)).to.satisfy((scripts: string[]) =>
          scripts.some((script) => script === `${program.endsWith('.ts') ? 'tsx' : 'node'} ${program}`),
        );
        const found = pattern.exec(printed[file]);
        expect(found, printed[file]).not.to.equal(null);
        const [, before, after] = found!;
        if (before) expect(Number(after)).to.be.below(Number(before));
      });
    }

    it('node_webgpu runs, on whatever WebGPU finds', async function () {
      const webgpu = devices.find(({name}) => name === 'webgpu')!;
      if (webgpu.skip) skip(this, webgpu.skip);
      const {stdout, stderr, code} = await project.start(['node_webgpu/node_webgpu.mjs']);
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/^\d texts, \d+ tokens, \d+ % of the pairs masked\nflashMaskAttention [\d.]+ ms, dense/);
      expect(Number(/gradients (.*)/.exec(stdout)![1])).to.be.below(1e-4);
    });

    it('tfjs_node learns, and saves files', async function () {
      const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
      if (tensorflow.skip) skip(this, tensorflow.skip);
      const env = {FLASHMASK_ADDON: join(root, 'build/Release/tfjs_flashmask.node'), CUDA_VISIBLE_DEVICES: '-1'};
      const {stdout, stderr, code} = await project.start(
        ['tfjs_node/tfjs_node.mjs', join(project.folder, 'waves')],
        env,
      );
      expect(code, stderr).to.equal(0);
      const [, after] = /^native kernels: .*\nsquared error .* -> (\d\.\d+), .*\nsaved in .* differs by 0\n$/.exec(
        stdout,
      )!;
      expect(Number(after)).to.be.below(0.1);
    });
  });

  it('of TypeScript pass a strict check', async () => {
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const {stdout, code} = await project.start([tsc, '-p', 'sft_dpo']);
    expect(code, stdout).to.equal(0);
  });
});
