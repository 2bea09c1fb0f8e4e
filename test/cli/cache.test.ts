/** @file The cache folder belongs to its user alone, and what is in it is verified before it counts as whole. */
import {chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {homedir, tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import {TENSORFLOW_VERSION, pinnedCuda, pinnedHashes} from '../../src/cli/pinned_wheels.js';
import {LIBRARIES, isComplete} from '../../src/cli/tensorflow.js';
import {cacheFolder, makeCacheFolder, requireOwn} from '../../src/node_webgpu/cache_folder.js';
import {within} from '../support/in_process.js';
import {skip} from '../support/skip.js';

describe('the wheels of setup-node', () => {
  it('are pinned by what is asked for, CUDA with its exact versions', () => {
    const cuda = pinnedCuda(TENSORFLOW_VERSION)!;
    expect(cuda.filter((requirement) => !/^nvidia-[a-z0-9-]+==[\d.]+$/.test(requirement))).to.deep.equal([]);
    const tensorflow = ['tensorflow', 'tensorflow-cpu'].map((name) => `${name}==${TENSORFLOW_VERSION}`);
    for (const requirement of [...tensorflow, ...cuda]) {
      const hashes = pinnedHashes(requirement)!;
      expect(hashes.length, requirement).to.be.above(0);
      hashes.forEach((sha256) => expect(sha256).to.match(/^[0-9a-f]{64}$/));
    }
    expect([pinnedCuda('2.20.0'), pinnedHashes('tensorflow==2.20.0')]).to.deep.equal([null, null]);
  });
});

describe('the cache folder', () => {
  let base: string;
  beforeEach(() => (base = mkdtempSync(join(tmpdir(), 'flashmask-cache-'))));
  afterEach(() => rmSync(base, {recursive: true, force: true}));
  const inCache = <T>(work: (folder: string) => T): Promise<T> =>
    within({env: {XDG_CACHE_HOME: base}}, () => Promise.resolve(work(cacheFolder())));

  it('is below XDG_CACHE_HOME, unless that is empty or relative', async () => {
    expect(await inCache((folder) => folder)).to.equal(join(base, 'tfjs-flashmask'));
    for (const other of ['', 'cache', './x']) {
      const folder = await within({env: {XDG_CACHE_HOME: other}}, () => Promise.resolve(cacheFolder()));
      expect(folder).to.equal(join(homedir(), '.cache', 'tfjs-flashmask'));
    }
  });

  it('is made for its user alone, and refused with the command that helps where others could write', async function () {
    if (process.getuid === undefined) skip(this, 'no users here');
    await inCache((folder) => {
      makeCacheFolder(join(folder, 'a'));
      expect(statSync(folder).mode & 0o777).to.equal(0o700);
      chmodSync(folder, 0o777);
      expect(() => makeCacheFolder(join(folder, 'a'))).to.throw(
        `The cache must belong to its user alone, got ${folder}, which others can write (mode 777). Run: rm -r '${folder}'`,
      );
    });
  });

  it('is refused where another user made it', async function () {
    if (process.getuid?.() !== 0) skip(this, 'only root can give a folder away');
    await inCache((folder) => {
      makeCacheFolder(folder);
      chownSync(folder, 1234, 1234);
      expect(() => requireOwn(folder)).to.throw(`${folder} of user 1234, while this is user 0. Run: sudo rm -r`);
    });
  });

  it('has a whole TensorFlow only with a sound manifest, and with libraries that nobody else can write', async () => {
    await inCache((folder) => {
      const tensorflow = join(folder, 'tensorflow-x');
      const manifest = (value: unknown): void =>
        writeFileSync(join(tensorflow, 'manifest.json'), JSON.stringify(value));
      mkdirSync(join(tensorflow, 'tensorflow'), {recursive: true});
      const sizes = Object.fromEntries(LIBRARIES.map((name) => [`tensorflow/${name}`, 3]));
      LIBRARIES.forEach((name) => writeFileSync(join(tensorflow, 'tensorflow', name), 'lib'));
      const sound = {version: '2', gpu: false, wheels: {}, sizes};
      for (const damaged of [null, [], {sizes: 3}, {...sound, sizes: {}}, {...sound, sizes: {...sizes, x: '1'}}]) {
        manifest(damaged);
        expect(isComplete(tensorflow), JSON.stringify(damaged)).to.equal(false);
      }
      manifest(sound);
      expect(isComplete(tensorflow)).to.equal(true);
      if (process.getuid === undefined) return;
      for (const path of [join(tensorflow, 'tensorflow', LIBRARIES[0]), tensorflow]) {
        const {mode} = statSync(path);
        chmodSync(path, 0o777);
        expect(() => isComplete(tensorflow)).to.throw(
          /setup-node: the cache must belong .*others can write \(mode 777\)/,
        );
        chmodSync(path, mode);
      }
    });
  });
});
