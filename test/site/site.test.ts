/**
 * @file The site, built as `npm run site:build` does and served below a path: every control of its pages, a benchmark,
 * a training run, the search, accessibility and links.
 */
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import axe from 'axe-core';
import {expect} from 'chai';
import type {Browser, Page} from 'playwright-core';
import {readRecords} from '../../bench/record_files.js';
import {buildSite} from '../../site/scripts/main.js';
import {brokenLinks} from '../../site/scripts/links.js';
import {hashOrder, masks, type FlashMask} from '../../src/entries/index.js';
import {launch} from '../support/chromium.js';
import {full} from '../support/full.js';
import {maskTable} from '../support/mask_table.js';
import {SitePages} from '../support/site_pages.js';
import {skip} from '../support/skip.js';

/** Pages that axe looks at, and in which theme; with FLASHMASK_FULL in both. */
const PAGES = {
  '': 'both',
  'gpu.html': 'dark',
  'train.html': 'light',
  'guide/index.html': 'light',
  'guide/documents/Masks.html': 'dark',
  'guide/functions/tfjs-flashmask.flashMaskAttention.html': 'light',
} as const;

/** The mask that the page's code makes. */
function maskOfCode(code: string): FlashMask {
  const [, body] = /^import[^;]*;([^]*)const out = /.exec(code)!;
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- it is what a reader would run
  const run = new Function('masks', 'hashOrder', `${body}; return mask;`) as (...given: unknown[]) => FlashMask;
  return run(masks, hashOrder);
}

/** What a screen reader hears of the picture of a mask. */
function labelOf(name: string, mask: FlashMask, tile: number): string {
  const {maskedPairs, fullTiles, partialTiles, emptyTiles} = mask.sparsity({blockQ: tile, blockK: tile});
  const {queryLength, keyLength} = mask;
  const [rows, columns] = [Math.ceil(queryLength / tile), Math.ceil(keyLength / tile)];
  const count = (share: number): number => Math.round(share * rows * columns);
  return (
    `${name}: ${queryLength} queries × ${keyLength} keys, ${(100 * maskedPairs).toFixed(1)}% of the pairs masked, ` +
    `${rows} × ${columns} tiles: ${count(fullTiles)} full, ${count(partialTiles)} partial, ${count(emptyTiles)} empty`
  );
}

const codeOf = (page: Page): Promise<string> =>
  page.locator('#code').evaluate((code) => (code as HTMLElement).dataset.code!);

/** Waits until the page has shown what changed. */
async function drawn(page: Page): Promise<void> {
  await page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))');
}

/** Waits until the picture is that of the code shown. Returns the mask. */
async function settled(page: Page, name: string, tile = 64): Promise<FlashMask> {
  await drawn(page);
  const mask = maskOfCode(await codeOf(page));
  const perHead = mask.heads > 1 || mask.batch > 1;
  if (!perHead) expect(await page.locator('#picture').getAttribute('aria-label')).to.equal(labelOf(name, mask, tile));
  return mask;
}

/** The playground with its picture and its fields filled in: both come with its first frame. */
async function playground(pages: SitePages, link = '', options?: Parameters<SitePages['visit']>[1]): Promise<Page> {
  const page = await pages.visit(link, options);
  await page.locator('#code[data-code]').waitFor();
  return page;
}

