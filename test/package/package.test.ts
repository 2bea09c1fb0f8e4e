/**
 * @file The packed package in users' projects: TypeScript, ES modules, CommonJS, a bundled page, a script tag; imported
 * twice and next to a second tfjs-core. Every project computes the same attention, which is compared with the float64
 * oracle.
 */
import {spawnSync} from 'node:child_process';
import {cpSync} from 'node:fs';
import {join} from 'node:path';
import {expect} from 'chai';
import {build} from 'esbuild';
import {oracle} from '../support/oracle.js';
import {type Finished, Project, packedTarball, root} from '../support/packed_project.js';

const SIZES = {B: 1, H: 2, Hkv: 1, Sq: 6, Sk: 6, D: 4, Dv: 4, layout: 'bshd'} as const;

/** The code of each project after its imports: packed documents of 2 and 4 tokens. */
const ATTEND = `
const wave = (shape, step) =>
  tf.tensor4d(Float32Array.from({length: shape.reduce((a, b) => a * b)}, (_, i) => Math.sin(step * i)), shape);
const q = wave([1, 6, 2, 4], 1), k = wave([1, 6, 1, 4], 2), v = wave([1, 6, 1, 4], 3);
const mask = masks.causalDocument([2, 4]);
`;

/** The end of each project: prints the numbers of what it calls \`out\`. */
const PRINT = `out.data().then((data) => console.log('RESULT ' + JSON.stringify([...data])));\n`;

const TYPESCRIPT = `
import * as tf from '@tensorflow/tfjs';
import {FlashMask, flashMaskAttention, masks, toSVG} from 'tfjs-flashmask';
import type {FlashMaskAttentionOptions} from 'tfjs-flashmask';
import {createWebGPUBackend, type CreateWebGPUBackendOptions} from 'tfjs-flashmask/webgpu';
import * as withOp from 'tfjs-flashmask/tf';
import {useWebGPU, type WebGPUInfo} from 'tfjs-flashmask/node-webgpu';
import {nativeInfo, setThreads, type NativeInfo} from 'tfjs-flashmask/node';
import {FlashMaskMultiHeadAttention, type MaskConfig} from 'tfjs-flashmask/layers';
import 'tfjs-flashmask/einsum-gradient';

const wave = (shape: [number, number, number, number], step: number): tf.Tensor4D =>
  tf.tensor4d(Float32Array.from({length: shape.reduce((a, b) => a * b)}, (_, i) => Math.sin(step * i)), shape);
const options: FlashMaskAttentionOptions = {dropout: 0, precision: 'float32'};
const ask: CreateWebGPUBackendOptions = {setBackend: false};
export const unused: [() => Promise<WebGPUInfo>, () => Promise<{device: GPUDevice}>] = [useWebGPU, () => createWebGPUBackend(ask)];

async function main(): Promise<void> {
  const native: NativeInfo = nativeInfo();
  if (native.path !== null && native.threads < 1) throw new Error();
  setThreads(0);
  await tf.setBackend('cpu');
  const q = wave([1, 6, 2, 4], 1), k = wave([1, 6, 1, 4], 2), v = wave([1, 6, 1, 4], 3);
  const mask: FlashMask = masks.causalDocument([2, 4]);
  if (!toSVG(mask).startsWith('<svg')) throw new Error();
  const [first, lse]: [tf.Tensor4D, tf.Tensor3D] = flashMaskAttention(q, k, v, mask, {...options, returnLogSumExp: true});
  lse.dispose();
  const same: tf.Tensor4D = withOp.flashMaskAttention(q, k, v, mask);
  const chained: tf.Tensor4D = q.flashMaskAttention(k, v, mask);
  chained.dispose();
  const window: MaskConfig = {builder: 'slidingWindow', args: [2]};
  const layer: tf.layers.Layer = new FlashMaskMultiHeadAttention({numHeads: 2, keyDim: 4, mask: window});
  const attended = layer.apply(tf.zeros([1, 6, 3])) as tf.Tensor;
  if (attended.shape.join() !== '1,6,3') throw new Error();
  // @ts-expect-error -- this builder wants a number
  const wrong: MaskConfig = {builder: 'slidingWindow', args: ['2']};
  if (wrong.builder !== window.builder) throw new Error();
  // @ts-expect-error -- a text is no mask
  const refused = () => flashMaskAttention(q, k, v, 'causal');
  if (typeof refused !== 'function') throw new Error();
  for (const out of [first, same]) console.log('RESULT ' + JSON.stringify([...(await out.data())]));
}
void main();
`;

