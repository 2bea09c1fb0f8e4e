/**
 * @file npm's `prepare`: builds dist/ before `npm pack`, and if a project installs this folder or its git URL. It does
 * not build in `npm ci`, which developers and CI use; they run `npm run build` when they need it.
 */
if (process.env.npm_command !== 'ci') {
  await import('./setup.mjs');
  const {tsImport} = await import('tsx/esm/api');
  await tsImport('./build.ts', import.meta.url);
}
