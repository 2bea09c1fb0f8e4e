/** @file The examples for pages as a user has them: copied, with the packed package, built by Vite, in Chromium. */
import {spawnSync} from 'node:child_process';
import {cpSync} from 'node:fs';
import {join} from 'node:path';
import {expect} from 'chai';
import type {Browser, Page} from 'playwright-core';
import {launch, serve} from '../support/chromium.js';
import {Project, root} from '../support/packed_project.js';
import {skip} from '../support/skip.js';

describe('examples for pages', () => {
  let browser: Browser | undefined;
  let project: Project;

  before(async function () {
    const launched = await launch({gpu: false});
    if (typeof launched === 'string') skip(this, `Chromium does not start here (${launched})`);
    browser = launched;
    project = new Project();
    project.link('vite');
  });

  after(() => browser?.close());

  /** Builds an example and opens its page, which must log no error. */
  async function withPage(name: string, query: string, use: (page: Page) => Promise<void>): Promise<void> {
    const folder = join(project.folder, name);
    cpSync(join(root, 'examples', name), folder, {recursive: true});
    const vite = join(root, 'node_modules/vite/bin/vite.js');
    const {status, stderr} = spawnSync(process.execPath, [vite, 'build'], {cwd: folder, encoding: 'utf8'});
    expect(status, stderr).to.equal(0);
    const {server, address} = await serve(join(folder, 'dist'));
    const page = await browser!.newPage();
    const errors: string[] = [];
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    page.on('pageerror', ({message}) => errors.push(message));
    try {
      await page.goto(`${address}index.html${query}`);
      await use(page);
      expect(errors).to.deep.equal([]);
    } finally {
      await page.close();
      server.close();
    }
  }

  it('vite: a page to start from', () =>
    withPage('vite', '', async (page) => {
      await page.locator('#mask svg').waitFor();
      const result = /^cpu: loss ([\d.]+), largest gradient ([\d.e-]+), 81% of the pairs masked, \d+ ms$/;
      const [, loss, gradient] = result.exec((await page.locator('#result').textContent())!)!;
      // The mean square of a mean of some normal numbers.
      expect(Number(loss)).to.be.within(0.01, 0.5);
      expect(Number(gradient)).to.be.above(0);
    }));

  it('page_training: learns packed texts in a worker', () =>
    withPage('page_training', '?steps=80', async (page) => {
      await page.locator('#texts').fill('the mask hides\ntiles are skipped\nrows are packed');
      await page.getByRole('button', {name: 'Train'}).click();
      const line = async (): Promise<string> => (await page.locator('#loss').textContent())!;
      await page.waitForFunction("/loss/.test(document.querySelector('#loss').textContent)");
      const first = Number(/loss ([\d.]+)/.exec(await line())![1]);
      await page.locator('#train:enabled').waitFor({timeout: 120_000});
      const last = Number(/^cpu, step 80: loss ([\d.]+)$/.exec(await line())![1]);
      expect(last).to.be.below(0.3);
      expect(last).to.be.below(first);
      expect(await page.locator('#written').textContent()).to.match(/^t(he mask hides|iles are skipped)$/);
    }));
});
