/**
 * @file The documents: the `js` blocks of README.md and of four pages run in order in a user's project, the program of
 * docs/finetune.md trains, and its tables match the records.
 */
import {spawnSync} from 'node:child_process';
import {existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {expect} from 'chai';
import {format, resolveConfig} from 'prettier';
import {readRecords} from '../../bench/record_files.js';
import {finetuneSections} from '../../bench/tables/finetune.js';
import {writeInstructions, writeTinyModel} from '../support/finetune_tiny.js';
import {Project, root} from '../support/packed_project.js';

const read = (path: string): string => readFileSync(join(root, path), 'utf8');

/**
 * Joins all blocks into one module. Later blocks may use and declare again what a block declares, as for a reader who
 * types them one after the other: hence `var` at the start of a line.
 */
function moduleOf(markdown: string): string {
  const blocks = [...markdown.matchAll(/^```js\n([^]*?)^```$/gm)].map(([, code]) => code);
  const lines = blocks.flatMap((block) => block.split('\n'));
  const isImport = (line: string): boolean => line.startsWith('import ');
  // Two blocks import tfjs, one its namespace and one its default export: in Node the default export has all of the
  // namespace.
  const imports = new Set(lines.filter(isImport).filter((line) => !line.startsWith('import * as tf from')));
  const code = lines.filter((line) => !isImport(line)).map((line) => line.replace(/^(const|let) /, 'var '));
  return [...imports, ...code].join('\n');
}

describe('documents', () => {
  it("run: the README's code, and then that of the pages that go on from it", async () => {
    const pages = ['README.md', 'docs/comparison.md', 'docs/packages.md', 'docs/finetune.md', 'docs/layers.md'];
    const code = moduleOf(pages.map(read).join('\n'));
    expect(code).to.include('flashMaskAttention(q, k, v, mask)');
    const shapes = '[dq.shape, lse.shape, [...pair.toDense().slice(7 * 8)], Object.keys(grads).length]';
    const {stdout} = await new Project().run(
      'main.mjs',
      `${code}\nconsole.log('RESULT ' + JSON.stringify(${shapes}));\n`,
    );
    const results = JSON.parse(/RESULT (.*)/.exec(stdout)![1]) as unknown[];
    // The pair of docs/finetune.md, a prompt of 3 and answers of 3 and 2 tokens: the second answer sees the prompt and
    // itself.
    expect(results).to.deep.equal([[1, 1024, 8, 64], [1, 8, 1024], [1, 1, 1, 0, 0, 0, 1, 1], 2]);
  });

  it('train: the program of docs/finetune.md', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'flashmask-docs-'));
    try {
      const [, code] = /^```ts\n([^]*?)^```$/m.exec(read('docs/finetune.md'))!;
      // For a reader who saves the program, `.` is the root of this repository.
      writeFileSync(
        join(folder, 'tune.mts'),
        code.replaceAll("'./examples/", `'${pathToFileURL(root).href}/examples/`),
      );
      const model = join(folder, 'model');
      await writeTinyModel(model);
      const loader = pathToFileURL(join(root, 'node_modules/tsx/dist/loader.mjs')).href;
      const args = [`--import=${loader}`, 'tune.mts', model, writeInstructions(folder), '96', '3'];
      const {status, stdout, stderr} = spawnSync(process.execPath, args, {cwd: folder, encoding: 'utf8'});
      expect(status, stderr).to.equal(0);
      expect(stdout).to.match(/step 1 {2}loss \d\.\d{4}\nstep 2 {2}loss .*\nstep 3 {2}loss /);
      expect(existsSync(join(folder, 'adapter/adapter_model.safetensors'))).to.equal(true);
    } finally {
      rmSync(folder, {recursive: true, force: true});
    }
  });

  it('have the tables of the fine-tuning records', async () => {
    const config = await resolveConfig(join(root, 'README.md'));
    const folder = join(root, 'docs/benchmarks/finetune');
    const records = readdirSync(folder)
      .sort()
      .flatMap((file) => readRecords(join(folder, file)));
    for (const {name, text} of finetuneSections(records)) {
      const between = read('docs/finetune.md').split(new RegExp(`<!-- /?${name} -->`))[1];
      expect(between.trim(), name).to.equal((await format(text, {...config, parser: 'markdown'})).trim());
    }
  });
});
