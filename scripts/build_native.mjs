/**
 * @file Builds the Node addon from native/: the CPU kernels always, the CUDA kernels if nvcc is found.
 *
 *     node scripts/build_native.mjs             build/Release/tfjs_flashmask.node, for this machine
 *       --no-cuda                               without the CUDA kernels
 *       --cuda                                  an error if nvcc is missing
 *       --arch 90                               CUDA code for only this architecture, or several as 80,90: quick builds
 *       --one-arch                              CUDA code for only this machine's GPU; without a GPU, for 90
 *       --out FILE                              another path for the addon
 *       --jobs 4                                compilers at a time; one per core by default
 *
 * $CXX and $NVCC choose the compilers. This is plain JavaScript that depends only on the headers of Node-API, because
 * it also runs in users' projects. It needs neither node-gyp (which downloads headers) nor CMake.
 */
import {execFile, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import {createRequire} from 'node:module';
import {availableParallelism, homedir} from 'node:os';
import {delimiter, dirname, isAbsolute, join, relative, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const NATIVE = join(root, 'native');
/** Folders of native/ that are no part of the addon: setup-node compiles native/tfjs_node. */
const OTHERS = ['test', 'tfjs_node'];
/**
 * Compiled objects. Each is named after the hash of everything it depends on, so that all clones of a user share them.
 */
const {XDG_CACHE_HOME: base = ''} = process.env;
const CACHE = join(isAbsolute(base) ? base : join(homedir(), '.cache'), 'tfjs-flashmask', 'objects');
const LOCAL = join(root, 'build', 'Release', 'tfjs_flashmask.node');
const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

/** Architectures to compile for. PTX, which drivers compile for later ones, adds every other GPU from sm_80 on. */
const CUDA_ARCHS = ['80', '86', '89', '90'];
/** The first CUDA version that has all instructions of sm_90. */
const OLDEST_CUDA = 12.0;
const STALE_OBJECT_MS = 14 * 24 * 3600 * 1000;
const LOG_LINES = 30;

const COMPILE = ['-std=c++17', '-O3', '-DNDEBUG', '-fPIC', '-pthread', '-fvisibility=hidden', '-Wall', '-Wextra'];
const SECTIONS = ['-ffunction-sections', '-fdata-sections'];
/** Flags of files that are compiled for one instruction set. The addon chooses between them at run time. */
const INSTRUCTION_SETS = [
  [/(^|[_/])avx2\.cc$/, ['-mavx2', '-mfma']],
  [/(^|[_/])avx512\.cc$/, ['-mavx512f', '-mavx512vl', '-mavx512dq', '-mavx512bw', '-mavx2', '-mfma']],
];

/** The flags that a C++ file needs for its instruction set, on x64. */
function instructionSetFlags(path) {
  return INSTRUCTION_SETS.filter(([pattern]) => pattern.test(path)).flatMap(([, flags]) => flags);
}

/** An error that is printed without its stack. */
class BuildError extends Error {}

function log(line) {
  console.error(`tfjs-flashmask: ${line}`);
}

// ---- Compilers ----

/** The output of a command, or null if it cannot be run. */
function output(command, args) {
  const {status, stdout} = spawnSync(command, args, {encoding: 'utf8'});
  return status === 0 ? stdout.trim() : null;
}

function findCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ['g++', 'clang++', 'c++'];
  for (const command of candidates) {
    const about = output(command, ['--version']);
    if (about !== null) return {command, about};
  }
  const remedy = 'Install one (Debian, Ubuntu: `apt-get install g++`; macOS: `xcode-select --install`), or set CXX.';
  throw new BuildError(`a C++ compiler must be there, got none of ${candidates.join(', ')}. ${remedy}`);
}

/** nvcc, its version and the folder of its toolkit; or the reason why there is none. */
function findCuda() {
  const {NVCC, CUDA_HOME, CUDA_PATH, PATH = ''} = process.env;
  const homes = [CUDA_HOME, CUDA_PATH].filter(Boolean).map((home) => join(home, 'bin', 'nvcc'));
  const onPath = PATH.split(delimiter).map((folder) => join(folder, 'nvcc'));
  const candidates = NVCC ? [NVCC] : [...homes, ...onPath, '/usr/local/cuda/bin/nvcc'];
  const command = candidates.find((path) => existsSync(path));
  if (!command) return {missing: 'nvcc is not found'};
  const about = output(command, ['--version']) ?? '';
  const found = /release (\d+\.\d+)/.exec(about)?.[1];
  if (!found) return {missing: `${command} cannot be run`};
  if (Number(found) < OLDEST_CUDA) return {missing: `nvcc is ${found}, older than ${OLDEST_CUDA}`};
  const home = toolkitOf(command);
  return home
    ? {command, about, version: found, home}
    : {missing: `the toolkit of ${command} has no libcudart_static.a`};
}

const CUDA_LIBRARIES = ['lib64', 'lib', join('targets', 'x86_64-linux', 'lib'), join('targets', 'sbsa-linux', 'lib')];

/**
 * The folder of libcudart_static.a. nvcc is asked for its toolkit, because the nvcc that was found may be a link or a
 * script.
 */
function toolkitOf(nvcc) {
  const {stdout, stderr} = spawnSync(nvcc, ['--dryrun', '-x', 'cu', '/dev/null', '-o', '/dev/null'], {
    encoding: 'utf8',
  });
  const top = /TOP=(.*)/.exec(stdout + stderr)?.[1].trim();
  const homes = [top, join(dirname(nvcc), '..'), '/usr/local/cuda'].filter(Boolean);
  const folders = homes.flatMap((home) => CUDA_LIBRARIES.map((library) => join(home, library)));
  return folders.find((folder) => existsSync(join(folder, 'libcudart_static.a')));
}

// ---- Sources ----

function filesBelow(folder) {
  return readdirSync(folder, {withFileTypes: true})
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? filesBelow(path) : [path];
    })
    .sort();
}

