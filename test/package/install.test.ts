/**
 * @file Releases as npm installs them for users: the tarballs of `npm run pack:all` without a network, and a git URL.
 */
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {expect} from 'chai';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {packedTarball, root, temporaryFolder} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

const ADDON = `tfjs-flashmask-${process.platform}-${process.arch}`;

function run(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv = {}): string {
  const {status, stdout, stderr, error} = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: {...process.env, ...env},
  });
  expect(status, `${command} ${args.join(' ')}: ${error?.message ?? `${stdout}\n${stderr}`}`).to.equal(0);
  return stdout;
}

/** A project in which npm installed these packages and nothing of tfjs. */
function projectWith(packages: string[], ...flags: string[]): string {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'package.json'), '{"name": "a-project", "private": true, "type": "module"}');
  // Peers are linked later, because they are on this disk already.
  run('npm', ['install', '--legacy-peer-deps', '--no-audit', '--no-fund', ...flags, ...packages], folder);
  return folder;
}

function linkTfjs(folder: string): void {
  mkdirSync(join(folder, 'node_modules'), {recursive: true});
  symlinkSync(join(root, 'node_modules/@tensorflow'), join(folder, 'node_modules/@tensorflow'), 'junction');
}

/** Each row of the result is the mean of the values that it sees. */
const ATTEND = `
const attend = async (tf, {flashMaskAttention, masks}) => {
  const v = tf.range(0, 4).reshape([1, 4, 1, 1]);
  const out = await flashMaskAttention(tf.zerosLike(v), tf.zerosLike(v), v, masks.causal(4)).data();
  console.log('RESULT ' + [...out].join());
};`;

describe('the packages of a release', () => {
  let folder: string;

  before(function () {
    if (spawnSync(process.env.CXX ?? 'g++', ['--version']).status !== 0) skip(this, 'no C++ compiler');
    const tarballs = temporaryFolder();
    const args = ['scripts/pack_all.mjs', '--no-cuda', '--tarball', packedTarball(), '--out', tarballs];
    run(process.execPath, args, root);
    const files = readdirSync(tarballs).map((name) => join(tarballs, name));
    expect(files).to.have.length(2);
    folder = projectWith(files, '--offline');
  });

  it('bring nothing else with them, and no install script', () => {
    const lock = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, object>;
    };
    const packages = Object.fromEntries(Object.entries(lock.packages).filter(([path]) => path !== ''));
    expect(Object.keys(packages)).to.deep.equal(['node_modules/tfjs-flashmask', `node_modules/${ADDON}`]);
    Object.values(packages).forEach((entry) => expect(entry).not.to.have.property('hasInstallScript'));
    expect(packages['node_modules/tfjs-flashmask']).to.deep.include({optionalDependencies: {[ADDON]: '0.1.0'}});
    expect(packages[`node_modules/${ADDON}`]).to.deep.include({os: [process.platform], cpu: [process.arch]});
  });

  it('give a copied example the file that they were installed from', () => {
    run(process.execPath, ['node_modules/tfjs-flashmask/dist/cli/main.js', 'example', 'decoding'], folder);
    const {dependencies} = JSON.parse(readFileSync(join(folder, 'decoding/package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    const [, file] = /^file:(.*\/tfjs-flashmask-\d.*\.tgz)$/.exec(dependencies['tfjs-flashmask'])!;
    expect(existsSync(file)).to.equal(true);
  });

  it('run the op with the kernels of the addon package, and refuse one of another version', () => {
    linkTfjs(folder);
    const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
    writeFileSync(
      join(folder, 'main.js'),
      `${tensorflow.skip ? "import tf from '@tensorflow/tfjs';" : "import tf from '@tensorflow/tfjs-node';"}
       import * as flashmask from 'tfjs-flashmask/node';
       ${ATTEND}
       await attend(tf, flashmask);
       console.log('INFO ' + JSON.stringify(flashmask.nativeInfo()));`,
    );
    const env = {CUDA_VISIBLE_DEVICES: '-1', TF_CPP_MIN_LOG_LEVEL: '2', FLASHMASK_ADDON: ''};
    const printed = run(process.execPath, ['main.js'], folder, env);
    expect(printed).to.include('RESULT 0,0.5,1,1.5');
    expect(printed).to.match(
      new RegExp(`INFO {"path":".*/node_modules/${ADDON}/tfjs_flashmask.node","version":"0.1.0"`),
    );
    const version = join(folder, 'node_modules/tfjs-flashmask/dist/cjs/src/call/version.js');
    writeFileSync(version, readFileSync(version, 'utf8').replaceAll('0.1.0', '9.9.9'));
    expect(run(process.execPath, ['main.js'], folder, env)).to.match(
      /INFO {"path":null,"reason":"an addon of version 0\.1\.0 for this package's 9\.9\.9/,
    );
  });
});

(full ? describe : describe.skip)(`a git URL${full ? '' : ' (npm run test:all)'}`, () => {
  it('gives a package that works', () => {
    const folder = projectWith([`git+${pathToFileURL(root).href}`]);
    linkTfjs(folder);
    writeFileSync(
      join(folder, 'main.js'),
      `import tf from '@tensorflow/tfjs'; import * as flashmask from 'tfjs-flashmask'; ${ATTEND} await attend(tf, flashmask);`,
    );
    expect(run(process.execPath, ['main.js'], folder)).to.include('RESULT 0,0.5,1,1.5');
  });
});