/** Places where the picture's colour contradicts the mask: at the middles of a grid of its pixels. */
async function wrongPixels(page: Page, mask: FlashMask): Promise<string[]> {
  const GRID = 40;
  const colours = await page.evaluate(
    `(() => {
      const canvas = document.querySelector('#picture');
      const style = getComputedStyle(document.documentElement);
      const probe = document.createElement('canvas').getContext('2d');
      const names = ['full', 'visible', 'masked', 'empty'].map((name) => {
        probe.fillStyle = style.getPropertyValue('--mask-' + name);
        probe.fillRect(0, 0, 1, 1);
        return [[...probe.getImageData(0, 0, 1, 1).data].join(), name];
      });
      const kinds = Object.fromEntries(names);
      const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return Array.from({length: ${GRID * GRID}}, (_, i) => {
        const [x, y] = [i % ${GRID}, Math.floor(i / ${GRID})].map((at) => Math.floor(((at + 0.37) * canvas.width) / ${GRID}));
        const from = 4 * (y * canvas.width + x);
        const key = Math.floor(((x + 0.5) * ${mask.keyLength}) / canvas.width);
        return {x: key, y: Math.floor(((y + 0.5) * ${mask.queryLength}) / canvas.height), kind: kinds[[...data.slice(from, from + 4)].join()]};
      });
    })()`,
  );
  const dense = mask.toDense();
  const points = (colours as {x: number; y: number; kind?: string}[]).filter(({kind}) => kind !== undefined);
  // Lines cover some of the points.
  expect(points.length).to.be.at.least(GRID * GRID * 0.8);
  const sees = ({x, y}: {x: number; y: number}): boolean => dense[y * mask.keyLength + x] === 1;
  // A pixel of the picture may cover two pairs of the mask, so its neighbours are asked too.
  const near = (point: {x: number; y: number}): boolean[] =>
    [-1, 0, 1].flatMap((dx) =>
      [-1, 0, 1].map((dy) => sees({
        x: Math.min(mask.keyLength - 1, Math.max(0, point.x + dx)),
        y: Math.min(mask.queryLength - 1, Math.max(0, point.y + dy)),
      })),
    ); // prettier-ignore
  return points.flatMap((point) => {
    const shown = point.kind === 'full' || point.kind === 'visible';
    return near(point).includes(shown) ? [] : [`${point.kind} at query ${point.y}, key ${point.x}`];
  });
}

/** What axe calls serious or worse. */
async function seriousProblems(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  const found = await page.evaluate(`axe.run({resultTypes: ['violations']}).then(({violations}) => violations
    .filter(({impact}) => impact === 'serious' || impact === 'critical')
    .map(({id, nodes}) => id + ': ' + nodes.slice(0, 3).map(({target}) => target.join(' ')).join(', ')))`);
  return found as string[];
}

const text = async (page: Page, selector: string): Promise<string> =>
  (await page.locator(selector).textContent()) ?? '';

/** Waits for the status of a page with a worker. */
async function done(page: Page): Promise<void> {
  await page.waitForFunction("/^(Done|It failed)/.test(document.querySelector('#status').textContent)", null, {
    timeout: 120_000,
  });
  expect(await text(page, '#status')).to.match(/^Done/);
}