/** Makes Node's globals look like a page's, so that code bundled for pages runs. */
const PAGE = `
import {parseHTML} from 'linkedom';
const {window, document} = parseHTML('<html><body></body></html>');
Object.assign(globalThis, {window, document});
`;

const wave = (length: number, step: number) => Float32Array.from({length}, (_, i) => Math.sin(step * i));

function expectedOut(): Float64Array {
  const visible = (_b: number, _h: number, r: number, j: number) => j <= r && j < 2 === r < 2;
  const [q, k, v] = [wave(48, 1), wave(24, 2), wave(24, 3)];
  const dOut = new Float32Array(48);
  const dLse = new Float32Array(12);
  return oracle({...SIZES, q, k, v, dOut, dLse, scale: 0.5, dropout: 0, visible, kept: () => true}).out;
}

function expectAttention({stdout}: Finished, times = 1): void {
  const results = [...stdout.matchAll(/RESULT (.*)/g)].map(([, json]) => JSON.parse(json) as number[]);
  expect(results).to.have.length(times);
  for (const result of results) {
    expect(result).to.have.length(expectedOut().length);
    expectedOut().forEach((value, i) => expect(result[i]).to.be.closeTo(value, 1e-6));
  }
}

/** tfjs 4.22's own declarations fail a strict check of libraries; all other declarations must pass. */
function errorsOutsideTfjs(output: string): string[] {
  const errors = output.split('\n').filter((line) => /error TS\d+/.test(line));
  return errors.filter((line) => !line.includes('node_modules/@tensorflow/tfjs'));
}

