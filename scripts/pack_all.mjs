/**
 * @file Packs all packages of a release as tarballs in one folder: the main package, and the addon for this platform as
 * separate packages, one for the CPU and, if there is an nvcc, one with CUDA. The main package lists the CPU package as
 * an optional dependency, so that npm installs it only on its platform. Users install the CUDA package on request.
 *
 *     node scripts/pack_all.mjs
 *       --out tarballs          the folder
 *       --no-cuda               without the package with CUDA
 *       --tarball FILE          the package as packed by `npm pack`; without it, it is built and packed here
 */
import {spawnSync} from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const PLATFORM = `${process.platform}-${process.arch}`;
const ADDON = 'tfjs_flashmask.node';
const main = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

const {values: options} = parseArgs({
  options: {out: {type: 'string', default: 'tarballs'}, 'no-cuda': {type: 'boolean'}, tarball: {type: 'string'}},
});
const out = resolve(options.out);
const work = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-pack-'));

/** Runs a command and returns its standard output. Its standard error is shown. */
function run(command, args, cwd = root) {
  const stdio = ['ignore', 'pipe', 'inherit'];
  const {status, stdout, error} = spawnSync(command, args, {cwd, stdio, encoding: 'utf8'});
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`);
  return stdout;
}

/** Packs a folder and returns the path of the tarball. */
function pack(folder, to) {
  mkdirSync(to, {recursive: true});
  return join(to, run('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', to], folder).trim());
}

function writeJson(path, value) {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** The package.json of an addon's package. */
function addonPackage(name, what) {
  const {version, license, repository, homepage, bugs, engines} = main;
  const description = `The native kernels of tfjs-flashmask for ${PLATFORM}: ${what}.`;
  const platform = {
    os: [process.platform],
    cpu: [process.arch],
    ...(process.platform === 'linux' && {libc: ['glibc']}),
  };
  return {
    name,
    version,
    description,
    license,
    repository,
    homepage,
    bugs,
    engines,
    ...platform,
    main: ADDON,
    files: [ADDON],
  };
}

/** Builds the addon and packs it. Returns null, after printing the reason, if that is not possible here. */
function packAddon(suffix, what, flags) {
  const name = `tfjs-flashmask-${PLATFORM}${suffix}`;
  const folder = join(work, name);
  mkdirSync(folder);
  const build = ['scripts/build_native.mjs', ...flags, '--out', join(folder, ADDON)];
  const {status} = spawnSync(process.execPath, build, {cwd: root, stdio: ['ignore', 'inherit', 'inherit']});
  if (status !== 0) {
    console.log(`skipped ${name}: the reason is above`);
    return null;
  }
  const json = addonPackage(name, what);
  writeJson(join(folder, 'package.json'), json);
  writeFileSync(join(folder, 'README.md'), `# ${name}\n\n${json.description} See ${main.homepage}.\n`);
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  console.log(pack(folder, out));
  return name;
}

/**
 * Packs the package with the addon's package as a dependency. It is added only here, because the repository's lock file
 * cannot name a package that is not published.
 */
function packMain(addon) {
  if (!options.tarball) run('npm', ['run', '--silent', 'build']);
  const tarball = options.tarball ? resolve(options.tarball) : pack(root, work);
  run('tar', ['-xzf', tarball, '-C', work]);
  const folder = join(work, 'package');
  const path = join(folder, 'package.json');
  const json = JSON.parse(readFileSync(path, 'utf8'));
  if (addon !== null) json.optionalDependencies = {[addon]: main.version};
  writeJson(path, json);
  console.log(pack(folder, out));
}

try {
  if (existsSync(out)) readdirSync(out).forEach((name) => name.endsWith('.tgz') && rmSync(join(out, name)));
  const addon = packAddon('', 'on the CPU', ['--no-cuda']);
  if (!options['no-cuda']) packAddon('-cuda', 'on the CPU and, with CUDA, on NVIDIA GPUs', ['--cuda']);
  packMain(addon);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  rmSync(work, {recursive: true, force: true});
}
