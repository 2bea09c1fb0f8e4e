/**
 * @file Builds dist/: one ES module a source file with its declarations (esm/), CommonJS bundles with theirs (cjs/), the entry
 * that Node takes (node/), and the bundle for script tags. See `exports` in package.json.
 */
import {spawnSync} from 'node:child_process';
import {cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {type BuildOptions, type Plugin, build} from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = join(root, 'dist');
const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};

const shared: BuildOptions = {
  absWorkingDir: root,
  bundle: true,
  legalComments: 'none',
  logLevel: 'warning',
  sourcemap: true,
};

/** What a page's script tags made, in place of the packages of those names. */
const PAGE_GLOBALS: Record<string, string> = {
  '@tensorflow/tfjs-core': `
    if (typeof tf === 'undefined' || !tf.registerKernel) {
      throw new Error(
        'tfjs-flashmask: the global tf must exist, got none. Put the script tag of @tensorflow/tfjs before this one.');
    }
    module.exports = tf;`,
  '@tensorflow/tfjs-backend-webgpu': `
    if (!tf.WebGPUBackend) {
      throw new Error('tf.WebGPUBackend is missing: the script of @tensorflow/tfjs-backend-webgpu is not loaded');
    }
    module.exports = tf;`,
};

const useGlobalTf: Plugin = {
  name: 'use-global-tf',
  setup(setup) {
    setup.onResolve({filter: /^@tensorflow\//}, ({path}) => ({path, namespace: 'global-tf'}));
    setup.onLoad({filter: /.*/, namespace: 'global-tf'}, ({path}) => {
      const contents = PAGE_GLOBALS[path];
      return contents === undefined
        ? {errors: [{text: `${path} has no global that stands for it in scripts/build.ts`}]}
        : {contents, loader: 'js'};
    });
  },
};

function buildModules(): void {
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const {status} = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {cwd: root, stdio: 'inherit'});
  if (status !== 0) {
    process.exit(1); // tsc has said why.
  }
}

/** The declarations again, under a package.json that makes them those of CommonJS. */
function copyDeclarations(): void {
  const isDeclaration = (path: string) => statSync(path).isDirectory() || path.endsWith('.d.ts');
  cpSync(join(dist, 'esm'), join(dist, 'cjs', 'types'), {recursive: true, filter: isDeclaration});
  writeFileSync(join(dist, 'cjs', 'package.json'), '{"type": "commonjs"}\n');
}

/** Every other entry refers to cjs/index.js, so that there is one copy of the library however it was required. */
async function buildCommonJs(): Promise<void> {
  const commonJs: BuildOptions = {...shared, format: 'cjs', target: 'node20', platform: 'node', packages: 'external'};
  const outfile = (name: string) => join(dist, name);
  const useIndex: Plugin = {
    name: 'use-built-index',
    setup: (build) => {
      // composedConfigs too, which the index exports: the kernels that it makes share the cache of the masks' bounds.
      const inIndex = ['src/entries/index.js', 'src/backends/composed/kernel.js'].map((path) => join(root, path));
      build.onResolve({filter: /\/(index|kernel)\.js$/}, ({path, resolveDir}) =>
        inIndex.includes(join(resolveDir, path)) ? {path: '../cjs/index.js', external: true} : null,
      );
    },
  };
  await build({...commonJs, entryPoints: ['src/entries/index.ts'], outfile: outfile('cjs/index.js')});
  await build({...commonJs, entryPoints: ['src/entries/tf.ts'], outfile: outfile('cjs/tf.js'), plugins: [useIndex]});
  await build({
    ...commonJs,
    entryPoints: ['src/entries/attach_to_tf.ts'],
    outfile: outfile('node/attach.cjs'),
    plugins: [useIndex],
  });
  const withUrl: BuildOptions = {
    ...commonJs,
    define: {'import.meta.url': 'importMetaUrl'},
    banner: {js: "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;"},
  };
  await build({...withUrl, entryPoints: ['src/entries/node_webgpu.ts'], outfile: outfile('cjs/node-webgpu.js')});
  await build({...withUrl, entryPoints: ['src/entries/node.ts'], outfile: outfile('cjs/node.js'), plugins: [useIndex]});
}

/** In Node, ES modules wrap the CommonJS build: a program that mixes the two then still has one FlashMask class. */
function writeNodeEntries(): void {
  const files = {
    'index.cjs': "require('./attach.cjs');\nmodule.exports = require('../cjs/index.js');\n",
    'index.js': "import './attach.cjs';\nexport * from '../cjs/index.js';\n",
    'node.cjs': "require('./attach.cjs');\nmodule.exports = require('../cjs/node.js');\n",
    'node.js': "import './attach.cjs';\nexport * from '../cjs/node.js';\n",
    'tf.cjs': "require('./attach.cjs');\nmodule.exports = require('../cjs/tf.js');\n",
    'tf.js':
      "import './attach.cjs';\nexport * from '@tensorflow/tfjs';\n" +
      "export {FlashMask, flashMaskAttention, masks} from '../cjs/index.js';\n",
  };
  mkdirSync(join(dist, 'node'), {recursive: true});
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dist, 'node', name), content);
  }
}

async function buildScript(): Promise<void> {
  await build({
    ...shared,
    entryPoints: ['src/entries/script_tag.ts'],
    outfile: join(dist, 'tfjs-flashmask.min.js'),
    format: 'iife',
    globalName: 'flashmask',
    minify: true,
    platform: 'browser',
    target: 'es2022',
    banner: {js: `/*! tfjs-flashmask ${version} | Apache-2.0 */`},
    plugins: [useGlobalTf],
  });
}

rmSync(dist, {recursive: true, force: true});
buildModules();
copyDeclarations();
await buildCommonJs();
writeNodeEntries();
await buildScript();
