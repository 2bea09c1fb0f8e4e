/**
 * @file What only the backend 'tensorflow' has: the Node addon and its op next to TensorFlow's ops, its errors,
 * threads, and the warnings where the native kernels do not run. The tables of cases in the other files run on it too.
 */
import {execFile} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {promisify} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionOptions,
  flashMaskAttention,
  masks,
} from '../../src/entries/index.js';
import {type AddonInfo, nativeInfo, setThreads} from '../../src/entries/node.js';
import {whyNotOnGpu} from '../../src/backends/tensorflow/load.js';
import {ATTRS} from '../support/attend.js';
import {devices} from '../support/devices.js';
import {type Finished, Project, root} from '../support/packed_project.js';
import {integer, seeded} from '../support/random.js';

const device = devices.find(({name, skip}) => name.startsWith('tensorflow') && !skip);
const reason = devices.find(({name}) => name === 'tensorflow')!.skip;
const suite = device ? describe : describe.skip;

const [S, H, D] = [70, 4, 24];
const mask = masks.causalDocument([20, 43, 7]);

type Four = [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];

/** q, k, v and dOut. */
function inputs(seed = 1): Four {
  const make = (heads: number, i: number) =>
    tf.randomNormal<tf.Rank.R4>([2, S, heads, D], 0, 1, 'float32', 10 * seed + i);
  return [make(H, 0), make(2, 1), make(2, 2), make(H, 3)];
}

/** out, dq, dk and dv as host arrays. */
async function attend([q, k, v, dOut]: Four, options: FlashMaskAttentionOptions = {}): Promise<Float32Array[]> {
  const run = (x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) =>
    flashMaskAttention(x as tf.Tensor4D, y as tf.Tensor4D, z as tf.Tensor4D, mask, {
      ...options,
      returnLogSumExp: false,
    });
  const {value, grads} = tf.valueAndGrads(run)([q, k, v], dOut);
  const results = await Promise.all([value, ...grads].map((x) => x.data<'float32'>()));
  tf.dispose([value, ...grads]);
  return results;
}

const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};

/** Runs the op without flashMaskAttention's checks. */
function runRaw(bounds: tf.Tensor, ...[q, k, v]: Four): tf.Tensor[] {
  return tf.engine().runKernel<tf.Tensor[]>(FlashMaskAttention, {q, k, v, bounds}, {...ATTRS, causal: true});
}