describe('the site', () => {
  let browser: Browser | undefined;
  let pages: SitePages;

  before(async function () {
    await buildSite();
    const launched = await launch({gpu: false});
    if (typeof launched === 'string') skip(this, `Chromium does not start here (${launched})`);
    browser = launched;
    pages = await SitePages.open(browser);
  });

  after(async () => {
    await browser?.close();
    pages?.close();
  });

  afterEach(async () => {
    await Promise.all((browser?.contexts() ?? []).map((context) => context.close()));
    expect(pages.problems.splice(0)).to.deep.equal([]);
  });

  it('has links that are checked', () => {
    const folder = mkdtempSync(join(tmpdir(), 'flashmask-site-'));
    try {
      writeFileSync(join(folder, 'a.html'), '<a href="b.html#there">1</a><a href="b.html#gone">2</a><img src="c.png">');
      writeFileSync(
        join(folder, 'b.html'),
        '<p id="there"><a href="../d.html">3</a><a href="https://example.org/x">4</a>',
      );
      expect(brokenLinks(folder)).to.deep.equal(['a.html: b.html#gone', 'a.html: c.png', 'b.html: ../d.html']);
    } finally {
      rmSync(folder, {recursive: true});
    }
  });

  describe('the playground', () => {
    it('shows every builder, and code that makes the mask it shows', async () => {
      const page = await playground(pages);
      const length = page.getByLabel('Tokens', {exact: true});
      for (const {name, title, description} of maskTable) {
        await page.getByRole('radio', {name: title, exact: true}).check();
        const mask = await settled(page, name);
        expect(mask.name, name).to.equal(name);
        expect(await text(page, '#description')).to.equal(description);
        expect(await page.locator('#error').isHidden(), name).to.equal(true);
        expect(await wrongPixels(page, mask), name).to.deep.equal([]);
        if (await length.isDisabled()) continue;
        await length.fill('777');
        const longer = await settled(page, name);
        expect(Math.abs(longer.keyLength - 777), name).to.be.at.most(4);
      }
    });

    it('lets borders be dragged and moved by keys, and parts be added', async () => {
      const page = await playground(pages);
      const handle = page.getByRole('slider', {name: 'End of document 1'});
      const lengths = page.getByLabel('Lengths', {exact: true});
      const before = (await lengths.inputValue()).split(', ').map(Number);
      const value = async (): Promise<number> => Number(await handle.getAttribute('aria-valuenow'));
      expect(await value()).to.equal(before[0]);
      await handle.hover();
      const box = (await page.locator('#picture').boundingBox())!;
      await page.mouse.down();
      await page.mouse.move(box.x + box.width / 8, box.y + box.height / 8, {steps: 3});
      await page.mouse.up();
      await settled(page, 'causalDocument');
      expect(await value()).to.be.within(127, 129);
      await handle.focus();
      await page.keyboard.press('ArrowRight');
      await page.keyboard.press('Shift+ArrowDown');
      const mask = await settled(page, 'causalDocument');
      const moved = (await lengths.inputValue()).split(', ').map(Number);
      expect(moved[0]).to.be.within(138, 140);
      expect([moved[0] + moved[1], ...moved.slice(2)]).to.deep.equal([before[0] + before[1], ...before.slice(2)]);
      expect(mask.bounds![0]).to.equal(moved[0]);
      await page.keyboard.press('Home');
      await settled(page, 'causalDocument');
      expect(await value()).to.equal(1);
      await page.getByRole('button', {name: 'Add a part'}).click();
      await settled(page, 'causalDocument');
      expect(await page.getByRole('slider').count()).to.equal(before.length);
      await page.getByRole('button', {name: 'Remove one'}).click();
      await settled(page, 'causalDocument');
      expect(await page.getByRole('slider').count()).to.equal(before.length - 1);
    });

    it('lets windows, prefixes, globals and spans be moved', async () => {
      const page = await playground(pages);
      const moves = [
        ['Sliding window', 'slidingWindow', 'Window'],
        ['Window on both sides', 'window', 'Keys after'],
        ['Global + sliding window', 'globalSlidingWindow', 'Global tokens'],
        ['Prefix LM', 'prefixLmCausal', 'Prefix'],
        ['Prefix LM document', 'prefixLmDocument', 'Prefix of document 2'],
        ['QK-sparse', 'qkSparse', 'End of span 1'],
        ['Shared question', 'sharedQuestion', 'End of part 2'],
      ] as const;
      for (const [title, name, handle] of moves) {
        await page.getByRole('radio', {name: title, exact: true}).check();
        const mask = await settled(page, name);
        await page.getByRole('slider', {name: handle, exact: true}).press('PageUp');
        const moved = await settled(page, name);
        expect([...moved.bounds!], name).not.to.deep.equal([...mask.bounds!]);
        expect(await wrongPixels(page, moved), name).to.deep.equal([]);
      }
    });

    it('takes pasted lengths, batches and options, and says what is wrong with others', async () => {
      const page = await playground(pages);
      const lengths = page.getByLabel('Lengths', {exact: true});
      await lengths.fill('[100, 200]\n[250]');
      await drawn(page);
      expect(await text(page, '#error')).to.match(/masks\.causalDocument: lengths must sum to 300 in every row/);
      await page.getByLabel('Pad rows to').fill('300');
      const batch = await settled(page, 'causalDocument');
      expect([batch.batch, batch.keyLength]).to.deep.equal([2, 300]);
      expect(await page.locator('#error').isHidden()).to.equal(true);
      const first = await page.locator('#picture').screenshot();
      await page.getByLabel('Row of the batch').selectOption('1');
      await page.locator('#show-vectors').uncheck();
      await settled(page, 'causalDocument');
      expect((await page.locator('#picture').screenshot()).equals(first)).to.equal(false);
      await lengths.fill('99999');
      await drawn(page);
      expect(await text(page, '#error')).to.match(/at most 16384 tokens, got 99999/);
      await lengths.fill('40 60');
      await page.getByLabel('Pad rows to').fill('0');
      await page.getByLabel('Side of a tile').selectOption('16');
      const mask = await settled(page, 'causalDocument', 16);
      expect(mask.keyLength).to.equal(100);
      await page.getByLabel('Query', {exact: true}).fill('50');
      await page.getByLabel('Key', {exact: true}).fill('45');
      expect(await text(page, '#pair')).to.equal(
        'Query 50 sees key 45, in a tile that is partial. The key stores LTS 100.',
      );
      await page.getByLabel('Key', {exact: true}).fill('20');
      expect(await text(page, '#pair')).to.match(/^Query 50 does not see key 20, in a tile that is empty/);
      expect(await text(page, '#vectors')).to.match(/LTS.*40 ×40 {2}100 ×60/);
    });

    it('copies code and links, and a link shows the mask again', async () => {
      const page = await playground(pages, '', {permissions: ['clipboard-read', 'clipboard-write']});
      const clipboard = (): Promise<string> => page.evaluate('navigator.clipboard.readText()');
      await page.getByLabel('Lengths', {exact: true}).fill('300, 724');
      await settled(page, 'causalDocument');
      await page.getByRole('button', {name: 'Copy the code'}).click();
      await page.getByRole('button', {name: 'Copied'}).waitFor();
      expect(await clipboard()).to.equal(await codeOf(page));
      await page.getByRole('button', {name: 'Copy', exact: true}).click();
      expect(await clipboard()).to.match(/^npm install tfjs-flashmask /);
      await page.getByRole('button', {name: 'Copy a link'}).click();
      const link = await clipboard();
      const again = await playground(pages, link.slice(pages.address.length));
      expect(await codeOf(again)).to.equal(await codeOf(page));
      expect(await again.getByLabel('Lengths', {exact: true}).inputValue()).to.equal('300, 724');
      const damaged = await playground(pages, '#mask=slidingWindow&length=many');
      expect((await settled(damaged, 'slidingWindow')).keyLength).to.equal(1024);
      const decoding = await playground(pages, '#mask=causal&length=512&queries=64');
      const mask = await settled(decoding, 'causal');
      expect([mask.queryLength, mask.keyLength]).to.deep.equal([64, 512]);
    });
  });

  describe('your GPU', () => {
    it('measures on the cpu backend, and downloads the record that docs/benchmarks takes', async () => {
      const page = await pages.visit('gpu.html', {acceptDownloads: true});
      await page.locator('#run:enabled').waitFor();
      await page.getByLabel('Backend').selectOption('cpu');
      expect(await page.getByLabel('Device', {exact: true}).isDisabled()).to.equal(true);
      await page.getByLabel('Tokens').selectOption('128');
      await page.getByLabel('Name of the device in the record').fill('a CPU of the test');
      for (const name of ['full', 'document', 'slidingWindow', 'globalSlidingWindow'])
        await page.getByLabel(name, {exact: true}).uncheck();
      await page.getByRole('button', {name: 'Run'}).click();
      await done(page);
      const download = page.waitForEvent('download');
      await page.getByRole('button', {name: 'Download the record'}).click();
      const file = await download;
      expect(file.suggestedFilename()).to.equal('cpu-a-cpu-of-the-test.jsonl');
      const records = readRecords(await file.path());
      expect(records.map(({mask, attention}) => `${mask} ${attention}`)).to.deep.equal([
        'causal dense', 'causal flash', 'causalDocument dense', 'causalDocument flash',
      ]); // prettier-ignore
      for (const record of records) {
        expect(record).to.include({suite: 'masks', backend: 'cpu', device: 'a CPU of the test', N: 128, H: 1, D: 16});
        for (const figure of [record.forwardMs, record.forwardTflops, record.peakBytes]) expect(figure).to.be.above(0);
        if (record.attention === 'flash') expect(record.difference).to.be.within(0, 1e-5);
      }
      const cells = await page.locator('#rows tr').first().locator('td').allTextContents();
      expect(cells[0]).to.equal(`${(100 * records[0].masked!).toFixed(1)}%`);
      expect(cells[9]).to.equal(records[1].difference!.toExponential(1));
      expect(await page.locator('#chart circle').count()).to.equal(4);
    });

    it('measures on WebGPU, on the device with all features', async () => {
      const gpu = (await launch({gpu: true})) as Browser;
      const page = await pages.visit('gpu.html', {browser: gpu});
      await page.locator('#run:enabled').waitFor();
      expect(await text(page, '#adapter')).to.match(/swiftshader, computed by the CPU/i);
      await page.getByLabel('Tokens').selectOption('128');
      for (const box of await page.locator('#masks input').all()) await box.uncheck();
      await page.getByRole('button', {name: 'Run'}).click();
      expect(await text(page, '#status')).to.equal('Choose a mask first.');
      await page.getByLabel('causalDocument').check();
      await page.getByRole('button', {name: 'Run'}).click();
      await done(page);
      const cells = await page.locator('#rows tr td').allTextContents();
      expect(Number(cells[9])).to.be.within(0, 1e-5);
      expect(cells[6]).to.match(/×$/);
      await gpu.close();
    });

    it('stops when it is told to', async () => {
      const page = await pages.visit('gpu.html');
      await page.locator('#run:enabled').waitFor();
      await page.getByLabel('Backend').selectOption('cpu');
      await page.getByRole('button', {name: 'Run'}).click();
      await page.getByRole('button', {name: 'Stop'}).click();
      expect(await text(page, '#status')).to.equal('Stopped.');
      expect(await page.getByRole('button', {name: 'Run'}).isEnabled()).to.equal(true);
    });

    it('says so where there is no WebGPU, and takes the cpu backend', async () => {
      const before = "Object.defineProperty(Navigator.prototype, 'gpu', {get: () => undefined})";
      for (const path of ['gpu.html', 'train.html']) {
        const page = await pages.visit(path, {before});
        await page.locator('#run:enabled').waitFor();
        expect(await page.locator('#no-webgpu').isVisible(), path).to.equal(true);
        expect(await page.getByLabel('Backend').inputValue(), path).to.equal('cpu');
        expect(await page.locator('#backend option').first().isDisabled(), path).to.equal(true);
      }
    });
  });

  describe('training', () => {
    it('trains flashMask beside dense, and writes', async () => {
      const page = await pages.visit('train.html');
      await page.locator('#run:enabled').waitFor();
      await page.getByLabel('Steps', {exact: true}).fill('2');
      await page.getByLabel('Tokens of a row').fill('32');
      await page.getByLabel('Tokens to write').fill('6');
      await page.getByLabel('The model continues').fill('A mask');
      await page.getByRole('button', {name: 'Train', exact: true}).click();
      await done(page);
      expect(Number(await text(page, '#agree'))).to.be.within(0, 1e-4);
      for (const side of ['flash', 'dense']) {
        expect(Number((await text(page, `#${side}-speed`)).replace(',', '')), side).to.be.above(0);
        expect(await text(page, `#${side}-memory`), side).to.match(/^[\d.]+ MiB$/);
      }
      // A fresh model of 1024 tokens starts near ln 1024.
      const [, first, last] = /From ([\d.]+) to ([\d.]+) in 2 steps/.exec(await text(page, '#loss-text'))!;
      expect(Number(first)).to.be.within(6, 8);
      expect(Number(last)).to.be.within(5, 8);
      const mask = /^\d+ texts? in a row of 32 tokens: [\d.]+% of the pairs are masked/;
      expect(await text(page, '#mask-text')).to.match(mask);
      for (const when of ['before', 'after']) expect(await text(page, `#${when}`)).to.match(/^A mask/);
      expect((await text(page, '#before')).length).to.be.above('A mask'.length);
      expect(await page.locator('#chart path').count()).to.be.at.least(2);
    });

    it('stops, and refuses a form that is filled in wrongly', async () => {
      const page = await pages.visit('train.html');
      await page.locator('#run:enabled').waitFor();
      await page.getByLabel('Steps', {exact: true}).fill('0');
      await page.getByRole('button', {name: 'Train', exact: true}).click();
      expect(await text(page, '#status')).to.equal('');
      await page.getByLabel('Steps', {exact: true}).fill('3');
      await page.getByRole('button', {name: 'Train', exact: true}).click();
      await page.getByRole('button', {name: 'Stop'}).click();
      expect(await text(page, '#status')).to.equal('Stopped.');
    });
  });

  describe('all pages', () => {
    it('are found by one search, by keyboard', async () => {
      const page = await pages.visit('guide/documents/Masks.html');
      await page.keyboard.press('/');
      const field = page.getByRole('searchbox', {name: 'Search'});
      /** Addresses of what is found, once the last of them is there. */
      const find = async (words: string, last: RegExp): Promise<string[]> => {
        await field.fill(words);
        const links = page.locator('.search-results a');
        await page.waitForFunction(
          (source) =>
            [...document.querySelectorAll<HTMLAnchorElement>('.search-results a')].some(({href}) =>
              new RegExp(source).test(href),
            ),
          last.source,
        );
        return links.evaluateAll((all) => all.map((link) => (link as HTMLAnchorElement).href));
      };
      await find('subgroup matrices flags', /gpu\.html/);
      await find('rejected answer builder', /guide\/functions\/.*sharedQuestion/);
      const guide = await find('what the vectors mean', /guide\/documents\/Masks\.html#what-the-vectors-mean/);
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('Enter');
      await page.waitForURL(guide[0]);
      await page.keyboard.press('Control+k');
      await page.getByRole('dialog').waitFor();
      await page.keyboard.press('Escape');
      await page.getByRole('dialog').waitFor({state: 'hidden'});
    });

    it('of the guide have a menu in narrow windows, also by keyboard', async () => {
      const page = await pages.visit('guide/documents/Masks.html', {viewport: {width: 390, height: 800}});
      const link = page.getByRole('link', {name: 'Packages and entries'});
      const button = page.getByRole('button', {name: 'Contents'});
      expect(await link.isVisible()).to.equal(false);
      await button.press('Enter');
      await link.waitFor();
      await page.keyboard.press('Escape');
      await link.waitFor({state: 'hidden'});
      await button.click();
      await link.click();
      await page.waitForURL(/Packages_and_entries/);
    });

    it('keep the theme that was chosen', async () => {
      const page = await pages.visit('', {colorScheme: 'dark'});
      const background = (): Promise<string> => page.evaluate('getComputedStyle(document.body).backgroundColor');
      const dark = await background();
      await page.getByRole('button', {name: /^Theme/}).click();
      expect(await page.getByRole('button', {name: 'Theme: light'}).count()).to.equal(1);
      const light = await background();
      expect(light).not.to.equal(dark);
      await page.goto(`${pages.address}guide/documents/Masks.html`);
      expect(await background()).to.equal(light);
    });

    for (const [path, theme] of Object.entries(PAGES)) {
      it(`have nothing that axe calls serious, and fit their windows: ${path || 'index.html'}`, async () => {
        for (const colorScheme of full || theme === 'both' ? (['light', 'dark'] as const) : ([theme] as const)) {
          const page = await pages.visit(path, {colorScheme, reducedMotion: 'reduce'});
          expect(await page.getByRole('main').count()).to.equal(1);
          expect(await page.getByRole('heading', {level: 1}).count()).to.equal(1);
          await page.waitForFunction('document.body.style.display !== "none"');
          expect(await seriousProblems(page), colorScheme).to.deep.equal([]);
        }
        const page = await pages.visit(path);
        for (const width of [390, 820, 1440]) {
          await page.setViewportSize({width, height: 900});
          expect(await page.evaluate('document.documentElement.scrollWidth'), `${width} pixels`).to.be.at.most(width);
        }
      });
    }
  });

  it('says the figures and the install line that README.md says', () => {
    const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
    const [readme, html] = [read('README.md'), read('site/index.html')];
    const figures = [...html.matchAll(/<dt>([\d.,]+×?)/g)].map(([, figure]) => figure);
    expect(figures).to.have.length(3);
    const install = /id="install"[^>]*>([^<]*)</.exec(html)![1];
    expect([...figures, install].filter((words) => !readme.includes(words))).to.deep.equal([]);
  });

  it('is not in the package', () => {
    const {files} = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      files: string[];
    };
    expect(files.filter((path) => path.includes('site'))).to.deep.equal([]);
  });
});
