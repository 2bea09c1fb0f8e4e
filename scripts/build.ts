/**
 * @file Builds dist/: one ES module per source file with its declarations (esm/), the same as CommonJS (cjs/), the
 * entries for Node (node/), the commands (cli/), the bundle for script tags, and Node-API's headers. See `exports` in
 * package.json.
 */
import {spawnSync} from 'node:child_process';
import {cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join, relative} from 'node:path';
import {fileURLToPath} from 'node:url';
import ts from 'typescript';
import {type BuildOptions, type Metafile, type Plugin, build, transform} from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = join(root, 'dist');
const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};

const shared: BuildOptions = {
  absWorkingDir: root,
  bundle: true,
  keepNames: true,
  legalComments: 'none',
  logLevel: 'warning',
};

function write(path: string, content: string): void {
  mkdirSync(dirname(join(dist, path)), {recursive: true});
  writeFileSync(join(dist, path), content);
}

function filesBelow(folder: string): string[] {
  const entries = readdirSync(folder, {withFileTypes: true, recursive: true});
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

// ---- The library ----

function buildModules(): void {
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const {status} = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {cwd: root, stdio: 'inherit'});
  if (status !== 0) process.exit(1); // tsc has printed the errors.
}

/**
 * Drops comments and indentation within the WGSL of generators, which cost bytes in every page. Shaders get
 * their indentation when they are made. `npm run wgsl` prints them with their comments.
 */
function stripWgsl(): void {
  for (const path of filesBelow(join(dist, 'esm', 'src', 'backends', 'webgpu', 'wgsl'))) {
    if (!path.endsWith('.js')) continue;
    const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022);
    let stripped = source.text;
    const visit = (node: ts.Node): void => {
      // From the end, so that earlier positions stay true.
      [...node.getChildren(source)].reverse().forEach(visit);
      if (!ts.isTemplateLiteralToken(node)) return;
      const text = node
        .getText(source)
        .replace(/\n *\/\/.*(?=\n)/g, '')
        .replace(/\n +/g, '\n');
      stripped = stripped.slice(0, node.getStart(source)) + text + stripped.slice(node.end);
    };
    visit(source);
    writeFileSync(path, stripped);
  }
}

/** Replaces `import.meta`, which CommonJS lacks. */
const IMPORT_META_URL = "const importMetaUrl = require('node:url').pathToFileURL(__filename).href;";

async function toCommonJs(path: string): Promise<void> {
  const source = readFileSync(join(root, path), 'utf8');
  const {code, map} = await transform(source, {
    sourcefile: `${relative(join(dist, 'cjs', dirname(path)), root)}/${path}`,
    loader: 'ts',
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    sourcemap: 'external',
    tsconfigRaw: {compilerOptions: {target: 'ES2022', verbatimModuleSyntax: true}},
    ...(source.includes('import.meta.url') && {
      define: {'import.meta.url': 'importMetaUrl'},
      banner: IMPORT_META_URL,
    }),
  });
  const name = path.replace(/\.ts$/, '.js');
  write(`cjs/${name}`, `${code}//# sourceMappingURL=${name.split('/').at(-1)}.map\n`);
  write(`cjs/${name}.map`, map);
}

/**
 * The same files and declarations under a package.json that makes them CommonJS. There is one file per source file, so
 * that all entries share one copy of the library.
 */
async function buildCommonJs(): Promise<void> {
  const esm = join(dist, 'esm');
  const sources = filesBelow(esm)
    .map((path) => relative(esm, path))
    .filter((path) => path.endsWith('.js'));
  const paths = [...sources.map((path) => path.replace(/\.js$/, '.ts')), 'src/entries/attach_to_tf.ts'];
  await Promise.all(paths.map(toCommonJs));
  const isDeclaration = (path: string): boolean => statSync(path).isDirectory() || path.endsWith('.d.ts');
  cpSync(esm, join(dist, 'cjs'), {recursive: true, filter: isDeclaration});
  write('cjs/package.json', '{"type": "commonjs"}\n');
}

