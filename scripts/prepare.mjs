/**
 * @file npm's `prepare`: builds dist/ before `npm pack`, and where a project installs this folder or its git URL. Not in `npm ci`, by which
 * developers and CI install: `npm run build` builds when they want it.
 */
if (process.env.npm_command !== 'ci') {
  await import('./setup.mjs');
  const {tsImport} = await import('tsx/esm/api');
  await tsImport('./build.ts', import.meta.url);
}
