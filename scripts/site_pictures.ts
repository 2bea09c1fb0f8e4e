/**
 * @file Takes pictures of the built site, to look at: each page in three widths and both themes.
 *
 *     npm run site:build
 *     npx tsx scripts/site_pictures.ts FOLDER     writes them there
 *     npx tsx scripts/site_pictures.ts --readme   writes docs/images/site.png, the picture of README.md
 */
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import type {Browser} from 'playwright-core';
import {output} from '../site/vite.config.js';
import {launch, serve} from '../test/support/chromium.js';

const WIDTHS = [390, 820, 1440];
const THEMES = ['light', 'dark'] as const;
const PAGES = {
  masks: 'index.html',
  gpu: 'gpu.html',
  train: 'train.html',
  guide: 'guide/documents/Masks.html',
  api: 'guide/functions/tfjs-flashmask.flashMaskAttention.html',
};
const README = fileURLToPath(new URL('../docs/images/site.png', import.meta.url));
/** Packed documents with prefixes show full, partial and empty tiles, two vectors and many handles. */
const SHOWN = '#mask=prefixLmDocument&lengths=900,1400,600,1196&prefixes=300,500,100,600&padTo=0';

async function takeAll(browser: Browser, address: string, folder: string): Promise<void> {
  mkdirSync(folder, {recursive: true});
  for (const [name, path] of Object.entries(PAGES)) {
    for (const colorScheme of THEMES) {
      for (const width of WIDTHS) {
        const page = await browser.newPage({viewport: {width, height: 900}, colorScheme});
        await page.goto(address + path);
        await page.waitForTimeout(500);
        await page.screenshot({path: join(folder, `${name}-${width}-${colorScheme}.png`), fullPage: true});
        await page.close();
      }
    }
  }
}

async function takeForReadme(browser: Browser, address: string): Promise<void> {
  const page = await browser.newPage({
    viewport: {width: 1240, height: 900},
    colorScheme: 'light',
    deviceScaleFactor: 1.5,
  });
  await page.goto(`${address}index.html${SHOWN}`);
  await page.addStyleTag({content: '.site-header {position: static} .description {display: none}'});
  await page.getByRole('slider', {name: 'End of document 2'}).hover();
  await page.waitForTimeout(500);
  await page.locator('.workbench').screenshot({path: README});
}

const browser = await launch({gpu: false});
if (typeof browser === 'string') throw new Error(`Chromium does not start here (${browser}).`);
const {server, address} = await serve(output);
const [where] = process.argv.slice(2);
try {
  if (where === undefined) throw new Error('Give a folder, or --readme.');
  if (where === '--readme') await takeForReadme(browser, address);
  else await takeAll(browser, address, where);
} finally {
  await browser.close();
  server.close();
}
