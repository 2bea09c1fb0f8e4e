/** @file How Vite serves (`npm run site`) and builds (`npm run site:build`) the pages of this folder. */
import {existsSync, readFileSync, statSync} from 'node:fs';
import {extname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {type Plugin, defineConfig} from 'vite';
import {HEAD, header} from './scripts/header.js';

const folder = fileURLToPath(new URL('.', import.meta.url));
export const output = join(folder, 'dist');

/** Pages by their names. `guide` is a template: the build takes its head into the pages of the guide. */
export const PAGES = ['index', 'gpu', 'train', 'guide'] as const;

/** Replaces `<!-- head -->` and `<!-- header -->` of a page, before Vite looks for what it links to. */
const sharedParts: Plugin = {
  name: 'shared-parts',
  transformIndexHtml: {
    order: 'pre',
    handler: (html, {path}) =>
      html
        .replace('<!-- head -->', () => HEAD)
        .replace('<!-- header -->', () => header('./', path.replace(/^\/|\.html$/g, '') || 'index')),
  },
};

/**
 * In a page tfjs is its core with the backends that the pages name, and src/backends/tensorflow/load.ts, which looks
 * for a Node addon, finds none.
 */
const inPages: Plugin = {
  name: 'in-pages',
  enforce: 'pre',
  resolveId: {
    filter: {id: /^@tensorflow\/tfjs$|\/load\.js$/},
    async handler(source, importer) {
      if (source === '@tensorflow/tfjs') return join(folder, 'shell/tfjs.ts');
      const resolved = await this.resolve(source, importer, {skipSelf: true});
      return resolved?.id.endsWith('src/backends/tensorflow/load.ts') ? join(folder, 'train/no_addon.ts') : resolved;
    },
  },
};

const TYPES: Record<string, string> = {
  '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json',
}; // prettier-ignore

/** While developing, the guide and the search are those of the last `npm run site:build`. */
const builtParts: Plugin = {
  name: 'built-parts',
  configureServer({middlewares}) {
    middlewares.use((request, response, next) => {
      const path = join(output, new URL(request.url ?? '/', 'http://localhost').pathname);
      const isBuilt =
        /^\/(guide|images|pagefind)\//.test(request.url ?? '') && existsSync(path) && statSync(path).isFile();
      if (!isBuilt) {
        next();
        return;
      }
      response.setHeader('content-type', TYPES[extname(path)] ?? 'application/octet-stream');
      response.end(readFileSync(path));
    });
  },
};

export default defineConfig({
  root: folder,
  // Links are relative, so that the pages work below any path of a host.
  base: './',
  appType: 'mpa',
  plugins: [sharedParts, inPages, builtParts],
  worker: {format: 'es', plugins: () => [inPages]},
  // Found at the start, so that the first run of a worker does not reload its page.
  optimizeDeps: {entries: ['*.html', '*/worker.ts']},
  server: {fs: {allow: [join(folder, '..')]}},
  build: {
    outDir: output,
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: 'chrome123',
    // tfjs alone is more than Vite's limit.
    chunkSizeWarningLimit: 4096,
    rolldownOptions: {input: PAGES.map((name) => join(folder, `${name}.html`)), checks: {pluginTimings: false}},
  },
});