describe('the packed package', () => {
  it('holds what its users need and nothing else', () => {
    const {stdout} = spawnSync('tar', ['-tzf', packedTarball()], {encoding: 'utf8'});
    const files = stdout.trim().split('\n');
    const root = ['LICENSE', 'README.md', 'CHANGELOG.md', 'package.json'];
    const native = [
      'native/attention.h',
      'native/node/addon.cc',
      'native/node/exports.map',
      'scripts/build_native.mjs',
    ];
    for (const needed of [
      ...root,
      ...native,
      'dist/tfjs-flashmask.min.js',
      'dist/node/node.js',
      'dist/cli/main.js',
      'examples/vite/package.json',
      'dist/THIRD_PARTY_LICENSES',
    ]) {
      expect(files).to.include(`package/${needed}`);
    }
    const others = files.filter(
      (name) =>
        !/^package\/((dist|native)\/|examples\/\w+\/[\w.]+$|scripts\/build_native\.mjs$|[A-Z]+(\.md)?$|package\.json$)/.test(
          name,
        ),
    );
    expect(others).to.deep.equal([]);
  });

  it('works in a strict TypeScript project, as ES modules and as CommonJS', async () => {
    for (const type of ['module', 'commonjs']) {
      const project = new Project({type});
      project.write('main.ts', TYPESCRIPT);
      const options = {strict: true, target: 'es2022', lib: ['es2022', 'dom'], types: ['node'], outDir: 'out'};
      const compilerOptions = {
        ...options,
        module: 'nodenext',
        exactOptionalPropertyTypes: true,
        skipLibCheck: type !== 'module',
      };
      project.write('tsconfig.json', JSON.stringify({compilerOptions, files: ['main.ts']}));
      const tsc = await project.start([join(root, 'node_modules/typescript/bin/tsc'), '-p', '.']);
      expect(errorsOutsideTfjs(tsc.stdout), type).to.deep.equal([]);
      expectAttention(await project.start(['out/main.js']), 2);
    }
  });

  it('works in an ES module script, and adds the op to the default import of tfjs', async () => {
    const script = `
      import tf from '@tensorflow/tfjs';
      import {flashMaskAttention, masks} from 'tfjs-flashmask';
      await tf.setBackend('cpu');
      ${ATTEND}
      for (const out of [flashMaskAttention(q, k, v, mask), tf.flashMaskAttention(q, k, v, mask)]) ${PRINT}`;
    expectAttention(await new Project().run('main.mjs', script), 2);
  });

  it("says what to import where 'tfjs-flashmask/webgpu' alone is, and works once that is imported too", async () => {
    const script = `
      import * as tf from '@tensorflow/tfjs';
      import {flashMaskAttention, FlashMask} from 'tfjs-flashmask/webgpu';
      import * as masks from 'tfjs-flashmask/masks';
      const messageOf = (call) => { try { call(); } catch ({message}) { return message; } };
      await tf.setBackend('cpu');
      ${ATTEND}
      const registered = () => tf.getKernelsForBackend('cpu').filter(({kernelName}) => kernelName.startsWith('FlashMask')).length;
      console.log('KERNELS', registered(), tf.getKernelsForBackend('webgpu').length);
      console.log('OTHER', messageOf(() => flashMaskAttention(q, k, v, mask)));
      console.log('SECOND', messageOf(() => tf.getGradient('FlashMaskAttentionGrad').gradFunc()));
      const whole = await import('tfjs-flashmask');
      if (whole.FlashMask !== FlashMask || whole.masks.causal !== masks.causal) throw new Error('two copies');
      const seconds = (x) => tf.grad((y) => tf.square(tf.grad((z) => tf.square(flashMaskAttention(z, k, v, mask)).sum())(y)).sum())(x);
      console.log('AFTER', registered(), (await seconds(q).abs().sum().data())[0] > 0);
      const out = flashMaskAttention(q, k, v, mask);
      ${PRINT}`;
    const finished = await new Project().run('main.mjs', script);
    expectAttention(finished);
    const {stdout} = finished;
    expect(stdout).to.include('KERNELS 0 2');
    expect(stdout).to.match(
      /OTHER flashMaskAttention: the backend must be 'webgpu' .*, got 'cpu'\. Import 'tfjs-flashmask'/,
    );
    expect(stdout).to.match(/SECOND flashMaskAttention: a gradient of a gradient needs 'tfjs-flashmask', got .*Import/);
    expect(stdout).to.include('AFTER 2 true');
  });

  it("has all of tfjs and the op in 'tfjs-flashmask/tf'", async () => {
    const project = new Project();
    const script = `
      import * as tf from 'tfjs-flashmask/tf';
      import * as plain from '@tensorflow/tfjs';
      import {masks} from 'tfjs-flashmask';
      const missing = Object.keys(plain).filter((name) => tf[name] !== plain[name] && name !== 'default');
      if (missing.length > 0 || tf.masks !== masks) throw new Error('missing: ' + missing);
      await tf.setBackend('cpu');
      ${ATTEND}
      const out = tf.flashMaskAttention(q, k, v, mask);
      ${PRINT}`;
    expectAttention(await project.run('main.mjs', script));
    const commonJs = script
      .replace(/import \* as (\w+) from '(.*?)';/g, "const $1 = require('$2');")
      .replace(/import (\{.*?\}) from '(.*?)';/g, "const $1 = require('$2');");
    expectAttention(await project.run('main.cjs', `(async () => {${commonJs}})();`));
  });

  it('has layers that models train, save and load, as ES modules and as CommonJS', async () => {
    const script = `
      import * as tf from '@tensorflow/tfjs';
      import {FlashMaskMultiHeadAttention} from 'tfjs-flashmask/layers';
      await tf.setBackend('cpu');
      const x = tf.input({shape: [5, 4]});
      const layer = new FlashMaskMultiHeadAttention({numHeads: 2, keyDim: 2, useCausalMask: true});
      const model = tf.model({inputs: x, outputs: layer.apply(x)});
      model.compile({optimizer: 'sgd', loss: 'meanSquaredError'});
      const data = tf.ones([2, 5, 4]);
      await model.fit(data, data, {verbose: 0});
      let saved;
      await model.save(tf.io.withSaveHandler(async (artifacts) => ((saved = artifacts), {modelArtifactsInfo: {}})));
      const loaded = await tf.loadLayersModel(tf.io.fromMemory(saved));
      const [a, b] = await Promise.all([model, loaded].map((one) => one.predict(data).data()));
      console.log('SAME', a.every((value, i) => value === b[i]), loaded.layers[1] instanceof FlashMaskMultiHeadAttention);`;
    const commonJs = script
      .replace(/import (.*?) from '(.*?)';/g, "const $1 = require('$2');")
      .replace('* as tf', 'tf');
    const project = new Project();
    for (const [file, code] of Object.entries({'main.mjs': script, 'main.cjs': `(async () => {${commonJs}})();`})) {
      const {stdout, stderr} = await project.run(file, code);
      expect(stdout, stderr).to.include('SAME true true');
    }
  });

  it('works in a CommonJS script, required before and after tfjs', async () => {
    const project = new Project({type: 'commonjs'});
    const before = "const {masks} = require('tfjs-flashmask'); const tf = require('@tensorflow/tfjs');";
    const after = "const tf = require('@tensorflow/tfjs'); const {masks} = require('tfjs-flashmask');";
    for (const requires of [before, after]) {
      const script = `${requires} tf.setBackend('cpu').then(() => {
        ${ATTEND}
        const out = tf.flashMaskAttention(q, k, v, mask);
        ${PRINT}});`;
      expectAttention(await project.run('main.js', script));
    }
  });

  it('works bundled by esbuild for a page, which takes no more than the page uses', async () => {
    const project = new Project();
    const entry = `
      import '@tensorflow/tfjs-backend-cpu';
      import * as tf from '@tensorflow/tfjs-core';
      import {flashMaskAttention, masks} from 'tfjs-flashmask';
      await tf.setBackend('cpu');
      ${ATTEND}
      const out = flashMaskAttention(q, k, v, mask);
      ${PRINT}`;
    const {outputFiles, warnings} = await build({
      stdin: {contents: entry, resolveDir: project.folder},
      bundle: true,
      format: 'esm',
      platform: 'browser',
      target: 'es2022',
      write: false,
      minify: true,
    });
    expect(warnings).to.deep.equal([]);
    const [{text}] = outputFiles;
    expect(text, 'the unused createWebGPUBackend').not.to.include('createWebGPUBackend: the name must be free');
    expect(text, 'the unused layers').not.to.include('FlashMaskMultiHeadAttention');
    expect(text.split('Hi, looks like you are running TensorFlow.js').length, 'tfjs-core copies').to.be.at.most(2);
    project.write('bundle.mjs', text);
    project.link('linkedom');
    expectAttention(await project.run('page.mjs', `${PAGE}\nawait import('./bundle.mjs');`));
  });

  it('works from script tags, and says so where the one of tfjs is missing', async () => {
    const project = new Project();
    project.link('linkedom');
    const script = (file: string) =>
      `runInThisContext(readFileSync(${JSON.stringify(join('node_modules', file))}, 'utf8'));`;
    const start = `${PAGE}
      import {readFileSync} from 'node:fs';
      import {runInThisContext} from 'node:vm';`;
    const page = `${start}
      ${script('@tensorflow/tfjs/dist/tf.min.js')}
      ${script('tfjs-flashmask/dist/tfjs-flashmask.min.js')}
      await tf.setBackend('cpu');
      const {masks} = flashmask;
      ${ATTEND}
      for (const out of [tf.flashMaskAttention(q, k, v, tf.masks.causalDocument([2, 4])), q.flashMaskAttention(k, v, mask)]) ${PRINT}`;
    expectAttention(await project.run('page.mjs', page), 2);
    const bare = project.write('bare.mjs', `${start}\n${script('tfjs-flashmask/dist/tfjs-flashmask.min.js')}`);
    expect((await project.start([bare])).stderr).to.include('Put the script tag of @tensorflow/tfjs before this one');
  });

  it('does no harm imported twice or beside a second tfjs-core, and prints nothing', async () => {
    const project = new Project();
    const modules = join(project.folder, 'node_modules');
    cpSync(join(modules, 'tfjs-flashmask'), join(modules, 'second/node_modules/tfjs-flashmask'), {recursive: true});
    cpSync(
      join(root, 'node_modules/@tensorflow/tfjs-core'),
      join(modules, 'second/node_modules/@tensorflow/tfjs-core'),
      {
        recursive: true,
        filter: (path) => !path.endsWith('.map'),
      },
    );
    for (const name of ['seedrandom', 'long', 'node-fetch']) {
      project.link(name, `second/node_modules/${name}`);
    }
    project.write(
      'node_modules/second/index.cjs',
      `
      exports.library = () => require('tfjs-flashmask');
      exports.core = require('@tensorflow/tfjs-core');`,
    );
    const start = `
      import * as tf from '@tensorflow/tfjs';
      import second from 'second/index.cjs';
      await tf.setBackend('cpu');
      tf.dispose(tf.scalar(1)); // tfjs greets.`;
    const script = `${start}
      import {createRequire} from 'node:module';
      import * as first from 'tfjs-flashmask';
      const library = second.library();
      const required = createRequire(import.meta.url)('tfjs-flashmask');
      if (required.FlashMask !== first.FlashMask) throw new Error('import and require gave two copies');
      if (library.FlashMask === first.FlashMask || second.core.tensor === tf.tensor) throw new Error('no second copy');
      const {masks} = library;
      ${ATTEND}
      const gradient = tf.grad((x) => library.flashMaskAttention(x, k, v, mask).sum())(q);
      if (!(await gradient.abs().sum().data())[0]) throw new Error('no gradient');
      const maskOfFirst = first.masks.causalDocument([2, 4]);
      for (const {flashMaskAttention} of [first, library]) {
        for (const either of [mask, maskOfFirst]) {
          const out = flashMaskAttention(q, k, v, either);
          ${PRINT}
        }
      }`;
    const finished = await project.run('main.mjs', script);
    expectAttention(finished, 4);
    const withoutLibrary = await project.run('control.mjs', start);
    expect(finished.stderr).to.equal(withoutLibrary.stderr);
  });
});
