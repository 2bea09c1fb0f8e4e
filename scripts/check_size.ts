/**
 * @file Checks how many bytes the built library adds to a page that uses attention with one mask builder: minified by
 * esbuild, gzipped, without tfjs.
 *
 *     npm run check:size [-- --build]    measures dist/; builds it first if asked or if it is missing
 */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {gzipSync} from 'node:zlib';
import {build} from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));

const KIB = 1024;

/** Entry, and the most bytes that it may add to its page. */
const BUDGETS: [entry: string, most: number][] = [
  ['tfjs-flashmask', 40 * KIB],
  ['tfjs-flashmask/webgpu', 28 * KIB],
];

async function pageBytes(entry: string): Promise<{minified: number; gzip: number}> {
  const contents = `
    import {flashMaskAttention} from '${entry}';
    import {causal} from 'tfjs-flashmask/masks';
    console.log(flashMaskAttention, causal);`;
  const {outputFiles} = await build({
    stdin: {contents, resolveDir: root},
    bundle: true,
    external: ['@tensorflow/*'],
    format: 'esm',
    minify: true,
    platform: 'browser',
    target: 'es2022',
    // The paths of tsconfig.json would lead to the sources.
    tsconfigRaw: '{}',
    write: false,
  });
  return {minified: outputFiles[0].contents.length, gzip: gzipSync(outputFiles[0].contents, {level: 9}).length};
}

if (process.argv.includes('--build') || !existsSync(join(root, 'dist'))) await import('./build.js');
for (const [entry, most] of BUDGETS) {
  const {minified, gzip} = await pageBytes(entry);
  const fits = gzip <= most;
  console.log(`${fits ? 'ok' : 'TOO LARGE'}: ${entry} adds ${minified} bytes, ${gzip} in gzip, of at most ${most}`);
  if (!fits) process.exitCode = 1;
}