/** The files to compile, relative to native/. native/test has separate programs. */
function sources(withCuda) {
  const all = filesBelow(NATIVE).map((path) => relative(NATIVE, path));
  const part = (path) => path.split(/[\\/]/)[0];
  const isSource = (path) => path.endsWith('.cc') || path.endsWith('.cu');
  const isCuda = (path) => part(path) === 'cuda' || /cuda_order\.cc$/.test(path);
  return all.filter((path) => isSource(path) && !OTHERS.includes(part(path)) && (withCuda || !isCuda(path)));
}

/** Adds a file, and all files that it includes by quotes, to the hash. */
function hashSource(hash, path, seen = new Set()) {
  if (seen.has(path) || !existsSync(path)) return;
  seen.add(path);
  const text = readFileSync(path, 'utf8');
  hash.update(`${relative(root, path)}\0${text}\0`);
  for (const [, included] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    hashSource(hash, join(dirname(path), included), seen);
    hashSource(hash, join(NATIVE, included), seen);
  }
}

// ---- Plan ----

/** The folder of Node-API's headers: in the repository an npm package, in the published package a part of dist/. */
function nodeHeaders() {
  try {
    return require('node-api-headers').include_dir;
  } catch {
    return join(root, 'dist', 'node-api');
  }
}

/**
 * `-gencode` flags; `archs` lists their targets, PTX last. Code for sm_90 has tiles that only fit that architecture's
 * shared memory (native/cuda/tiles.h). So the PTX, which drivers compile for later GPUs, is that of the newest
 * architecture before sm_90.
 */
function cudaCode(archs) {
  // Hopper's own instructions are those of sm_90a.
  const targetOf = (arch) => (arch === '90' ? '90a' : arch);
  const portable = archs.filter((arch) => arch !== '90').slice(-1);
  return {
    flags: [
      ...archs.map((arch) => `-gencode=arch=compute_${targetOf(arch)},code=sm_${targetOf(arch)}`),
      ...portable.map((arch) => `-gencode=arch=compute_${arch},code=compute_${arch}`),
    ],
    archs: [...archs, ...portable.map((arch) => `${arch}-ptx`)],
  };
}