/** Entries for Node, by the names of their source files. True: the entry adds the op to tfjs. */
const NODE_ENTRIES = {
  ...{index: true, tf: true, node: true, layers: true, distributed: true},
  ...{webgpu: false, masks: false, node_webgpu: false, einsum_gradient: false},
};

/** In Node, ES modules wrap the CommonJS build, so that a program that mixes both has only one FlashMask class. */
function writeNodeEntries(): void {
  for (const [name, attaches] of Object.entries(NODE_ENTRIES)) {
    const [entry, attach] = [`../cjs/src/entries/${name}.js`, '../cjs/src/entries/attach_to_tf.js'];
    write(`node/${name}.cjs`, `${attaches ? `require('${attach}');\n` : ''}module.exports = require('${entry}');\n`);
    write(`node/${name}.js`, `${attaches ? `import '${attach}';\n` : ''}export * from '${entry}';\n`);
  }
}

// ---- Script tags ----

/** Globals made by a page's script tags, which replace the packages of these names. */
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

async function buildScript(): Promise<void> {
  await build({
    ...shared,
    entryPoints: ['src/entries/script_tag.ts'],
    outfile: join(dist, 'tfjs-flashmask.min.js'),
    format: 'iife',
    globalName: 'flashmask',
    keepNames: false,
    minify: true,
    platform: 'browser',
    sourcemap: true,
    target: 'es2022',
    banner: {js: `/*! tfjs-flashmask ${version} | Apache-2.0 */`},
    plugins: [useGlobalTf],
  });
}

// ---- Commands ----

/** The commands use the built library of the same package. */
const useBuiltLibrary: Plugin = {
  name: 'use-built-library',
  setup(setup) {
    setup.onResolve({filter: /\/entries\/\w+\.js$/}, ({path}) => ({
      path: `../node/${path.split('/').at(-1)!}`,
      external: true,
    }));
  },
};

/** Each command in one file with the packages that it uses, so that users of the library install none of them. */
async function buildCommands(): Promise<Metafile> {
  const {metafile} = await build({
    ...shared,
    entryPoints: ['src/cli/main.ts', 'src/cli/probe.ts'],
    outdir: join(dist, 'cli'),
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['@tensorflow/*'],
    metafile: true,
    // CommonJS packages in the bundle need `require`.
    banner: {
      js: "import {createRequire as createRequire_} from 'node:module';\nconst require = createRequire_(import.meta.url);",
    },
    plugins: [useBuiltLibrary],
  });
  return metafile;
}

// ---- Parts of other packages ----

/** The folders of the packages whose code is in a bundle. */
function packagesIn({inputs}: Metafile): string[] {
  const folders = Object.keys(inputs).map((path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  return [...new Set(folders.filter((folder) => folder !== undefined))].sort();
}

/** A package's name, version and license, in full. */
function licenseOf(folder: string): string {
  const json = readFileSync(join(root, folder, 'package.json'), 'utf8');
  const {name, version, license} = JSON.parse(json) as Record<'name' | 'version' | 'license', string>;
  const file = readdirSync(join(root, folder)).find((path) => /^licen[cs]e/i.test(path));
  if (file === undefined) throw new Error(`${folder} must have a file with its license, got none`);
  return `${name} ${version} (${license})\n\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`;
}

const HEADERS = 'node_modules/node-api-headers';

function copyHeaders(): void {
  const {include_dir} = createRequire(import.meta.url)('node-api-headers') as {include_dir: string};
  cpSync(include_dir, join(dist, 'node-api'), {recursive: true});
}

function writeLicenses(folders: string[]): void {
  const line = `\n${'-'.repeat(80)}\n\n`;
  const head = 'dist/cli and dist/node-api have parts of these packages.\n';
  write('THIRD_PARTY_LICENSES', [head, ...folders.map(licenseOf)].join(line));
}

rmSync(dist, {recursive: true, force: true});
buildModules();
stripWgsl();
await buildCommonJs();
writeNodeEntries();
await buildScript();
writeLicenses([...packagesIn(await buildCommands()), HEADERS]);
copyHeaders();