suite(`tensorflow${reason && !device ? ` (${reason})` : ''}`, () => {
  before(() => device!.setup());

  it('knows what was built and what runs', () => {
    const info = nativeInfo();
    if (info.path === null) throw new Error(info.reason);
    expect(info.instructionSet).to.be.oneOf(['avx512', 'avx2', 'neon', 'generic']);
    expect(info.threads).to.be.at.least(1);
    expect(info.cuda.built).to.equal(info.cuda.runtime !== null);
    expect(info.cuda.archs.length > 0).to.equal(info.cuda.built);
    expect(info.devices).to.be.an('array');
  });

  it('says why CUDA kernels cannot run', () => {
    const gpu = {name: 'A GPU', computeCapability: '8.6'};
    const good: AddonInfo = {
      version: '',
      cuda: {built: true, runtime: '12.4', archs: ['80', '90', '90-ptx']},
      driver: '13.0',
      devices: [{name: 'Old', computeCapability: '7.5'}, gpu],
      instructionSet: 'avx2',
      threads: 1,
    };
    const without = {...good, cuda: {built: false, runtime: null, archs: []}};
    expect(whyNotOnGpu(good)).to.equal(null);
    expect(whyNotOnGpu({...good, driver: '12.2'}), 'an older driver of the same major version').to.equal(null);
    expect(whyNotOnGpu(without)).to.match(
      /^an addon without the CUDA kernels, which the package tfjs-flashmask-\w+-\w+-cuda has$/,
    );
    expect(whyNotOnGpu({...good, driver: '11.8'})).to.match(/built with CUDA 12.4 on a driver for CUDA 11.8/);
    expect(whyNotOnGpu({...good, driver: null})).to.match(/a driver for CUDA none/);
    expect(whyNotOnGpu({...good, devices: good.devices.slice(0, 1)})).to.match(/8.0 or newer but Old \(7.5\)/);
  });

  describe('errors', () => {
    it('of TensorFlow come in the form of the library, and the op goes on working', async () => {
      const x = inputs();
      const expected = await attend(x);
      const before = tf.memory().numTensors;
      const wrong = tf.zeros([1, 1, S + 1, 1], 'int32');
      const short = tf.zeros([1, 1, S], 'int32');
      expect(() => runRaw(wrong, ...x)).to.throw(
        /^flashMaskAttention: TensorFlow must be able to run the op, got '.*bounds must have Sk keys, got \[1, 1, 71, 1\]/,
      );
      expect(() => runRaw(short, ...x)).to.throw(/q, k, v and bounds must have rank 4, got \[1, 1, 70\].*status 3/s);
      tf.dispose([wrong, short]);
      expect(tf.memory().numTensors).to.equal(before);
      expect(await attend(x)).to.deep.equal(expected);
      tf.dispose(x);
    });

    it('refuse tensors that do not fit, whatever is wrong with them', () => {
      const [q, k, v, dOut] = inputs();
      const bounds = tf.zeros([1, 1, S, 1], 'int32');
      const other = (shape: [number, number, number, number]) => tf.zeros<tf.Rank.R4>(shape);
      const calls: [tf.Tensor, Four, RegExp][] = [
        [bounds, [q, other([2, S, 2, D + 1]), v, dOut], /k must fit q/],
        [bounds, [q, k, other([2, S - 1, 2, D]), dOut], /v must fit q and k/],
        [bounds, [other([2, S, 3, D]), k, v, dOut], /H must be a multiple of Hkv, got \[3, 2\]/],
        [tf.zeros([3, 1, S, 1], 'int32'), [q, k, v, dOut], /bounds must have 1 or B batches/],
        [tf.zeros([1, 3, S, 1], 'int32'), [q, k, v, dOut], /bounds must have 1, Hkv or H heads/],
        [tf.zeros([1, 1, S, 3], 'int32'), [q, k, v, dOut], /0, 1 or 2 numbers a key if causal/],
      ];
      for (const [b, four, message] of calls) expect(() => runRaw(b, ...four)).to.throw(message);
      tf.dispose([q, k, v, dOut, bounds, calls.map(([b, four]) => [b, four])]);
    });
  });

  it('refuses row statistics that do not fit', () => {
    const [q, k, v, dOut] = inputs();
    const bounds = tf.zeros([1, 1, S, 0], 'int32');
    const lse = tf.zeros([2, H, S]);
    const gradient = {q, k, v, bounds, out: dOut, rowStats: lse, dOut, dLse: lse};
    expect(() => tf.engine().runKernel(FlashMaskAttentionGrad, gradient, {...ATTRS, causal: true})).to.throw(
      /row_stats must be \[B, H, Sq, 2\], got \[2, 4, 70\]/,
    );
    tf.dispose([q, k, v, dOut, bounds, lse]);
  });

  it('takes masks of the host and tensors that TensorFlow computed alike', async () => {
    const [q, k, v, dOut] = inputs();
    const starts = [...Array<number>(20).fill(20), ...Array<number>(43).fill(63), ...Array<number>(7).fill(70)];
    const host = tf.tensor4d(Int32Array.from(starts), [1, 1, S, 1]);
    const computed = tf.tidy(() => tf.cast(tf.add(tf.cast(tf.sub(host, 1), 'float32'), 1), 'int32'));
    const outs = [mask, host.toInt(), computed].map((m) => flashMaskAttention(q, k, v, m, {causal: true}));
    const [first, ...others] = await Promise.all(outs.map((out) => out.data()));
    for (const data of others) expect(data).to.deep.equal(first);
    tf.dispose([q, k, v, dOut, host, computed, outs]);
  });

  it('keeps its place among other ops, of random sizes and in random order', async () => {
    const next = seeded(5);
    const x = inputs();
    const [out] = await attend(x);
    for (let round = 0; round < 30; round++) {
      const size = integer(next, 1, 400);
      // The inputs are produced just before the call, the output is read just after, and all other tensors are freed:
      // only the order of work keeps the results right.
      const [difference, noise] = tf.tidy((): tf.Tensor[] => {
        const busy = tf.matMul(tf.fill([size, size], 0.5), tf.fill([size, size], 0.5));
        const [q, k, v] = x.map((t) => tf.sub(tf.add(t, 1.5), 1.5));
        const got = flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, mask);
        const again = tf.matMul(busy, tf.fill([size, size], 2));
        return [tf.max(tf.abs(tf.sub(got, tf.tensor(out, [2, S, H, D])))), tf.max(again)];
      });
      expect((await difference.data())[0], `round ${round}, size ${size}`).to.be.below(1e-4);
      expect((await noise.data())[0]).to.be.closeTo(0.5 * size ** 2, 1e-3 * size ** 2);
      tf.dispose([difference, noise]);
    }
    tf.dispose(x);
  });

  it("gives the same bits on any number of threads, and 'deterministic' on every run", async () => {
    const x = inputs();
    try {
      setThreads(1);
      const one = await attend(x, {deterministic: true, dropout: 0.2, seed: 3});
      for (const count of [2, 3, 8, 0, 0]) {
        setThreads(count);
        expect(await attend(x, {deterministic: true, dropout: 0.2, seed: 3}), `${count} threads`).to.deep.equal(one);
      }
    } finally {
      setThreads(0);
    }
    for (const count of [-1, 1.5, NaN, 5000]) expect(() => setThreads(count)).to.throw(/setThreads: .*got/);
    tf.dispose(x);
  });

  it('takes every precision, and computes in float32 on a CPU', async () => {
    const x = inputs();
    const single = await attend(x, {precision: 'float32'});
    for (const precision of ['auto', 'float16', 'bfloat16'] as const) {
      const results = await attend(x, {precision});
      if (device!.name === 'tensorflow') expect(results, precision).to.deep.equal(single);
    }
    tf.dispose(x);
  });

  it("leaves nothing in the process's memory, with a new dropout seed in each call", async () => {
    // Runs in its own process and compares medians, so that one round that grows or shrinks by chance does not count.
    const [rounds, calls] = [9, 1000];
    const program = join(root, 'test/native/memory_growth.ts');
    const call = ['--import=tsx', program, device!.name, ...[rounds, calls].map(String)];
    const {stdout} = await promisify(execFile)(process.execPath, call, {cwd: root});
    const rss = JSON.parse(stdout) as number[];
    const medianFrom = (round: number) => rss.slice(round, round + 3).sort((a, b) => a - b)[1];
    const growth = (medianFrom(6) - medianFrom(0)) / (6 * calls);
    // A leak of the outputs would be 2 KB per call, a TensorFlow kernel per seed 3 KB.
    expect(growth, `bytes a call; the rounds end with ${stdout}`).to.be.below(500);
  });

  describe('in a project', () => {
    const WARNING = /flashMaskAttention: the backend 'tensorflow' must have the native kernels/g;
    const ATTEND = `
      const check = (tf, {flashMaskAttention, masks}) => {
        const q = tf.tensor4d([1, 2, 3, 4, 5, 6], [1, 3, 1, 2]);
        for (let i = 0; i < 3; i++) {
          const [dq] = tf.grads((x) => flashMaskAttention(x, q, q, masks.causal(3)))([q]);
          console.log('RESULT ' + flashMaskAttention(q, q, q, masks.causal(3)).dataSync()[0] + ' ' + dq.dataSync()[0]);
        }
      };`;
    /** With the repository's addon. */
    const addon = join(root, 'build/Release/tfjs_flashmask.node');
    const withoutAddon = {TF_CPP_MIN_LOG_LEVEL: '2', CUDA_VISIBLE_DEVICES: '-1'};
    const env = {...withoutAddon, FLASHMASK_ADDON: addon};

    function expectResults({stdout, stderr}: Finished, warnings: number): void {
      expect([...stdout.matchAll(/^RESULT 1 0\.99962\d*$/gm)], stdout).to.have.length(3);
      expect([...stderr.matchAll(WARNING)], stderr).to.have.length(warnings);
    }

    const imports = {
      'ES modules, tfjs-node first': `
        import * as tf from '@tensorflow/tfjs-node'; import * as flashmask from 'tfjs-flashmask/node';`,
      'ES modules, tfjs-node last': `
        import * as flashmask from 'tfjs-flashmask/node'; import * as tf from '@tensorflow/tfjs-node';`,
      'the main entry for the op': `
        import 'tfjs-flashmask/node'; import * as flashmask from 'tfjs-flashmask'; import * as tf from '@tensorflow/tfjs-node';`,
      CommonJS: `
        import {createRequire} from 'node:module'; const require = createRequire(import.meta.url);
        const flashmask = require('tfjs-flashmask/node'); const tf = require('@tensorflow/tfjs-node');`,
    };
    for (const [name, lines] of Object.entries(imports)) {
      it(`runs natively: ${name}`, async () => {
        expectResults(await new Project().run('main.mjs', `${lines}${ATTEND} check(tf, flashmask);`, env), 0);
      });
    }

    it('warns once, and names the import, where that is missing', async () => {
      const script = `import * as tf from '@tensorflow/tfjs-node'; import * as flashmask from 'tfjs-flashmask'; ${ATTEND}
        check(tf, flashmask);`;
      const finished = await new Project().run('main.mjs', script, env);
      expectResults(finished, 1);
      expect(finished.stderr).to.include("Add `import 'tfjs-flashmask/node'`");
    });

    it('warns once, and names the commands that help, where the addon is missing', async () => {
      const script = `import * as tf from '@tensorflow/tfjs-node'; import * as flashmask from 'tfjs-flashmask/node'; ${ATTEND}
        check(tf, flashmask);
        try { const q = tf.zeros([1, 3, 1, 2]); flashmask.flashMaskAttention(q, q, q, null, {precision: 'bfloat16'}); }
        catch ({message}) { console.log(message); }
        console.log(JSON.stringify(flashmask.nativeInfo()));`;
      const finished = await new Project().run('main.mjs', script, withoutAddon);
      expectResults(finished, 1);
      expect(finished.stderr).to.include('`npx tfjs-flashmask doctor`').and.include('scripts/build_native.mjs`');
      expect(finished.stdout).to.include(
        "precision on the backend 'tensorflow' must be one of its own ('auto' and 'float32')",
      );
      expect(finished.stdout).to.include('"path":null,"reason":"no addon for');
    });

    it('takes the native kernels though the composed ones have run', async () => {
      const script = `import * as tf from '@tensorflow/tfjs-node'; import {flashMaskAttention, masks} from 'tfjs-flashmask';
        ${ATTEND}
        tf.dispose(flashMaskAttention(tf.ones([1, 3, 1, 2]), tf.ones([1, 3, 1, 2]), tf.ones([1, 3, 1, 2])));
        const flashmask = await import('tfjs-flashmask/node');
        check(tf, flashmask);
        flashMaskAttention(tf.ones([1, 3, 1, 2]), tf.ones([1, 3, 1, 2]), tf.ones([1, 3, 1, 2]), null, {precision: 'bfloat16'});`;
      expectResults(await new Project().run('main.mjs', script, env), 1);
    });

    it('registers its op once, with two copies of the addon and in workers, which may end', async () => {
      const script = `
        import {cpSync} from 'node:fs';
        import {createRequire} from 'node:module';
        import {Worker, isMainThread} from 'node:worker_threads';
        const flashmask = await import('tfjs-flashmask/node');
        const require = createRequire(import.meta.url);
        ${ATTEND}
        const load = async () => (await import('@tensorflow/tfjs-node')).default;
        if (isMainThread) {
          const addon = flashmask.nativeInfo().path;
          try { require(addon).register(); } catch ({message}) { console.log(message); }
          for (let i = 0; i < 2; i++) {
            const worker = new Worker(new URL(import.meta.url), {stdout: true});
            const code = await new Promise((resolve) => worker.once('exit', resolve));
            if (code !== 0) throw new Error('worker: ' + code);
          }
          const tf = await load();
          cpSync(addon, 'second.node');
          require('./second.node').register();
          check(tf, flashmask);
          require('./second.node').register();
        } else {
          check(await load(), flashmask);
        }`;
      const finished = await new Project().run('main.mjs', script, env);
      expectResults(finished, 0);
      expect(finished.stdout).to.include('libtensorflow must be loaded before the addon, got none');
    });
  });

  describe('setup-node in a project without an addon', () => {
    const setUp = (project: Project, env: NodeJS.ProcessEnv = {}): Promise<Finished> =>
      project.start(['node_modules/tfjs-flashmask/dist/cli/main.js', 'setup-node'], {
        CUDA_VISIBLE_DEVICES: '-1',
        ...env,
      });

    it('says that there is no compiler, and leaves tfjs-node as it is', async () => {
      const {code, stderr} = await setUp(new Project(), {CXX: 'no-such-compiler'});
      expect(code, stderr).to.equal(0);
      expect(stderr).to.match(/works already; nothing was changed\.\nBuilding the native kernels.*no addon for/);
      expect(stderr).to.match(/Without the native kernels:\s+tfjs-flashmask: a C\+\+ compiler must be there, got none/);
    });

    it('says what a compiler had against the sources', async () => {
      const project = new Project();
      project.write('node_modules/tfjs-flashmask/native/tensorflow/ops.cc', 'not C++');
      const {code, stderr} = await setUp(project);
      expect(code, stderr).to.equal(0);
      expect(stderr).to.match(/Without the native kernels:.*ops\.cc:1.*not/s);
    });

    it('builds the addon where none is there, and nothing where one is', async () => {
      const project = new Project();
      expect((await setUp(project)).stderr).to.match(/build\/Release\/tfjs_flashmask\.node in [\d.]+ s: CPU\n$/);
      const show = "import {nativeInfo} from 'tfjs-flashmask/node'; console.log(JSON.stringify(nativeInfo()));";
      const {stdout} = await project.run('main.mjs', show);
      expect(JSON.parse(stdout))
        .to.include({version})
        .and.to.have.property('path')
        .that.includes('tfjs_flashmask.node');
      const again = await setUp(project, {CXX: 'no-such-compiler'});
      expect(again.stderr).to.match(/nothing was changed\.\n$/);
    });
  });
});
