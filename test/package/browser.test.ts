/**
 * @file The packed package in a real page: headless Chromium with WebGPU and WebGL on SwiftShader. The pages use script
 * tags, or a bundle by esbuild.
 */
import type {Server} from 'node:http';
import {join} from 'node:path';
import {expect} from 'chai';
import {build} from 'esbuild';
import type {Browser} from 'playwright-core';
import {launch, serve} from '../support/chromium.js';
import {Project} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

/** What the pages report for a backend. */
interface Report {
  out: number[];
  dq: number[];
}

/**
 * Runs attention and its gradient with the page's `tf` on each backend. The numbers are fixed, so that backends can be
 * compared.
 */
const COMPARE = `
async function compare(tf, flashMaskAttention, masks, backends) {
  const values = (shape, phase) => tf.tensor4d(Float32Array.from({length: shape.reduce((a, b) => a * b)}, (_, i) => Math.sin(i * 0.7 + phase)), shape);
  const reports = {};
  for (const backend of backends) {
    await tf.setBackend(backend);
    await tf.ready();
    const [q, k, v] = [values([1, 70, 2, 8], 0), values([1, 70, 1, 8], 1), values([1, 70, 1, 8], 2)];
    const mask = masks.causalDocument([40, 30]);
    const out = flashMaskAttention(q, k, v, mask);
    const dq = tf.grad((x) => tf.sum(tf.square(flashMaskAttention(x, k, v, mask))))(q);
    reports[backend] = {out: [...(await out.data())], dq: [...(await dq.data())]};
  }
  return reports;
}`;

function expectSame(reports: Record<string, Report>): void {
  const {cpu, ...others} = reports;
  for (const [name, {out, dq}] of Object.entries(others)) {
    for (const [actual, expected] of [
      [out, cpu.out],
      [dq, cpu.dq],
    ]) {
      const worst = actual.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), 0);
      expect(actual.length, name).to.equal(70 * 2 * 8);
      expect(worst, name).to.be.at.most(1e-5);
    }
  }
}

describe('in a browser', () => {
  let browser: Browser;
  let project: Project;
  let server: Server;
  let address: string;

  before(async function () {
    const launched = await launch({gpu: true});
    if (typeof launched === 'string') {
      skip(this, `Chromium does not start here (${launched})`);
    }
    browser = launched;
    project = new Project();
    ({server, address} = await serve(project.folder));
  });

  after(async () => {
    await (browser as Browser | undefined)?.close();
    (server as Server | undefined)?.close();
  });

  /** Opens a page of the project; returns the result of its `compare` call and what it logged as errors. */
  async function visit(html: string): Promise<{reports: Record<string, Report>; errors: string[]}> {
    project.write('index.html', `<!doctype html><link rel="icon" href="data:,">${html}`);
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    page.on('pageerror', (error) => errors.push(error.message));
    await page.goto(`${address}index.html`);
    const reports = (await page.evaluate('globalThis.reports')) as Record<string, Report>;
    await page.close();
    return {reports, errors};
  }

  it('works from script tags on webgpu, on webgl and on cpu, with the same results', async () => {
    const scripts = [
      '@tensorflow/tfjs/dist/tf.min.js',
      '@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js',
      'tfjs-flashmask/dist/tfjs-flashmask.min.js',
    ];
    const {reports, errors} = await visit(
      `${scripts.map((path) => `<script src="node_modules/${path}"></script>`).join('')}
       <script>${COMPARE}; globalThis.reports = compare(tf, tf.flashMaskAttention, tf.masks, ['webgpu', 'webgl', 'cpu']);</script>`,
    );
    expect(errors).to.deep.equal([]);
    expectSame(reports);
  });

  it('works bundled by esbuild, on the device of createWebGPUBackend()', async () => {
    project.write(
      'page.js',
      `import * as tf from '@tensorflow/tfjs';
       import {flashMaskAttention, masks} from 'tfjs-flashmask';
       import {createWebGPUBackend} from 'tfjs-flashmask/webgpu';
       ${COMPARE}
       globalThis.reports = createWebGPUBackend().then(() => compare(tf, flashMaskAttention, masks, ['webgpu', 'cpu']));`,
    );
    await build({
      entryPoints: [join(project.folder, 'page.js')],
      outfile: join(project.folder, 'bundle.js'),
      bundle: true,
      minify: true,
      format: 'iife',
      logLevel: 'error',
    });
    const {reports, errors} = await visit('<script src="bundle.js"></script>');
    expect(errors).to.deep.equal([]);
    expectSame(reports);
  });

  it('gets a new device after the GPU process has crashed, by what the error says and by tf.engine().reset()', async () => {
    const scripts = [
      '@tensorflow/tfjs/dist/tf.min.js',
      '@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js',
      'tfjs-flashmask/dist/tfjs-flashmask.min.js',
    ];
    const tags = scripts.map((path) => `<script src="node_modules/${path}"></script>`).join('');
    // Each output row is the mean of the values that it sees.
    const script = `
      const mask = tf.masks.causalDocument([4, 6]);
      async function means() {
        const v = tf.range(0, 10).reshape([1, 10, 1, 1]);
        const out = await tf.flashMaskAttention(tf.zerosLike(v), tf.zerosLike(v), v, mask).data();
        return [tf.getBackend(), out[3], out[9]].join();
      }`;
    project.write('crash.html', `<!doctype html><link rel="icon" href="data:,">${tags}<script>${script}</script>`);
    const page = await browser.newPage();
    const warnings: string[] = [];
    page.on('console', (message) => message.type() === 'warning' && warnings.push(message.text()));
    await page.goto(`${address}crash.html`);
    const expectMeans = async () => expect(await page.evaluate('means()')).to.equal('webgpu,1.5,6.5');
    await page.evaluate("tf.setBackend('webgpu')");
    await expectMeans();
    // The device is lost only once: after a second crash Chromium gives no adapter until it restarts.
    const lost = page.evaluate<string>('tf.backend().device.lost.then(({reason}) => reason)');
    const session = await browser.newBrowserCDPSession();
    void session.send('Browser.crashGpuProcess').catch(() => null);
    expect(await lost).to.equal('unknown');
    const message = await page.evaluate<string>('means().catch(({message}) => message)');
    expect(message).to.match(/the WebGPU device was lost \(unknown: .*\).*`await createWebGPUBackend\(\)`/);
    const advice = /`(.*?)`/.exec(message)![1];
    await page.evaluate(`(async ({createWebGPUBackend}) => { ${advice}; })(flashmask)`);
    await expectMeans();
    await page.evaluate(`(async () => {
      const {device} = tf.backend();
      device.destroy();
      await device.lost;
      tf.engine().reset();
      await tf.ready();
    })()`);
    await expectMeans();
    expect(warnings.filter((text) => text.includes('tfjs-flashmask'))).to.deep.equal([]);
    await page.close();
  });
});
