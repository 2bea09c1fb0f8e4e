/**
 * @file Which way imports go: call < mask < backends < node_webgpu, cli, entries. Each room may import itself and the
 * rooms that are named below. `npm run check:imports` checks src/, ops/, gradients/ and site/, and finds circles.
 */
const WEBGPU = 'src/backends/webgpu';

/** A room's folder or file, and the rooms that it may import. */
const ROOMS = {
  'src/call': [],
  'src/mask': ['src/call'],
  'src/layers': [],
  'src/backends/cpu': ['src/call', 'src/mask'],
  'src/backends/composed': ['src/call', 'src/mask'],
  'src/backends/tensorflow': ['src/call', 'src/mask', 'src/layers', 'src/backends/composed'],
  [`${WEBGPU}/plan`]: ['src/call'],
  [`${WEBGPU}/wgsl`]: ['src/call', `${WEBGPU}/plan`],
  [`${WEBGPU}/run`]: ['src/call', `${WEBGPU}/plan`, `${WEBGPU}/wgsl`, `${WEBGPU}/device`],
  // A device with subgroup matrices brings the code of the passes on them.
  [`${WEBGPU}/device`]: ['src/call', `${WEBGPU}/plan`, `${WEBGPU}/wgsl`, `${WEBGPU}/run`, `${WEBGPU}/passes`],
  [`${WEBGPU}/passes`]: ['src/call', `${WEBGPU}/plan`, `${WEBGPU}/wgsl`, `${WEBGPU}/run`, `${WEBGPU}/device`],
  // forward.ts, backward.ts, kernel.ts; the circles' rule keeps them in order.
  [`${WEBGPU}/[^/]+\\.ts$`]: ['src/call', 'src/mask', `${WEBGPU}/(plan|wgsl|run|device|passes)`],
  [`${WEBGPU}/layers`]: ['src/call', 'src/layers', `${WEBGPU}/(wgsl|run)`],
  [`${WEBGPU}/autotune`]: ['src/call', 'src/mask', WEBGPU],
  'src/node_webgpu': ['src/call', 'src/backends'],
  'src/cli': ['src/call', 'src/mask', 'src/backends', 'src/node_webgpu', 'src/entries'],
  'src/distributed': ['src/call', 'src/mask', 'src/backends/tensorflow', 'ops'],
  ops: ['src/call', 'src/mask', 'src/backends/composed'],
  // Models of tf.layers. A folder of its own, since only its entry may need @tensorflow/tfjs-layers.
  'src/tf_layers': ['src/call', 'src/mask', 'src/layers', 'ops'],
  gradients: ['src/call', 'src/backends/composed'],
};

const rooms = Object.entries(ROOMS).map(([room, others]) => ({
  name: `imports of ${room}`,
  severity: 'error',
  from: {path: `^${room}`},
  to: {path: '^(src|ops|gradients)/', pathNot: [room, ...others].map((path) => `^${path}`)},
}));

/** The site imports what it likes; nothing of the package imports the site. */
const site = {name: 'the site', severity: 'error', from: {path: '^(src|ops|gradients)/'}, to: {path: '^site/'}};

module.exports = {
  forbidden: [
    ...rooms,
    site,
    {name: 'circle', severity: 'error', from: {path: '^(src|ops|gradients|site)/'}, to: {circular: true}},
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: {fileName: 'tsconfig.json'},
    doNotFollow: {path: 'node_modules'},
    enhancedResolveOptions: {extensions: ['.ts']},
  },
};