function planCuda(options) {
  if (options['no-cuda']) return null;
  const cuda = filesBelow(NATIVE).some((path) => path.endsWith('.cu')) ? findCuda() : {missing: 'native/cuda is empty'};
  if (cuda.missing) {
    if (options.cuda)
      throw new BuildError(`--cuda needs nvcc, but ${cuda.missing}. Install the CUDA toolkit, or set NVCC.`);
    log(`${cuda.missing}: building the CPU kernels alone, without the CUDA kernels`);
    return null;
  }
  return {...cuda, ...cudaCode(archsFor(options))};
}

function archsFor(options) {
  if (options.arch) return options.arch.split(',');
  if (!options['one-arch']) return CUDA_ARCHS;
  const gpus = output('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader']) ?? '';
  const arch = gpus.split('\n')[0].replace('.', '') || CUDA_ARCHS.at(-1);
  return CUDA_ARCHS.includes(arch) ? [arch] : CUDA_ARCHS;
}

/** The command that compiles one source, without its output path. */
function commandFor(path, compiler, cuda) {
  const file = join(NATIVE, path);
  const defines = [`-I${NATIVE}`];
  if (cuda) defines.push('-DFLASHMASK_CUDA');
  if (path.endsWith('.cu')) {
    const host = [...COMPILE.filter((flag) => /^-[fp]/.test(flag)), '-Wall'].join(',');
    const flags = ['-std=c++17', '-O3', '-DNDEBUG', '-ccbin', compiler.command, `-Xcompiler=${host}`, ...cuda.flags];
    return {command: cuda.command, args: [...flags, ...defines, '-c', file], about: cuda.about + compiler.about};
  }
  const flags = [...COMPILE, ...SECTIONS, ...(process.arch === 'x64' ? instructionSetFlags(path) : [])];
  // GCC warns that its own AVX-512 intrinsics read uninitialized variables (GCC bug 105593).
  if (!compiler.about.includes('clang')) flags.push('-Wno-maybe-uninitialized');
  if (path.startsWith('node')) {
    flags.push('-DNAPI_VERSION=8', '-isystem', nodeHeaders(), `-DFLASHMASK_VERSION="${version}"`);
    if (cuda)
      flags.push(`-DFLASHMASK_CUDA_VERSION="${cuda.version}"`, `-DFLASHMASK_CUDA_ARCHS="${cuda.archs.join(',')}"`);
  }
  return {command: compiler.command, args: [...flags, ...defines, '-c', file], about: compiler.about};
}

/** A job with the path of its object, which is named after everything it depends on. */
function withObject({path, command, args, about}) {
  const hash = createHash('sha256').update([about, command, ...args.map((arg) => arg.replace(root, ''))].join('\0'));
  hashSource(hash, join(NATIVE, path));
  return {path, command, args, object: join(CACHE, `${hash.digest('hex').slice(0, 32)}.o`)};
}

/**
 * Compiles files of native/ for tests, with their own flags; objects that are in the cache are not compiled again.
 *
 * @param paths relative to native/
 * @returns the objects, in the order of the paths
 */
export async function compileForTests(paths, flags) {
  const compiler = findCompiler();
  mkdirSync(CACHE, {recursive: true, mode: 0o700});
  const jobs = paths.map((path) => {
    const args = [...flags, ...(process.arch === 'x64' ? instructionSetFlags(path) : []), '-c', join(NATIVE, path)];
    return withObject({path, command: compiler.command, args, about: compiler.about});
  });
  await compileAll(jobs, availableParallelism());
  return jobs.map(({object}) => object);
}

// ---- Work ----

/** Runs a command to its end. An error contains the last lines that it printed. */
function run(command, args) {
  return new Promise((resolve, reject) => {
    execFile(command, args, {maxBuffer: 2 ** 28}, (error, stdout, stderr) => {
      const printed = `${stdout}${stderr}`.trim();
      if (!error) resolve(printed);
      else
        reject(
          new BuildError(`${command} failed:\n${printed.split('\n').slice(0, LOG_LINES).join('\n') || error.message}`),
        );
    });
  });
}

