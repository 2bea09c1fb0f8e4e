/** @file `tfjs-flashmask example`: lists the examples of the package, and copies one into a folder. */
import {cpSync, existsSync, mkdirSync, readFileSync, readdirSync} from 'node:fs';
import {join, relative, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';
import {filesBelow, readJson, writeJson} from './files.js';
import {packageRoot} from './package_root.js';
import {UserError} from './user_error.js';

/** What of an example's package.json is read here. */
interface Description {
  description: string;
  dependencies?: Record<string, string>;
  /** The commands that run the example. Default: npm install, npm start. */
  'tfjs-flashmask'?: {run: string[]};
}

const EXAMPLES = fileURLToPath(new URL('examples/', packageRoot()));
const OWN = 'tfjs-flashmask';

function descriptionOf(folder: string): Description {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Description;
}

/** Examples are the folders with a package.json. */
function exampleNames(): string[] {
  return readdirSync(EXAMPLES).filter((name) => existsSync(join(EXAMPLES, name, 'package.json')));
}

/** A line for each example. */
export function listExamples(): string {
  const names = exampleNames();
  const width = Math.max(...names.map(({length}) => length));
  const lines = names.map((name) => `  ${name.padEnd(width)}  ${descriptionOf(join(EXAMPLES, name)).description}`);
  return [...lines, '', 'npx tfjs-flashmask example NAME [folder] copies one.'].join('\n');
}

/**
 * Copies an example into a new or empty folder.
 *
 * @param cwd where the folder is.
 * @param folder default: the name.
 * @returns what to do next.
 */
export function copyExample(cwd: string, name: string, folder = name): string {
  if (!exampleNames().includes(name)) {
    throw new UserError(`example: NAME must be one of the examples, got '${name}'. There are:\n${listExamples()}`);
  }
  const target = resolve(cwd, folder);
  makeEmpty(target, name);
  cpSync(join(EXAMPLES, name), target, {
    recursive: true,
    errorOnExist: true,
    force: false,
    // What a run in a clone leaves.
    filter: (path) => !/[/\\](node_modules|dist)$/.test(relative(EXAMPLES, path)),
  });
  const {'tfjs-flashmask': {run = ['npm install', 'npm start']} = {}, ...manifest} = descriptionOf(target);
  if (manifest.dependencies) manifest.dependencies[OWN] = installedFrom() ?? manifest.dependencies[OWN];
  writeJson(join(target, 'package.json'), manifest);
  const files = filesBelow(target).map((path) => relative(target, path));
  const steps = [...(target === resolve(cwd) ? [] : [`cd ${folder}`]), ...run].map((step) => `  ${step}`);
  return [`Copied ${name} into ${folder}: ${files.sort().join(', ')}`, 'Next:', ...steps].join('\n');
}

/** Makes the folder, unless it is there and empty. */
function makeEmpty(target: string, name: string): void {
  const there = whatIsIn(target);
  if (there === undefined) return;
  throw new UserError(
    `example ${name}: the folder must be new or empty, since nothing is overwritten, got ${target} (${there}). ` +
      `Name another one: npx tfjs-flashmask example ${name} FOLDER`,
  );
}

function whatIsIn(target: string): string | undefined {
  try {
    mkdirSync(target, {recursive: true});
    const [file] = readdirSync(target);
    return file && `it has ${file}`;
  } catch (error) {
    return (error as Error).message; // A file has the name, or the folder may not be made.
  }
}

/** The file that npm installed this package from, for a package.json; undefined: it came from a registry. */
function installedFrom(): string | undefined {
  const modules = fileURLToPath(new URL('..', packageRoot()));
  const lock = readJson(join(modules, '.package-lock.json')) as {packages?: Record<string, {resolved?: string}>} | null;
  const path = /^file:(.*)/.exec(lock?.packages?.[`node_modules/${OWN}`]?.resolved ?? '')?.[1];
  return path === undefined ? undefined : `file:${resolve(modules, '..', path)}`;
}
