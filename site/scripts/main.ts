/**
 * @file `npm run site:build`: writes the site to site/dist, as files for any host and any path: the pages by Vite, the
 * guide and the API reference by TypeDoc, one search by Pagefind. Fails where a link leads nowhere.
 */
import {mkdtempSync, renameSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {build} from 'vite';
import {output} from '../vite.config.js';
import {joinGuide, writeGuide} from './guide.js';
import {brokenLinks} from './links.js';
import {indexPages} from './search.js';

const site = fileURLToPath(new URL('..', import.meta.url));
const root = join(site, '..');

/** Writes site/dist. Throws where a part fails or a link leads nowhere. */
export async function buildSite(): Promise<void> {
  // Vite empties the output, so TypeDoc, which runs beside it, writes elsewhere.
  const guide = mkdtempSync(join(site, 'guide.tmp.'));
  try {
    await Promise.all([build({configFile: join(site, 'vite.config.ts'), logLevel: 'warn'}), writeGuide(root, guide)]);
    renameSync(guide, join(output, 'guide'));
  } finally {
    rmSync(guide, {recursive: true, force: true});
  }
  joinGuide(root, output);
  await indexPages(output);
  const broken = brokenLinks(output);
  if (broken.length > 0) throw new Error(`Links lead nowhere:\n${broken.join('\n')}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const start = performance.now();
  await buildSite();
  console.log(`site/dist: built in ${((performance.now() - start) / 1000).toFixed(0)} s`);
}
