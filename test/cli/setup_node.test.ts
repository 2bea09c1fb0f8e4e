/**
 * @file `tfjs-flashmask setup-node` in a user's project: the whole installation with small stand-ins for TensorFlow and
 * tfjs-node, every error, interruptions, and the real TensorFlow where it is set up.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {hostname} from 'node:os';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {expect} from 'chai';
import {strToU8} from 'fflate';
import {type Platform, platformTags, requireSpace, thisPlatform, unsupported} from '../../src/cli/platform.js';
import {isComplete, tensorFlowFolder} from '../../src/cli/tensorflow.js';
import {findTfjsNode, tryTfjsNode} from '../../src/cli/tfjs_node.js';
import {unzip, withZip} from '../../src/cli/unzip.js';
import {
  CPU_WHEEL,
  FAKE_VERSION,
  FakeProject,
  MACHINE,
  programs,
  runCommand,
  tensorFlowFiles,
  wheelFolder,
  whyNotHere,
  writeWheel,
} from '../support/fake_tfjs_node.js';
import {type Finished, root, temporaryFolder} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

const REQUIREMENT = CPU_WHEEL.replace('_', '-');
const SETUP = ['setup-node', '--tensorflow', FAKE_VERSION];
const LINUX: Platform = {os: 'linux', arch: 'x64', glibc: '2.36'};
/** Programs that only print their version. */
const COMPILER = 'echo "g++ 12.2"';
const PIP = '[ "$3" = --version ] && echo "pip 23.2 from /usr/lib" && exit 0';
const here = whyNotHere();

function expectError({code, stderr}: Finished, ...messages: (string | RegExp)[]): void {
  expect(code, stderr).to.equal(1);
  messages.forEach((message) => {
    if (typeof message === 'string') {
      expect(stderr).to.include(message);
    } else {
      expect(stderr).to.match(message);
    }
  });
  expect(stderr, 'no stack').not.to.match(/^\s+at /m);
}

function expectSuccess({code, stderr}: Finished, ...messages: string[]): void {
  expect(code, stderr).to.equal(0);
  messages.forEach((message) => expect(stderr).to.include(message));
}

