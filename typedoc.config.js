/** @file API reference: `npm run docs` writes docs/api. */
import {existsSync} from 'node:fs';
import {OptionDefaults} from 'typedoc';

/** Tags of this code base and of tfjs's own API pages, which say nothing to a reader of these. */
const SILENT_TAGS = ['@file', '@doc'];

/** @type {Partial<import('typedoc').TypeDocOptions>} */
export default {
  entryPoints: ['src/entries/index.ts', 'src/entries/node.ts', 'src/entries/node_webgpu.ts'],
  tsconfig: 'tsconfig.build.json',
  out: 'docs/api',
  name: 'tfjs-flashmask',
  readme: existsSync('README.md') ? 'README.md' : 'none',
  includeVersion: true,
  excludeExternals: true,
  disableSources: true,
  blockTags: [...OptionDefaults.blockTags, ...SILENT_TAGS],
  highlightLanguages: [...OptionDefaults.highlightLanguages, 'python'],
  excludeTags: [...OptionDefaults.excludeTags, ...SILENT_TAGS],
  treatWarningsAsErrors: true,
};
