/**
 * @file The packed package in a real page: headless Chromium with WebGPU and WebGL on SwiftShader. The pages use script
 * tags, or a bundle by esbuild.
 */
import {readFileSync} from 'node:fs';
import type {Server} from 'node:http';
import {join} from 'node:path';
import {expect} from 'chai';
import {build} from 'esbuild';
import type {Browser} from 'playwright-core';
import {launch, serve} from '../support/chromium.js';
import {full} from '../support/full.js';
import {Project, root} from '../support/packed_project.js';
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

/** The same with a model of layers: a padding mask, and document ids. */
const LAYERS = `
async function compare(tf, {FlashMaskMultiHeadAttention, FlashMaskBounds}, backends) {
  const reports = {};
  for (const backend of backends) {
    await tf.setBackend(backend);
    await tf.ready();
    const [tokens, documents] = [0, 1].map(() => tf.input({shape: [7], dtype: 'int32'}));
    const bounds = new FlashMaskBounds({of: 'documents', useCausalMask: false}).apply(documents);
    const given = {numHeads: 2, keyDim: 8, kernelInitializer: tf.initializers.glorotUniform({seed: 1})};
    const first = new FlashMaskMultiHeadAttention({...given, useCausalMask: true, ropeMaxWavelength: 100});
    const second = new FlashMaskMultiHeadAttention({...given, useCausalMask: false});
    const embeddingsInitializer = tf.initializers.randomNormal({seed: 2});
    const x = tf.layers.embedding({inputDim: 9, outputDim: 80, maskZero: true, embeddingsInitializer}).apply(tokens);
    const model = tf.model({inputs: [tokens, documents], outputs: second.apply([first.apply(x), bounds])});
    const ids = [[3, 5, 1, 8, 2, 0, 0], [0, 4, 4, 7, 1, 2, 6]];
    const texts = [[0, 0, 1, 1, 1, -1, -1], [-1, 3, 3, 3, 3, 0, 0]];
    const inputs = [ids, texts].map((rows) => tf.tensor2d(rows, [2, 7], 'int32'));
    const kernel = first.weights[0].read();
    const {grads} = tf.variableGrads(() => model.apply(inputs).square().sum(), [kernel]);
    const dq = grads[kernel.name].slice([0, 0, 0], [70, 2, 8]);
    reports[backend] = {out: [...(await model.predict(inputs).data())], dq: [...(await dq.data())]};
  }
  return reports;
}`;

/** The script tags of README.md, with the packed files in place of a CDN's. */
function scriptsOfReadme(): string {
  const [, tags] = /```html\n([^]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8'))!;
  const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};
  expect(tags).to.include(`/tfjs-flashmask@${version}/`);
  return tags.replace(/https:\/\/cdn\.jsdelivr\.net\/npm\/(@?[^@]+)@[^/]+/g, 'node_modules/$1');
}

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

  /** The same for a module that esbuild bundles. */
  async function visitBundle(module: string): ReturnType<typeof visit> {
    await build({
      entryPoints: [project.write('page.js', module)],
      outfile: join(project.folder, 'bundle.js'),
      bundle: true,
      minify: true,
      format: 'iife',
      logLevel: 'error',
    });
    return visit('<script src="bundle.js"></script>');
  }

  it('works from script tags on webgpu, on webgl and on cpu, with the same results', async () => {
    const {reports, errors} = await visit(
      `${scriptsOfReadme()}
       <script>${COMPARE}; globalThis.reports = compare(tf, tf.flashMaskAttention, tf.masks, ['webgpu', 'webgl', 'cpu']);</script>`,
    );
    expect(errors).to.deep.equal([]);
    expectSame(reports);
  });

  it('works bundled by esbuild, on the device of createWebGPUBackend()', async () => {
    const {reports, errors} = await visitBundle(
      `import * as tf from '@tensorflow/tfjs';
       import {flashMaskAttention, masks} from 'tfjs-flashmask';
       import {createWebGPUBackend} from 'tfjs-flashmask/webgpu';
       ${COMPARE}
       globalThis.reports = createWebGPUBackend().then(() => compare(tf, flashMaskAttention, masks, ['webgpu', 'cpu']));`,
    );
    expect(errors).to.deep.equal([]);
    expectSame(reports);
  });

  it('has layers on the same global in the script with them', async () => {
    const scripts = scriptsOfReadme();
    const withLayers = scripts.replace('/tfjs-flashmask.min.js', '/tfjs-flashmask-layers.min.js');
    expect(withLayers).not.to.equal(scripts);
    const {reports, errors} = await visit(
      `${withLayers}
       <script>${LAYERS}
         if (!tf.getGradient('Einsum') || !tf.flashMaskAttention) throw new Error('no gradient of einsum, or no op');
         globalThis.reports = compare(tf, flashmask, ['cpu']);
       </script>`,
    );
    expect(errors).to.deep.equal([]);
    const {out, dq} = reports.cpu;
    [out, dq].forEach((values) => expect(values.filter((x) => x !== 0)).to.have.length.above(500));
  });

  it('runs layers on webgpu and on webgl as on cpu', async function () {
    if (!full) skip(this, 'npm run test:all runs them');
    const {reports, errors} = await visitBundle(
      `import * as tf from '@tensorflow/tfjs';
       import '@tensorflow/tfjs-backend-webgpu';
       import * as flashmaskLayers from 'tfjs-flashmask/layers';
       ${LAYERS}
       globalThis.reports = compare(tf, flashmaskLayers, ['webgpu', 'webgl', 'cpu']);`,
    );
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