describe('setup-node', () => {
  describe('what it needs', () => {
    const refusals: [string, Platform, boolean, RegExp][] = [
      ['macOS', {os: 'darwin', arch: 'arm64', glibc: null}, false, /must be Linux.*got darwin-arm64\. .*npm rebuild/],
      ['Windows', {os: 'win32', arch: 'x64', glibc: null}, false, /must be Linux.*got win32-x64\. Use WSL 2, or/],
      ['32 bits', {os: 'linux', arch: 'ia32', glibc: '2.36'}, false, /x64 or arm64, got linux-ia32/],
      [
        'musl',
        {...LINUX, glibc: null},
        false,
        /must be glibc, got linux-x64 without glibc, as in Alpine\. Use an image/,
      ],
      [
        'an old glibc',
        {...LINUX, glibc: '2.17'},
        false,
        /glibc must be 2\.27 or newer, got linux-x64 with glibc 2\.17/,
      ],
      ['CUDA on arm64', {...LINUX, arch: 'arm64'}, true, /--gpu needs x64, got linux-arm64.*leave --gpu out/],
    ];
    for (const [name, platform, gpu, message] of refusals) {
      it(`refuses ${name}, with the remedy`, () => {
        expect(unsupported(platform, gpu)).to.match(message);
      });
    }

    it('takes Linux with glibc on x64 and arm64', () => {
      expect(unsupported(LINUX, true)).to.equal(null);
      expect(unsupported({...LINUX, arch: 'arm64', glibc: '2.27'}, false)).to.equal(null);
    });

    it('asks pip for wheels that this glibc can run, and no newer', () => {
      const tags = platformTags({...LINUX, glibc: '2.28'});
      expect(tags[0]).to.equal('manylinux_2_28_x86_64');
      expect(tags).to.include.members(['manylinux_2_17_x86_64', 'manylinux2014_x86_64']);
      expect(platformTags({...LINUX, arch: 'arm64'})[0]).to.equal('manylinux_2_36_aarch64');
    });

    it('needs room on the disk', () => {
      expect(() => requireSpace('/cache', 1.5e9, 2e8)).to.throw(
        /\/cache must have 1\.5 GB free, got 200 MB\. Free some/,
      );
      requireSpace('/cache/that/is/not/there', 1);
    });

    const needs: [string, string[], NodeJS.ProcessEnv, (string | RegExp)[]][] = [
      ['a Python', ['g++'], {}, ["Python's pip must be installed", 'got no Python. Install it: "apt install python3']],
      [
        'a C++ compiler',
        ['python3'],
        {},
        ['a C++ compiler must be installed', 'neither g++ nor clang++', 'apt install g++'],
      ],
      ['the compiler in CXX', ['python3', 'g++'], {CXX: 'no-such-cxx -v'}, ['CXX=no-such-cxx -v, which does not run']],
    ];
    for (const [name, there, env, messages] of needs) {
      it(`needs ${name}`, async function () {
        if (process.platform !== 'linux') skip(this, 'setup-node is for Linux');
        const all: Record<string, string> = {'g++': COMPILER, python3: PIP};
        const path = programs(Object.fromEntries(there.map((program) => [program, all[program]])));
        expectError(await new FakeProject().run(SETUP, {env: {PATH: path, ...env}}), ...messages);
      });
    }

    it('needs pip beside Python', async function () {
      if (process.platform !== 'linux') skip(this, 'setup-node is for Linux');
      const python3 = '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; echo "No module named pip" >&2; exit 1';
      const finished = await new FakeProject().run(SETUP, {env: {PATH: programs({'g++': COMPILER, python3})}});
      expectError(finished, 'got Python 3.9.2 without it', 'apt install python3-pip', 'ensurepip');
    });

    it('needs tfjs-node in the project', async () => {
      const folder = temporaryFolder();
      expectError(
        await runCommand(folder, ['setup-node']),
        `must have @tensorflow/tfjs-node, got none from ${folder}`,
        'npm install --ignore-scripts @tensorflow/tfjs-node@4.22.0',
      );
    });

    it('needs a version of TensorFlow 2', async function () {
      if (process.platform !== 'linux') skip(this, 'setup-node is for Linux');
      const finished = await new FakeProject().run(['setup-node', '--tensorflow', 'newest']);
      expectError(finished, "--tensorflow must be a version of TensorFlow 2, such as 2.21.0, got 'newest'");
    });

    it('explains an unknown option', async () => {
      const finished = await new FakeProject().run(['setup-node', '--cuda']);
      expectError(finished, "unknown option '--cuda'", '--help');
    });
  });

  describe("pip's errors", () => {
    const cases: [string, string, (string | RegExp)[]][] = [
      [
        'no network',
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(Temporary failure in name resolution)'" +
          '\nERROR: Could not find a version that satisfies the requirement x (from versions: none)',
        ['index must be reachable', 'Check the network, or the proxy'],
      ],
      [
        'no such version',
        'ERROR: Could not find a version that satisfies the requirement x (from versions: 2.16.1, 2.20.0)\n' +
          'ERROR: No matching distribution found for x',
        [`must have a wheel of ${REQUIREMENT}==${FAKE_VERSION}`, 'got only 2.16.1, 2.20.0. Choose another version'],
      ],
      ['no package at all', 'ERROR: No matching distribution found for x', ['got none. Choose another version']],
      ['a wrong checksum', 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES', ['got another: the download was damaged']],
      ['a full disk', 'OSError: [Errno 28] No space left on device', ['the disk must have room']],
      ['anything else', 'ERROR: a bug of pip', ['got an error of it', 'pip says:\n    ERROR: a bug of pip']],
    ];
    for (const [name, output, messages] of cases) {
      it(`explains ${name}`, async function () {
        if (process.platform !== 'linux') skip(this, 'setup-node is for Linux');
        const python3 = `${PIP}\ncat >&2 <<'END'\n${output}\nEND\nexit 1`;
        const PATH = `${programs({'g++': COMPILER, python3})}:/usr/bin:/bin`;
        const project = new FakeProject();
        expectError(await project.run(SETUP, {env: {PATH}}), 'setup-node: ', 'pip says:', ...messages);
        expect(
          readdirSync(join(project.cache, 'tfjs-flashmask')).filter((file) => file.endsWith('.lock')),
        ).to.deep.equal([]);
      });
    }
  });

  describe(`the whole way${here ? ` (${here})` : ''}`, () => {
    before(function () {
      if (here) this.skip();
    });
    const cached = (project: FakeProject, name = 'cpu') =>
      join(project.cache, 'tfjs-flashmask', `tensorflow-${FAKE_VERSION}-${name}-linux-${process.arch}`);
    const partial = (project: FakeProject) =>
      join(project.cache, 'tfjs-flashmask', `.tensorflow-${FAKE_VERSION}-cpu-linux-${process.arch}.partial`);

    it('downloads, unpacks what is used, builds, proves; the second time changes nothing', async () => {
      const project = new FakeProject();
      const wheels = wheelFolder();
      expectSuccess(
        await project.run(SETUP, {wheels}),
        `Downloading ${REQUIREMENT}==${FAKE_VERSION}`,
        `@tensorflow/tfjs-node 4.22.0 with TensorFlow ${FAKE_VERSION} on the CPU works: a matMul gave the right numbers.`,
        `TensorFlow is in ${cached(project)}`,
      );
      expect(readdirSync(join(project.cache, 'tfjs-flashmask'))).to.deep.equal([cached(project).split('/').at(-1)]);
      expect(readdirSync(cached(project)).sort()).to.deep.equal(
        ['manifest.json', 'tensorflow', `${CPU_WHEEL}-${FAKE_VERSION}.dist-info`].sort(),
      );
      expect(existsSync(join(cached(project), 'tensorflow', 'python'))).to.equal(false);
      expect(readdirSync(join(project.tfjsNode, 'lib', 'napi-v8'))).to.deep.equal([
        'tfjs-flashmask.json',
        'tfjs_binding.node',
      ]);
      const {mtimeMs} = statSync(project.binding);
      expectSuccess(await project.run(['setup-node']), 'works already; nothing was changed.');
      expectSuccess(await project.run(['setup-node', '--tensorflow', '2.98.0']), 'TensorFlow 2.98.0, add --force.');
      expect(statSync(project.binding).mtimeMs).to.equal(mtimeMs);
    });

    it('with --force builds anew from the cache, without pip; a damaged cache is made again', async () => {
      const project = new FakeProject();
      const wheels = wheelFolder();
      expectSuccess(await project.run(SETUP, {wheels}));
      const {mtimeMs} = statSync(project.binding);
      const noPip = {
        PATH: `${programs({python3: 'exit 1', python: 'exit 1', pip3: 'exit 1', pip: 'exit 1'})}:${process.env.PATH!}`,
      };
      const again = await project.run([...SETUP, '--force'], {env: noPip});
      expectSuccess(again, 'works: a matMul');
      expect(again.stderr).not.to.include('Downloading');
      expect(statSync(project.binding).mtimeMs).to.be.above(mtimeMs);
      truncateSync(join(cached(project), 'tensorflow', 'libtensorflow_cc.so.2'), 100);
      expectSuccess(await project.run(SETUP, {wheels}), 'is damaged; it is made again', 'works: a matMul');
      expect(isComplete(cached(project))).to.equal(true);
    });

    it('is safe when several processes start at once', async () => {
      const projects = [1, 2, 3].map(() => new FakeProject());
      const wheels = wheelFolder();
      const env = {XDG_CACHE_HOME: projects[0].cache};
      const all = await Promise.all(projects.map((project) => project.start(SETUP, {wheels, env})));
      all.forEach((finished) => {
        expectSuccess(finished, 'works: a matMul');
      });
      expect(all.filter(({stderr}) => stderr.includes('Downloading'))).to.have.length(1);
    });

    it('goes on after an interruption in the download', async () => {
      const project = new FakeProject();
      const slow = {PATH: `${programs({python3: `${PIP}\nexec sleep 60`})}:${process.env.PATH!}`};
      const interrupted = project.start(SETUP, {env: slow});
      while (!existsSync(`${partial(project)}.lock`)) await sleep(50);
      await sleep(300);
      interrupted.kill('SIGINT');
      expect((await interrupted).code).to.equal(130);
      expect(existsSync(`${partial(project)}.lock`)).to.equal(false);
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder()}), 'works: a matMul');
      expect(existsSync(partial(project))).to.equal(false);
    });

    it('takes over from a process that was killed, with the wheel that it had', async () => {
      const project = new FakeProject();
      const downloads = join(partial(project), 'downloads');
      cpSync(wheelFolder(), downloads, {recursive: true});
      mkdirSync(join(downloads, '.pip-killed', 'tmp'), {recursive: true});
      const namespace = readlinkSync('/proc/self/ns/pid');
      const killed = {host: hostname(), namespace, pid: 999999999, started: '1', id: 'x'};
      writeFileSync(`${partial(project)}.lock`, JSON.stringify(killed));
      const finished = await project.run(SETUP, {wheels: temporaryFolder()});
      expectSuccess(finished, 'which an earlier run downloaded', 'works: a matMul');
      expect(finished.stderr).not.to.include('Downloading');
    });

    it('takes over from a process of another machine that is silent', async () => {
      const project = new FakeProject();
      mkdirSync(partial(project), {recursive: true});
      const lock = `${partial(project)}.lock`;
      writeFileSync(lock, JSON.stringify({host: 'another-machine', namespace: '', pid: 1, started: '', id: 'x'}));
      utimesSync(lock, new Date(0), new Date(0));
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder()}), 'works: a matMul');
    });

    it('downloads again what is damaged', async () => {
      const project = new FakeProject();
      const downloads = join(partial(project), 'downloads');
      cpSync(wheelFolder(), downloads, {recursive: true});
      const wheel = join(downloads, readdirSync(downloads)[0]);
      truncateSync(wheel, statSync(wheel).size - 200);
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder()}), 'Downloading', 'works: a matMul');
    });

    it('says what is damaged inside a wheel, and deletes it', async () => {
      const project = new FakeProject();
      const wheels = wheelFolder();
      const wheel = join(wheels, readdirSync(wheels)[0]);
      const bytes = readFileSync(wheel);
      bytes.fill(0xff, 200, 400);
      writeFileSync(wheel, bytes);
      expectError(await project.run(SETUP, {wheels}), 'must be whole, got a damaged one', 'run the same command again');
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder()}), 'works: a matMul');
    });

    it('compares the checksum of the TensorFlow that it was tested with', async function () {
      if (process.arch !== 'x64') skip(this, 'the wheels are those of x64');
      const wheels = temporaryFolder();
      // Of another Python version than the pinned wheel, which makes no difference.
      writeWheel(wheels, 'tensorflow_cpu', '2.21.0', 'cp311-cp311-manylinux_2_27_x86_64', tensorFlowFiles());
      const project = new FakeProject();
      expectError(
        await project.run(['setup-node'], {wheels}),
        /must be whole, got SHA-256 [0-9a-f]{12}\.\.\. in place of dcc8afd32930\.\.\./,
      );
    });

    it('takes the wheel of whatever Python version there is', async () => {
      const project = new FakeProject();
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder({python: 'cp310'})}), 'works: a matMul');
    });

    it('refuses a TensorFlow without the C++ libraries', async () => {
      const wheels = temporaryFolder();
      const files = {...tensorFlowFiles()};
      delete files['tensorflow/libtensorflow_cc.so.2'];
      writeWheel(wheels, CPU_WHEEL, FAKE_VERSION, `cp312-cp312-manylinux_2_17_${MACHINE}`, files);
      const project = new FakeProject();
      expectError(
        await project.run(SETUP, {wheels}),
        `got ${FAKE_VERSION} without libtensorflow_cc.so.2`,
        'such as 2.21.0',
      );
      expectSuccess(await project.run(SETUP, {wheels: wheelFolder()}), 'works: a matMul');
    });

    it('with --gpu takes the CUDA wheels that TensorFlow names, beside it, and prefers tfjs-node-gpu', async function () {
      if (process.arch !== 'x64') skip(this, 'the wheels are those of x64');
      const requires =
        'Requires-Dist: numpy>=1.26\n' +
        'Requires-Dist: nvidia-parts-cu12<13.0,>=12.5; extra == "and-cuda"\n' +
        "Requires-Dist: nvidia-more-cu12 (<10,>=9) ; extra == 'and-cuda'\n";
      const wheels = wheelFolder({name: 'tensorflow', requires});
      const files = (part: string) => ({
        [`nvidia/${part}/lib/lib${part}.so.12`]: strToU8(part),
        [`nvidia/${part}/include/${part}.h`]: strToU8('not used'),
      });
      writeWheel(wheels, 'nvidia_parts_cu12', '12.4', 'py3-none-manylinux_2_27_x86_64', files('old'));
      writeWheel(wheels, 'nvidia_parts_cu12', '12.9', 'py3-none-manylinux_2_27_x86_64', files('parts'));
      writeWheel(wheels, 'nvidia_more_cu12', '9.1', 'py3-none-manylinux2014_x86_64', files('more'));
      const project = new FakeProject('tfjs-node-gpu');
      expectSuccess(
        await project.run([...SETUP, '--gpu'], {wheels}),
        'Downloading nvidia-parts-cu12<13.0,>=12.5',
        '@tensorflow/tfjs-node-gpu 4.22.0 with TensorFlow',
        'No NVIDIA GPU was found on this machine',
      );
      const folder = cached(project, 'gpu');
      expect(readdirSync(join(folder, 'nvidia')).sort()).to.deep.equal(['more', 'parts']);
      expect(readdirSync(join(folder, 'nvidia', 'parts'))).to.deep.equal(['lib']);
      const binding = readFileSync(project.binding, 'latin1');
      expect(binding).to.include(join(folder, 'nvidia', 'parts', 'lib'));
      expectSuccess(await project.run(['setup-node', '--gpu']), 'TensorFlow with CUDA, add --force');
    });

    it("shows the compiler's words, and keeps the addon that was there", async () => {
      const project = new FakeProject();
      project.source('binding/tfjs_backend.cc', '#include "tensorflow/c/c_api.h"\nint x = "no";\n');
      project.source('lib/napi-v8/tfjs_binding.node', 'an old one');
      expectError(
        await project.run(SETUP, {wheels: wheelFolder()}),
        `must compile with C++17 against TensorFlow ${FAKE_VERSION}`,
        /The compiler says:[\s\S]*tfjs_backend\.cc:2/,
      );
      expect(readFileSync(project.binding, 'utf8')).to.equal('an old one');
    });

    it('puts the addon that was there back where the new one does not work', async () => {
      const project = new FakeProject();
      project.source('lib/napi-v8/tfjs_binding.node', 'an old one');
      const index = readFileSync(join(project.tfjsNode, 'index.js'), 'utf8');
      project.source('index.js', index.replace('row[1]', '0'));
      expectError(
        await project.run(SETUP, {wheels: wheelFolder()}),
        'its matMul gives 1,2,3,6 in place of 7,10,15,22',
        'The addon that was there before is back',
      );
      expect(readdirSync(join(project.tfjsNode, 'lib', 'napi-v8'))).to.deep.equal(['tfjs_binding.node']);
      expect(readFileSync(project.binding, 'utf8')).to.equal('an old one');
    });

    it('names what of tfjs-node is missing', async () => {
      const project = new FakeProject();
      rmSync(join(project.tfjsNode, 'binding', 'tfjs_binding.cc'));
      expectError(await project.run(SETUP, {wheels: wheelFolder()}), 'must have its C++ sources', 'Reinstall it');
    });

    it('needs a cache folder that can be written', async () => {
      const project = new FakeProject();
      const file = join(project.folder, 'file');
      writeFileSync(file, '');
      const finished = await project.run(SETUP, {wheels: wheelFolder(), env: {XDG_CACHE_HOME: file}});
      expectError(finished, 'cache folder must be writable, got ENOTDIR', 'XDG_CACHE_HOME');
    });

    it('works in a folder with a space, a comma and a quote in its name', async () => {
      const project = new FakeProject();
      const cache = join(project.cache, "a, 'b' c");
      const finished = await project.run(SETUP, {wheels: wheelFolder(), env: {XDG_CACHE_HOME: cache}});
      expectSuccess(finished, 'works: a matMul');
    });
  });

  describe('a wheel', () => {
    it('is unpacked as it was packed, empty and stored files too', async () => {
      const folder = temporaryFolder();
      const text = 'attention '.repeat(1e5);
      const files = {
        'a/deflated': strToU8(text),
        'a/empty': strToU8(''),
        stored: [strToU8('as is'), {level: 0}],
      } as const;
      const wheel = writeWheel(folder, 'x', '1', 'py3-none-any', {...files, stored: [files.stored[0], {level: 0}]});
      const contents: Record<string, string> = {};
      await withZip(wheel, async (entries, zip) => {
        for (const entry of entries) {
          await unzip(zip, entry, join(folder, 'out', entry.fileName));
          contents[entry.fileName] = readFileSync(join(folder, 'out', entry.fileName), 'utf8');
        }
      });
      expect(contents).to.include({'a/deflated': text, 'a/empty': '', stored: 'as is'});
    });

    it('is refused when it is no zip archive or ends early', async () => {
      const path = join(temporaryFolder(), 'x.whl');
      writeFileSync(path, 'a page that says 404');
      const refusal = await withZip(path, () => null).catch((error: unknown) => (error as Error).message);
      expect(refusal).to.include('not a zip file, or file is truncated');
    });
  });

  describe('the real tfjs-node', () => {
    it('multiplies matrices with TensorFlow from the cache', async function () {
      const [tfjsNode] = findTfjsNode(root, false);
      const folder = tensorFlowFolder({version: '2.21.0', gpu: false, platform: thisPlatform()});
      if (!isComplete(folder)) {
        this.test!.title += ' (setup-node has not run here)';
        this.skip();
      }
      const trial = await tryTfjsNode(tfjsNode);
      expect(trial).to.deep.include({works: true});
      const {loaded} = trial as Extract<typeof trial, {works: true}>;
      expect(loaded).to.deep.include({tfjs: tfjsNode.version, usesGpu: false});
      expect(loaded.tensorflow).to.match(/^2\./);
    });
  });
});
