/**
 * @file A lost WebGPU device, and a backend that `tf.engine().reset()` disposes: each in its own process, which must
 * end by itself. test/package/browser.test.ts tests the same in a page.
 */
import {expect} from 'chai';
import {type Finished, Project} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

/** Prints what scripts find as lines `NAME: value`. */
const START = `
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention, masks} from 'tfjs-flashmask';
import {createWebGPUBackend} from 'tfjs-flashmask/webgpu';
import {useWebGPU} from 'tfjs-flashmask/node-webgpu';

const options = {software: true, quiet: true};
const say = (name, value) => console.log(name + ': ' + value);
const device = () => tf.backend().device;
const messageOf = async (run) => {
  try {
    await run();
    return 'no error';
  } catch ({message}) {
    return message;
  }
};

/** The same masks throughout: what is cached for them must be rebuilt with the device. */
const maskOf = {10: masks.causalDocument([4, 6]), 20: masks.causalDocument([4, 16])};
/** Attention under a mask, each row the mean of the values that it sees, and an op of tfjs itself. */
async function work({length = 10, gradient = false} = {}) {
  tf.env().set('WEBGPU_CPU_FORWARD', false);
  const v = tf.range(0, length).reshape([1, length, 1, 1]);
  const zeros = tf.zerosLike(v);
  const attend = (v) => flashMaskAttention(zeros, zeros, v, maskOf[length]);
  const out = await attend(v).data();
  const square = tf.ones([20, 20]);
  const products = await tf.matMul(square, square).data();
  const numbers = [out[3], out[length - 1], products[9]];
  if (gradient) numbers.push((await tf.grad(attend)(v).data())[3]);
  return tf.getBackend() + ' ' + numbers.map((x) => x.toFixed(3));
}
/** Calls with a schedule, and the gradient: slow to compile. */
const allWork = () => work({length: 20, gradient: true});
/** A tensor that is on the device alone. */
const onDevice = () => tf.add(tf.range(0, 300), 1);
/** Does what a message says in backticks. */
async function follow(message, scope = {}) {
  const code = /\`(.*?)\`/.exec(message)[1];
  const given = {useWebGPU: () => useWebGPU(options), createWebGPUBackend, ...scope};
  await new Function(...Object.keys(given), 'return (async () => { ' + code + ' })()')(...Object.values(given));
}
`;

/** The output of `work` on WebGPU: the means of 0 to 3 and of 4 to 9, and a product. */
const RIGHT = 'webgpu 1.500,6.500,20.000';
/** The output of `allWork`: the means of 0 to 3 and of 4 to 19, a product, and the weight of a document's last key. */
const ALL_RIGHT = 'webgpu 1.500,11.500,20.000,0.250';
const LOST =
  /^flashMaskAttention: the WebGPU device was lost \(destroyed: .*\), and with it its tensors\. Call `await .*`/;

/** The values that a script printed, by name. */
function linesOf({stdout}: Finished): Record<string, string> {
  const pairs = stdout.split('\n').map((line) => /^(\w+): (.*)$/.exec(line)?.slice(1) ?? ['', '']);
  return Object.fromEntries(pairs) as Record<string, string>;
}

const goesOn = ({stderr}: Finished): string[] => stderr.match(/.*tfjs goes on with the backend.*/g) ?? [];