async function compile({path, command, args, object}) {
  if (existsSync(object)) {
    const now = new Date();
    utimesSync(object, now, now);
    return;
  }
  const start = Date.now();
  // Renamed when complete, so that an interrupt or a second build leaves no partial object in the cache.
  const unfinished = object.replace(/\.o$/, `.${process.pid}.tmp.o`);
  const warnings = await run(command, [...args, '-o', unfinished]);
  renameSync(unfinished, object);
  log(`compiled native/${path} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  if (warnings) console.error(warnings);
}

/** Starts the longest jobs first: CUDA files take minutes. */
async function compileAll(jobs, atOnce) {
  const queue = [...jobs].sort((a, b) => Number(b.path.endsWith('.cu')) - Number(a.path.endsWith('.cu')));
  const worker = async () => {
    for (let job = queue.shift(); job; job = queue.shift()) await compile(job);
  };
  await Promise.all(Array.from({length: atOnce}, worker));
}

function linkFlags(cuda) {
  if (process.platform === 'darwin') return ['-bundle', '-undefined', 'dynamic_lookup'];
  return [
    '-shared',
    '-pthread',
    '-static-libstdc++',
    '-static-libgcc',
    `-Wl,--version-script=${join(NATIVE, 'node', 'exports.map')}`,
    // TensorFlow keeps pointers to the kernels while the process runs, but Node unloads the addons of a worker that
    // ends.
    '-Wl,-z,nodelete',
    '-Wl,-z,now',
    '-Wl,--gc-sections',
    '-s',
    ...(cuda ? [`-L${cuda.home}`, '-lcudart_static'] : []),
    '-lrt',
    '-ldl',
  ];
}

async function link(compiler, jobs, cuda, target) {
  mkdirSync(dirname(target), {recursive: true});
  const unfinished = `${target}.${process.pid}.tmp`;
  await run(compiler.command, ['-o', unfinished, ...jobs.map(({object}) => object), ...linkFlags(cuda)]);
  requireLoads(unfinished);
  renameSync(unfinished, target);
}

/** Loads an addon in a separate process. Returns null on success, else the error. */
function loadError(path) {
  const script = 'process.dlopen({exports: {}}, process.argv[1])';
  const {status, stderr} = spawnSync(process.execPath, ['-e', script, path], {encoding: 'utf8'});
  return status === 0 ? null : (/^Error: (.*)$/m.exec(stderr)?.[1] ?? stderr.trim());
}

function requireLoads(path) {
  const error = loadError(path);
  if (error === null) return;
  rmSync(path, {force: true});
  throw new BuildError(`what was built does not load: ${error}`);
}

function dropStaleObjects() {
  for (const name of readdirSync(CACHE)) {
    const path = join(CACHE, name);
    if (Date.now() - statSync(path).mtimeMs > STALE_OBJECT_MS) rmSync(path, {force: true});
  }
}

async function build(options, target) {
  if (process.platform === 'win32') throw new BuildError('the addon is for Linux and macOS, got Windows. Use WSL.');
  const start = Date.now();
  const compiler = findCompiler();
  const cuda = planCuda(options);
  mkdirSync(CACHE, {recursive: true, mode: 0o700});
  const jobs = sources(cuda !== null).map((path) => withObject({path, ...commandFor(path, compiler, cuda)}));
  await compileAll(jobs, Number(options.jobs ?? availableParallelism()));
  await link(compiler, jobs, cuda, target);
  dropStaleObjects();
  const seconds = ((Date.now() - start) / 1000).toFixed(1);
  const parts = cuda ? `CPU, and CUDA ${cuda.version} for ${cuda.archs.join(', ')}` : 'CPU';
  log(`${relative(root, target)} in ${seconds} s: ${parts}`);
}

async function main() {
  const {values: options} = parseArgs({
    options: {
      'no-cuda': {type: 'boolean'},
      cuda: {type: 'boolean'},
      arch: {type: 'string'},
      'one-arch': {type: 'boolean'},
      out: {type: 'string'},
      jobs: {type: 'string'},
    },
  });
  try {
    await build(options, options.out ? resolve(options.out) : LOCAL);
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    log(error.message);
    process.exitCode = 1;
  }
}

// Not if a test imports this file.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
