/**
 * @file The packed package in pages built by bundlers: each entry must keep its registrations, even if the page only
 * calls the chained op. esbuild runs always; Rollup, Vite, webpack and Parcel with
 * `npm run test:all`.
 */
import {spawnSync} from 'node:child_process';
import {createRequire} from 'node:module';
import {join} from 'node:path';
import {expect} from 'chai';
import {build as esbuild} from 'esbuild';
import {full} from '../support/full.js';
import {Project, root} from '../support/packed_project.js';

const NESTED = join(root, 'test/bundlers');
const require = createRequire(join(NESTED, 'x.js'));

/** Builds `page.js` of a folder to `out/page.js`; returns the warnings. */
type Bundler = (folder: string) => Promise<string[]>;

const bundlers: Record<string, Bundler> = {
  esbuild: async (folder) => {
    const [entryPoints, outdir] = [[join(folder, 'page.js')], join(folder, 'out')];
    const options = {bundle: true, minify: true, format: 'esm', target: 'es2022', logLevel: 'silent'} as const;
    return (await esbuild({entryPoints, outdir, ...options})).warnings.map(({text}) => text);
  },
  Rollup: async (folder) => {
    const script = `
      const {rollup} = require('rollup');
      const resolve = require('@rollup/plugin-node-resolve').default;
      const commonjs = require('@rollup/plugin-commonjs').default;
      rollup({input: 'page.js', onwarn: ({code, message}) => code === 'CIRCULAR_DEPENDENCY' || code === 'THIS_IS_UNDEFINED' || console.log('WARNING ' + message),
        plugins: [resolve({browser: true, preferBuiltins: false}), commonjs()]})
        .then((bundle) => bundle.write({file: 'out/page.js', format: 'es', inlineDynamicImports: true}));`;
    return run(folder, ['-e', script.replaceAll("require('", `require('${NESTED}/node_modules/`)]);
  },
  Vite: async (folder) => {
    const script = `
      import {build} from ${JSON.stringify(require.resolve('vite').replace(/index\.cjs$/, 'dist/node/index.js'))};
      const output = {entryFileNames: 'page.js', inlineDynamicImports: true};
      await build({root: '.', configFile: false, logLevel: 'warn', build: {outDir: 'out', target: 'es2022', modulePreload: false,
        chunkSizeWarningLimit: 1e5, rollupOptions: {input: 'page.js', output}}});`;
    return run(folder, ['--input-type=module', '-e', script]);
  },
  Parcel: async (folder) => {
    const script = `
      const {Parcel} = require('${NESTED}/node_modules/@parcel/core');
      const target = {distDir: 'out', context: 'browser', outputFormat: 'esmodule', engines: {browsers: 'Chrome 120'}};
      const options = {entries: 'page.js', mode: 'production', targets: {page: target}, shouldDisableCache: true, shouldAutoInstall: false,
        defaultConfig: '${NESTED}/node_modules/@parcel/config-default'};
      new Parcel(options).run().then(
        () => process.exit(),
        ({diagnostics}) => {
          console.error(JSON.stringify(diagnostics));
          process.exit(1);
        },
      );`;
    return run(folder, ['-e', script]);
  },
  webpack: async (folder) => {
    const script = `
      require('${NESTED}/node_modules/webpack')({mode: 'production', context: process.cwd(), entry: './page.js', performance: {hints: false},
        output: {path: process.cwd() + '/out', filename: 'page.js'}}, (error, stats) => {
        if (error || stats.hasErrors()) throw error ?? new Error(stats.toString());
        stats.compilation.warnings.forEach(({message}) => console.log('WARNING ' + message));
      });`;
    return run(folder, ['-e', script]);
  },
};

function run(folder: string, args: string[]): string[] {
  const {status, stdout, stderr} = spawnSync(process.execPath, args, {cwd: folder, encoding: 'utf8'});
  expect(status, `${stdout}\n${stderr}`).to.equal(0);
  return stdout.split('\n').filter((line) => line.startsWith('WARNING'));
}

/** Each row of the result is the mean of the values that it sees. */
const ATTEND = `
tf.setBackend('cpu').then(async () => {
  const v = tf.reshape(tf.range(0, 4), [1, 4, 1, 1]);
  const out = await v.flashMaskAttention(tf.zerosLike(v), v, undefined, {causal: true}).data();
  console.log('RESULT ' + [...out].join());
});`;

const CPU = "import '@tensorflow/tfjs-backend-cpu';";
const pages = {
  'tfjs-flashmask': `${CPU} import * as tf from '@tensorflow/tfjs-core'; import 'tfjs-flashmask'; ${ATTEND}`,
  'tfjs-flashmask/tf': `import * as tf from 'tfjs-flashmask/tf'; ${ATTEND}`,
  'tfjs-flashmask/webgpu': `import * as tf from '@tensorflow/tfjs-core'; import 'tfjs-flashmask/webgpu';
    const kernels = ['FlashMaskAttention', 'FlashMaskAttentionGrad'].map((name) => tf.getKernel(name, 'webgpu') && tf.getGradient(name));
    console.log('RESULT ' + [...kernels.map(Boolean), typeof tf.Tensor.prototype.flashMaskAttention].join());`,
};
const results = {
  'tfjs-flashmask': 'RESULT 0,0.5,1,1.5',
  'tfjs-flashmask/tf': 'RESULT 0,0.5,1,1.5',
  'tfjs-flashmask/webgpu': 'RESULT true,true,function',
};

/** tfjs takes an environment without a window for Node. */
const RUN = `
import {parseHTML} from 'linkedom';
const {window, document} = parseHTML('<html><body></body></html>');
Object.assign(globalThis, {window, document, self: globalThis});
await import('./out/page.js');`;

for (const [name, bundle] of Object.entries(bundlers)) {
  const runs = full || name === 'esbuild';
  (runs ? describe : describe.skip)(`pages built by ${name}${runs ? '' : ' (npm run test:all)'}`, () => {
    before(async () => {
      if (name === 'esbuild') return;
      const script = new URL('../../scripts/install.mjs', import.meta.url).href;
      const install = (await import(script)) as {installPackages: (folder: string, what: string) => void};
      install.installPackages(NESTED, 'bundlers');
    });

    for (const entry of Object.keys(pages) as (keyof typeof pages)[]) {
      it(`${entry}: keep what it registers`, async () => {
        // Only the last page may mention the package of the WebGPU backend.
        const project = new Project({without: ['@tensorflow']});
        const packages = ['tfjs', 'tfjs-core', 'tfjs-backend-cpu'];
        if (entry.endsWith('webgpu')) packages.push('tfjs-backend-webgpu');
        packages.forEach((package_) => project.link(`@tensorflow/${package_}`));
        project.link('linkedom');
        // docs/packages.md says why Parcel needs the first. The others tfjs-core names and does not use in a page; in a
        // user's project Parcel installs them.
        const alias = {process: false, util: false, buffer: false};
        const parcel = name === 'Parcel' && {'@parcel/resolver-default': {packageExports: true}, alias};
        project.write('package.json', JSON.stringify({name: 'a-page', private: true, type: 'module', ...parcel}));
        project.write('page.js', pages[entry]);
        expect(await bundle(project.folder)).to.deep.equal([]);
        expect((await project.run('run.mjs', RUN)).stdout).to.include(results[entry]);
      });
    }
  });
}