describe('a WebGPU device in Node', () => {
  let project: Project;
  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') skip(this, 'no SwiftShader for this platform');
    project = new Project();
  });
  const run = (script: string) => project.run('main.mjs', `${START} ${script}`);

  describe('that is lost', () => {
    it('comes back by useWebGPU(), called at once and twice, and only its tensors are gone', async () => {
      const finished = await run(`
        const first = await useWebGPU(options);
        say('BEFORE', await allWork());
        const lost = device();
        const [read, unread, onHost] = [onDevice(), onDevice(), tf.tensor([1, 2])];
        const reading = messageOf(() => read.data());
        lost.destroy();
        const [one, other] = await Promise.all([useWebGPU(options), useWebGPU(options)]);
        say('NEW', one === other && one !== first && device() !== lost);
        say('AFTER', await allWork());
        say('READING', await reading);
        say('UNREAD', await messageOf(() => unread.data()));
        say('MOVED', await messageOf(() => tf.neg(unread)));
        say('HOST', await tf.neg(onHost).data());
        tf.dispose([read, unread, onHost]);
        say('AGAIN', (await useWebGPU(options)) === one);`);
      const lines = linesOf(finished);
      expect(lines).to.include({BEFORE: ALL_RIGHT, NEW: 'true', AFTER: ALL_RIGHT, HOST: '-1,-2', AGAIN: 'true'});
      for (const name of ['READING', 'UNREAD', 'MOVED']) expect(lines[name], name).to.match(LOST);
      expect(goesOn(finished)).to.deep.equal([]);
    });

    it('comes back with other options, which are refused while it works', async () => {
      const lines = linesOf(
        await run(`
          const full = {...options, device: 'full'};
          const has = () => device().features.has('subgroups');
          await useWebGPU(options);
          say('REFUSED', await messageOf(() => useWebGPU(full)));
          tf.removeBackend('webgpu');
          await useWebGPU(full);
          say('FULL', has() + ' ' + (await work()));
          device().destroy();
          await useWebGPU(options);
          say('STOCK', has() + ' ' + (await work()));
          device().destroy();
          await createWebGPUBackend();
          say('CREATED', has() + ' ' + (await work()));`),
      );
      expect(lines.REFUSED).to.match(/a process has one WebGPU.* or call tf\.removeBackend\('webgpu'\) first/);
      expect(lines).to.include({FULL: `true ${RIGHT}`, STOCK: `false ${RIGHT}`, CREATED: `true ${RIGHT}`});
    });

    it('gives errors whose advice works', async () => {
      const lines = linesOf(
        await run(`
          await useWebGPU(options);
          await work();
          device().destroy();
          await device().lost;
          const call = await messageOf(work);
          await follow(call);
          say('CALL', call);
          say('CALLED', await work());
          const backend = await createWebGPUBackend({name: 'webgpu-fast'});
          const unread = onDevice();
          backend.device.destroy();
          const read = await messageOf(() => unread.data());
          await follow(read);
          say('READ', read);
          say('NAMED', await work());
          const tensor = onDevice();
          const sync = await messageOf(() => tensor.dataSync());
          await follow(sync, {tensor});
          say('SYNC', sync);
          say('SYNCED', tensor.dataSync()[299]);
          const [given] = [device()];
          given.destroy();
          say('GIVEN', await messageOf(() => createWebGPUBackend({name: 'webgpu-given', device: given})));`),
      );
      expect(lines.CALL).to.match(LOST).and.include('`await useWebGPU()`');
      expect(lines.READ).to.match(LOST).and.include("`await createWebGPUBackend({name: 'webgpu-fast'})`");
      expect(lines.SYNC).to.match(/only where OffscreenCanvas exists.*`await tensor\.data\(\)`/);
      expect(lines.GIVEN).to.match(/the device must work, got one that is lost \(destroyed.*with new ones/);
      const named = RIGHT.replace('webgpu', 'webgpu-fast');
      expect(lines).to.include({CALLED: RIGHT, NAMED: named, SYNCED: '300'});
    });

    it('is followed by no other backend without a word', async () => {
      const finished = await run(`
        tf.enableProdMode(); // tfjs itself then warns of nothing
        const lose = async () => {
          const lost = device();
          lost.destroy();
          await lost.lost;
        };
        await useWebGPU(options);
        await lose();
        say('DEAD', (await tf.setBackend('webgpu')) + ' ' + (await messageOf(work)));
        tf.removeBackend('webgpu');
        say('SUM', tf.add(1, 2).dataSync() + tf.getBackend() + tf.add(1, 2).dataSync());
        await useWebGPU(options);
        await tf.setBackend('cpu');
        await useWebGPU(options);
        say('BACK', await work());
        await lose();
        tf.engine().reset();
        tf.enableProdMode();
        navigator.gpu.requestAdapter = async () => null;
        await tf.ready();
        say('READY', tf.getBackend());`);
      const lines = linesOf(finished);
      expect(lines).to.include({SUM: '3cpu3', BACK: RIGHT, READY: 'cpu'});
      expect(lines.DEAD).to.match(/^true flashMaskAttention: the WebGPU device was lost/);
      const [removed, failed, ...others] = goesOn(finished);
      expect(removed).to.match(/backend 'cpu', not 'webgpu': its device was lost \(destroyed.*`await useWebGPU\(\)`/);
      expect(failed).to.match(/backend 'cpu', not 'webgpu'.*, and there is no other: .*a WebGPU adapter is needed/);
      expect(others).to.deep.equal([]);
    });
  });

  describe('after tf.engine().reset()', () => {
    for (const [kind, call, right, ready] of [
      ['stock', 'allWork', ALL_RIGHT, 'tf.ready()'],
      ['full', 'work', RIGHT, "tf.setBackend('webgpu')"],
    ]) {
      it(`works on, with its errors (${kind})`, async () => {
        const lines = linesOf(
          await run(`
            const all = {...options, device: '${kind}'};
            const info = await useWebGPU(all);
            say('BEFORE', await ${call}());
            const before = device();
            const unread = onDevice();
            const reading = messageOf(() => unread.data());
            onDevice(); // recorded, not submitted
            tf.engine().reset();
            say('SYNC', (await tf.neg(tf.ones([300])).data())[299]);
            say('AFTER', await ${call}());
            say('READING', await reading);
            say('SAME', device() === before && (await useWebGPU(all)) === info);
            const {createShaderModule} = before;
            before.createShaderModule = (given) => createShaderModule.call(before, {...given, code: 'broken'});
            const x = tf.ones([1, 4, 1, 4]);
            const broken = flashMaskAttention(x, x, x);
            delete before.createShaderModule;
            say('BROKEN', await messageOf(() => broken.data()));
            tf.engine().reset();
            say('TWICE', await work());
            before.destroy();
            await before.lost;
            say('LOST', await messageOf(work));
            tf.engine().reset();
            const {requestDevice} = GPUAdapter.prototype;
            let requests = 0;
            GPUAdapter.prototype.requestDevice = function (...given) {
              requests++;
              return requestDevice.apply(this, given);
            };
            say('NOT_READY', await messageOf(work));
            await ${ready};
            say('READY', requests + ' ' + (device() !== before) + ' ' + (await work()));`),
        );
        expect(lines).to.include({BEFORE: right, AFTER: right, SYNC: '-1', SAME: 'true', TWICE: RIGHT});
        expect(lines.READING).to.match(/cannot be read once its backend is gone.*tf\.engine\(\)\.reset\(\)/);
        expect(lines.BROKEN).to.match(/FlashMaskAttention failed on the WebGPU device \(validation\)/);
        expect(lines.LOST).to.match(LOST);
        expect(lines.NOT_READY).to.match(/backend 'webgpu' has not yet been initialized.*await tf\.ready\(\)/);
        expect(lines.READY).to.equal(`1 true ${RIGHT}`);
      });
    }
  });

  it('is left and taken up again by tf.setBackend() and tf.removeBackend()', async () => {
    const finished = await run(`
      await useWebGPU(options);
      const kept = onDevice();
      await kept.data();
      await tf.setBackend('cpu');
      say('CPU', tf.neg(kept).dataSync()[299]);
      await tf.setBackend('webgpu');
      say('BACK', (await tf.neg(kept).data())[299] + ' ' + (await work()));
      for (const time of [1, 2]) {
        const before = device();
        tf.removeBackend('webgpu');
        await useWebGPU(options);
        say('REMOVED' + time, (device() !== before) + ' ' + (await before.lost).reason);
      }
      say('LAST', await work());
      const both = [0, 1].map(() => createWebGPUBackend({name: 'webgpu-fast', setBackend: false}));
      say('BOTH', (await Promise.allSettled(both)).map(({status}) => status));
      say('NAMES', tf.getBackend() + ' ' + (await tf.setBackend('webgpu-fast')) + ' ' + tf.getBackend());`);
    expect(linesOf(finished)).to.include({
      CPU: '-300',
      BACK: `-300 ${RIGHT}`,
      REMOVED1: 'true destroyed',
      REMOVED2: 'true destroyed',
      LAST: RIGHT,
      BOTH: 'fulfilled,rejected',
      NAMES: 'webgpu true webgpu-fast',
    });
    expect(goesOn(finished)).to.deep.equal([]);
  });
});
