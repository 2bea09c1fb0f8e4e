/** @file API reference: `npm run docs` writes docs/api, with the guides in it. */
import {OptionDefaults} from 'typedoc';

/** Tags of this code base and of tfjs's own API pages, which say nothing to a reader of these. */
const SILENT_TAGS = ['@file', '@doc'];

/** @type {Partial<import('typedoc').TypeDocOptions>} */
export default {
  name: 'tfjs-flashmask',
  plugin: ['./site/scripts/guide_titles.js'],
  entryPoints: ['index', 'layers', 'webgpu', 'masks', 'node', 'node_webgpu', 'einsum_gradient', 'distributed'].map(
    (entry) => `src/entries/${entry}.ts`,
  ),
  projectDocuments: [
    'docs/masks.md',
    'docs/layers.md',
    'docs/comparison.md',
    'docs/finetune.md',
    'docs/tfjs-node.md',
    'docs/traced.md',
    'docs/distributed.md',
    'docs/benchmarks.md',
    'docs/performance.md',
    'docs/design.md',
    'docs/native.md',
    'docs/packages.md',
    'docs/testing.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
  ],
  tsconfig: 'tsconfig.build.json',
  // `npm run lint` checks the types.
  skipErrorChecking: true,
  out: 'docs/api',
  readme: 'README.md',
  includeVersion: true,
  excludeExternals: true,
  excludeInternal: true,
  disableSources: true,
  blockTags: [...OptionDefaults.blockTags, ...SILENT_TAGS],
  highlightLanguages: [...OptionDefaults.highlightLanguages, 'python'],
  excludeTags: [...OptionDefaults.excludeTags, ...SILENT_TAGS],
  treatWarningsAsErrors: true,
  validation: {notExported: true, invalidLink: true, rewrittenLink: true, notDocumented: true},
};
