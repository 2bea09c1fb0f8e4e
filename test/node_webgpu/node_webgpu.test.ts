/**
 * @file `useWebGPU()` of the packed package, each time in its own process: the software driver's cache, how processes
 * end, and every error. test/op/kernels.test.ts tests the kernels on it.
 */
import {existsSync, mkdirSync, readFileSync, readdirSync, statSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {brotliCompressSync} from 'node:zlib';
import {expect} from 'chai';
import {type Finished, Project, temporaryFolder} from '../support/packed_project.js';
import {skip} from '../support/skip.js';
import {untar} from '../../src/node_webgpu/untar.js';

/** Whether SwiftShader and Dawn exist for this platform; elsewhere there is only the system's adapter. */
const hasSwiftShader = process.platform === 'linux' && process.arch === 'x64';
const DRIVER = 'libvk_swiftshader.so';

const START = `
import * as tf from '@tensorflow/tfjs';
import {useWebGPU} from 'tfjs-flashmask/node-webgpu';
`;
const SUM = `console.log('SUM ' + (await tf.sum(tf.ones([300])).data())[0]);\n`;

function expectError(finished: Finished, message: RegExp): void {
  expect(finished.code).to.equal(1);
  expect(finished.stderr).to.match(message);
}

/** The driver's folder in a cache. */
function driverFolders(cache: string): string[] {
  const folder = join(cache, 'tfjs-flashmask');
  return existsSync(folder) ? readdirSync(folder) : [];
}

describe('useWebGPU', () => {
  let project: Project;
  before(function () {
    if (!hasSwiftShader) skip(this, 'no SwiftShader for this platform');
    project = new Project();
    project.write('sum.mjs', `${START} await useWebGPU({software: true}); ${SUM}`);
  });
  const fails = async (script: string, message: RegExp, where = project) => {
    const file = where.write('fails.mjs', `${START} ${script}`);
    expectError(await where.start([file]), message);
  };

  describe('the backend', () => {
    it('runs tfjs, tells its adapter in one line, and lets the process end', async () => {
      const script = `${START} const info = await useWebGPU({software: true}); ${SUM}
        console.log(JSON.stringify({...info, backend: tf.getBackend()}));`;
      const {stdout, stderr} = await project.run('main.mjs', script);
      expect(stdout).to.include('SUM 300');
      const info = JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, unknown>;
      expect(info).to.include({backend: 'webgpu', vendor: 'google', architecture: 'swiftshader', software: true});
      expect(info.limits).to.include.keys('maxComputeWorkgroupStorageSize', 'maxStorageBufferBindingSize');
      expect(info.features).to.include('timestamp-query').and.not.include('subgroups');
      const ours = stderr.split('\n').filter((line) => line.startsWith('tfjs-flashmask:'));
      expect(ours).to.deep.equal([`tfjs-flashmask: WebGPU on ${info.adapter as string} (software: runs on the CPU)`]);
    });

    it('works from CommonJS, and beside the ES module is set up once', async () => {
      const script = `
        const tf = require('@tensorflow/tfjs');
        const {useWebGPU} = require('tfjs-flashmask/node-webgpu');
        const lines = [];
        (async () => {
          const other = await import('tfjs-flashmask/node-webgpu');
          const options = {software: true, logger: (line) => lines.push(line)};
          const [first, second] = await Promise.all([useWebGPU(options), other.useWebGPU(options)]);
          if (first !== second || lines.length !== 1) throw new Error('set up twice: ' + lines);
          ${SUM}
        })();`;
      expect((await project.run('main.cjs', script)).stdout).to.include('SUM 300');
    });

    it('works when tfjs-backend-webgpu was imported before', async () => {
      const script = `import '@tensorflow/tfjs-backend-webgpu'; ${START} await useWebGPU({software: true}); ${SUM}`;
      expect((await project.run('main.mjs', script)).stdout).to.include('SUM 300');
    });

    it("takes a device with all features for device: 'full'", async () => {
      const script = `${START} const {features} = await useWebGPU({software: true, device: 'full', quiet: true}); ${SUM}
        console.log('FEATURES ' + features);`;
      const {stdout, stderr} = await project.run('main.mjs', script);
      expect(stdout)
        .to.include('SUM 300')
        .and.match(/FEATURES .*subgroups/);
      expect(stderr).not.to.include('tfjs-flashmask');
    });

    it('validates without executing for nullBackend', async () => {
      const script = `${START} const info = await useWebGPU({nullBackend: true});
        const device = tf.backend().device;
        device.pushErrorScope('validation');
        device.createShaderModule({code: 'fn broken('});
        console.log('ERROR ' + (await device.popErrorScope()).message);`;
      const {stdout, stderr} = await project.run('main.mjs', script);
      expect(stdout).to.include('ERROR Error while parsing WGSL');
      expect(stderr).to.include('null: executes nothing');
    });
  });

  describe('the end of the process', () => {
    const WORK = `const a = tf.ones([256, 256]); for (let i = 0; i < 10; i++) tf.matMul(a, a); const last = tf.matMul(a, a).data();`;
    const cases: [string, string, number][] = [
      ['waits for what is awaited', `${WORK} void last.then((data) => console.log('GOT ' + data[0]));`, 0],
      ['follows process.exit while work is pending', `${WORK} process.exit(3);`, 3],
      ['follows an exception while work is pending', `${WORK} throw new Error('boom');`, 1],
      ['follows the loss of the device', `${WORK} last.catch(() => 0); tf.backend().device.destroy();`, 0],
    ];
    for (const [name, script, code] of cases) {
      it(name, async () => {
        const file = project.write('ends.mjs', `${START} await useWebGPU({software: true}); ${script}`);
        const finished = await project.start([file]);
        expect(finished).to.include({code, signal: null});
        if (name.startsWith('waits')) {
          expect(finished.stdout).to.include('GOT 256');
        }
      });
    }

    it('leaves the event loop idle in between', async () => {
      const script = `${START} await useWebGPU({software: true}); ${SUM}
        const before = process.cpuUsage();
        await new Promise((resolve) => setTimeout(resolve, 1000));
        const {user, system} = process.cpuUsage(before);
        console.log('BUSY ' + (user + system) / 1e6);`;
      const {stdout} = await project.run('main.mjs', script);
      expect(Number(/BUSY (.*)/.exec(stdout)![1])).to.be.below(0.3);
    });
  });

  describe("the software driver's cache", () => {
    const start = (cache: string) => project.start(['sum.mjs'], {XDG_CACHE_HOME: cache});

    it('is made once by several processes at once', async () => {
      const cache = temporaryFolder();
      const finished = await Promise.all([1, 2, 3, 4].map(() => start(cache)));
      finished.forEach(({stdout, code}) => expect({stdout, code}).to.deep.equal({stdout: 'SUM 300\n', code: 0}));
      expect(driverFolders(cache))
        .to.have.length(1)
        .and.match(/^swiftshader-/);
      const driver = join(cache, 'tfjs-flashmask', driverFolders(cache)[0], DRIVER);
      const {mtimeMs} = statSync(driver);
      await start(cache);
      expect(statSync(driver).mtimeMs).to.equal(mtimeMs);
    });

    it('is made again when damaged, and cleared of what interrupted processes left', async () => {
      const cache = temporaryFolder();
      await start(cache);
      const folder = join(cache, 'tfjs-flashmask');
      const driver = join(folder, driverFolders(cache)[0], DRIVER);
      const sound = readFileSync(driver);
      // Of the same size: only its content tells.
      writeFileSync(
        driver,
        sound.map((byte, i) => (i === 5000 ? byte ^ 1 : byte)),
      );
      const abandoned = join(folder, '.unpacking-abandoned');
      mkdirSync(abandoned);
      utimesSync(abandoned, 0, 0);
      expect((await start(cache)).stdout).to.equal('SUM 300\n');
      expect(readFileSync(driver).equals(sound)).to.equal(true);
      expect(driverFolders(cache)).to.have.length(1);
    });

    it('is private to the process, and removed, where the cache folder cannot be written', async () => {
      const scratch = temporaryFolder();
      const file = join(scratch, 'file');
      writeFileSync(file, '');
      const {stdout, code} = await project.start(['sum.mjs'], {XDG_CACHE_HOME: file, TMPDIR: scratch});
      expect({stdout, code}).to.deep.equal({stdout: 'SUM 300\n', code: 0});
      expect(readdirSync(scratch)).to.deep.equal(['file']);
    });
  });

  describe("with a Vulkan loader of the system's", () => {
    const cache = () => temporaryFolder();
    const driver = async (folder: string) => {
      await project.start(['sum.mjs'], {XDG_CACHE_HOME: folder});
      return join(folder, 'tfjs-flashmask', driverFolders(folder)[0]);
    };
    const auto = `${START} await useWebGPU(); ${SUM} console.log('DRIVER ' + process.env.VK_DRIVER_FILES);`;

    it('takes SwiftShader where that finds no driver', async () => {
      const folder = await driver(cache());
      const env = {LD_LIBRARY_PATH: folder, VK_DRIVER_FILES: join(folder, 'none.json'), XDG_CACHE_HOME: cache()};
      const {stdout} = await project.run('auto.mjs', auto, env);
      expect(stdout).to.include('SUM 300').and.include(`DRIVER ${env.XDG_CACHE_HOME}`);
    });

    it('takes the software driver that the user has chosen', async () => {
      const folder = await driver(cache());
      const chosen = join(folder, 'vk_swiftshader_icd.json');
      const env = {LD_LIBRARY_PATH: folder, VK_DRIVER_FILES: chosen, XDG_CACHE_HOME: cache()};
      const {stdout, stderr} = await project.run('auto.mjs', auto, env);
      expect(stdout).to.include('SUM 300').and.include(`DRIVER ${chosen}`);
      expect(stderr).to.include('software: runs on the CPU');
      expect(driverFolders(env.XDG_CACHE_HOME)).to.deep.equal([]);
      const refused = project.write('gpu.mjs', `${START} await useWebGPU({software: false});`);
      expectError(await project.start([refused], env), /needs a GPU, got only the software adapter SwiftShader/);
    });
  });

  describe('errors', () => {
    it('names a package that is not installed, and how to install it', async () => {
      const missing = (name: string) => new Project({without: [name]});
      await fails(
        'await useWebGPU();',
        /npm package webgpu .* not installed\. Run `npm install webgpu@/,
        missing('webgpu'),
      );
      const withoutChromium = missing('@sparticuz');
      const script = 'await useWebGPU({software: true});';
      await fails(script, /@sparticuz\/chromium, which is not installed\. Run `npm install/, withoutChromium);
      withoutChromium.write('node_modules/@sparticuz/chromium/package.json', '{"version": "1.2.3", "main": "x.js"}');
      withoutChromium.write('node_modules/@sparticuz/chromium/x.js', '');
      await fails(
        script,
        /swiftshader\.tar\.br of @sparticuz\/chromium, got version 1\.2\.3 without it/,
        withoutChromium,
      );
      for (const damaged of [Buffer.from('no brotli'), brotliCompressSync(Buffer.alloc(700, 'x'))]) {
        const archive = withoutChromium.write('node_modules/@sparticuz/chromium/bin/swiftshader.tar.br', '');
        writeFileSync(archive, damaged);
        await fails(
          script,
          /swiftshader\.tar\.br is damaged\. Version 1\.2\.3 is installed and 143\.0\.4 is tested: run `npm install/,
          withoutChromium,
        );
      }
    });

    it('says that a GPU is missing when one is asked for', async () => {
      const file = project.write('gpu.mjs', `${START} await useWebGPU({software: false}); ${SUM}`);
      const finished = await project.start([file]);
      if (finished.code !== 0) {
        expectError(finished, /\{software: false\} needs a GPU, got (no adapter|only the software adapter)/);
      } else {
        expect(finished.stdout).to.include('SUM 300');
      }
    });

    it('refuses a second setting in one process', () =>
      fails(
        'await useWebGPU({software: true, quiet: true}); await useWebGPU({nullBackend: true});',
        /a process has one WebGPU, got .*"nullBackend":true.* after .*"nullBackend":false/,
      ));

    it('can be tried again after an error', async () => {
      const script = `${START}
        await useWebGPU({dawnFlags: ['backend=nonsense'], nullBackend: true}).catch((error) => console.log('REFUSED'));
        await useWebGPU({software: true}); ${SUM}`;
      const {stdout} = await project.run('main.mjs', script);
      expect(stdout).to.include('REFUSED').and.include('SUM 300');
    });
  });
});

describe('createWebGPUBackend', () => {
  before(function () {
    if (!hasSwiftShader) skip(this, 'no SwiftShader for this platform');
  });
  it('makes a backend of another name with the kernels of webgpu, beside the stock one', async () => {
    const script = `${START}
      import {flashMaskAttention, masks} from 'tfjs-flashmask';
      import {createWebGPUBackend} from 'tfjs-flashmask/webgpu';
      await useWebGPU({software: true});
      const kept = tf.ones([300]);
      const backend = await createWebGPUBackend({name: 'webgpu-fast'});
      console.log('BACKEND ' + tf.getBackend() + ' ' + backend.device.features.has('subgroups'));
      ${SUM}
      const x = tf.ones([1, 4, 1, 4]);
      console.log('ATTENTION ' + (await flashMaskAttention(x, x, x, masks.causal(4)).data())[0]);
      console.log('KEPT ' + (await kept.data())[299]);
      await createWebGPUBackend().catch(({message}) => console.log('REFUSED ' + message));`;
    const {stdout} = await new Project().run('main.mjs', script);
    expect(stdout).to.include('BACKEND webgpu-fast true').and.include('SUM 300').and.include('KEPT 1');
    expect(stdout).to.include('ATTENTION 1');
    expect(stdout).to.match(/REFUSED createWebGPUBackend: the name must be free, got 'webgpu'.*pass \{name/);
  });

  it('says what is missing without WebGPU and without its package', async () => {
    const script = `import {createWebGPUBackend} from 'tfjs-flashmask/webgpu'; await createWebGPUBackend();`;
    const project = new Project();
    const file = project.write('main.mjs', script);
    expectError(await project.start([file]), /navigator\.gpu must exist, got none.*useWebGPU\(\)/);
    const without = new Project({without: ['@tensorflow']});
    ['tfjs-core', 'long', 'seedrandom'].forEach((name) => {
      without.link(name === 'tfjs-core' ? '@tensorflow/tfjs-core' : name);
    });
    const withNavigator = `globalThis.navigator ??= {}; Object.defineProperty(navigator, 'gpu', {value: {}}); ${script}`;
    const other = without.write('main.mjs', withNavigator);
    expectError(await without.start([other]), /@tensorflow\/tfjs-backend-webgpu cannot be loaded\. Run `npm install/);
  });
});

describe('untar', () => {
  const entry = (name: string, content: string, type = '0', size = content.length) => {
    const block = Buffer.alloc(512);
    block.write(name, 0);
    block.write(size.toString(8).padStart(11, '0'), 124);
    block.write(type, 156);
    return Buffer.concat([block, Buffer.from(content), Buffer.alloc((512 - (content.length % 512)) % 512)]);
  };

  it('reads regular files, of any length, and nothing else', () => {
    const long = 'x'.repeat(1000);
    const archive = Buffer.concat([
      entry('a', 'one'),
      entry('folder/', '', '5'),
      entry('b', long),
      entry('c', ''),
      Buffer.alloc(1024),
    ]);
    const files = [...untar(archive)].map(([name, content]) => [name, Buffer.from(content).toString()]);
    expect(files).to.deep.equal([
      ['a', 'one'],
      ['b', long],
      ['c', ''],
    ]);
  });

  it('refuses an archive that ends too early', () => {
    expect(() => untar(entry('a', 'one', '0', 5000))).to.throw('truncated archive');
  });
});
