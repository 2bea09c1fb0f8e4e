/**
 * @file `tfjs-flashmask doctor`: reports for each backend what is installed, which kernels would run, and how to fix
 * problems.
 */
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {CUDA_ADDON_PACKAGE} from '../backends/tensorflow/load.js';
import {VERSION} from '../call/version.js';
import {findPackageFolder} from '../node_webgpu/packages.js';
import {swiftShaderUnsupported} from '../node_webgpu/swiftshader.js';
import {type Machine, thisMachine} from './machine.js';
import {packageRoot} from './package_root.js';
import {PROBE_MARK, type ProbeResult} from './probe_result.js';
import {run} from './run.js';
import {
  CPU_PACKAGE,
  GPU_PACKAGE,
  TFJS_NODE_VERSION,
  type TfjsNode,
  PROBE_TIMEOUT_MS,
  findTfjsNode,
  reasonOf,
  tryTfjsNode,
} from './tfjs_node.js';

/**
 * `ok`: a small attention ran on it. `missing`: not installed, which is not an error. `not run`: installed, but Node
 * cannot run it. `broken`: installed, but does not work.
 */
export type Status = 'ok' | 'missing' | 'not run' | 'broken';

export interface BackendReport {
  name: string;
  status: Status;
  /** Versions of the packages and libraries that it consists of. */
  versions: Record<string, string>;
  /** The attention kernels that run on it; null if it does not work. */
  kernel: string | null;
  /** Other useful facts. */
  facts: string[];
  /** The problem: something wrong, missing or slower than it could be. */
  problem: string | null;
  /** Commands and steps that fix it. */
  fix: string[];
}

export interface DoctorReport {
  version: string;
  machine: Machine;
  backends: BackendReport[];
}

const SETUP = 'npx tfjs-flashmask setup-node';
const INSTALL_TFJS = 'npm install @tensorflow/tfjs';
const WEBGPU_PACKAGES = {
  '@tensorflow/tfjs-backend-webgpu': '@tensorflow/tfjs-backend-webgpu',
  webgpu: 'webgpu@0.6.2',
};

function versionOf(name: string): string | null {
  const folder = findPackageFolder(name);
  if (folder === null) {
    return null;
  }
  return (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {version: string}).version;
}

/** Versions of those packages that are installed. */
function versionsOf(names: string[]): Record<string, string> {
  const versions = names.map((name) => [name, versionOf(name)] as const);
  return Object.fromEntries(versions.filter((pair): pair is [string, string] => pair[1] !== null));
}

/** The outcome of a probe: its result or its error. */
type Probed = {result: ProbeResult; error: null} | {result: null; error: string};

async function probe(backend: string, ...args: string[]): Promise<Probed> {
  // In the repository this file is TypeScript, and the other process needs the loader that runs it.
  const file = new URL(`./probe${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);
  const env = {NODE_OPTIONS: '', TF_CPP_MIN_LOG_LEVEL: process.env.TF_CPP_MIN_LOG_LEVEL ?? '1'};
  const finished = await run(process.execPath, [...process.execArgv, fileURLToPath(file), backend, ...args], {
    env,
    timeoutMs: PROBE_TIMEOUT_MS,
  });
  const {code, stdout} = finished;
  const line = stdout.split('\n').find((line) => line.startsWith(PROBE_MARK));
  if (code === 0 && line !== undefined) {
    return {result: JSON.parse(line.slice(PROBE_MARK.length)) as ProbeResult, error: null};
  }
  return {result: null, error: reasonOf(finished, PROBE_TIMEOUT_MS)};
}

function report(name: string, status: Status, rest: Partial<BackendReport>): BackendReport {
  return {name, status, versions: {}, kernel: null, facts: [], problem: null, fix: [], ...rest};
}

function fromProbe(name: string, versions: Record<string, string>, probed: Probed, fix: string[]): BackendReport {
  return probed.result
    ? report(name, 'ok', {versions, kernel: probed.result.kernel, facts: probed.result.facts})
    : report(name, 'broken', {versions, problem: probed.error, fix});
}

/** A backend that any of the packages provides. */
async function checkSimple(name: 'cpu' | 'wasm', packages: string[], install: string): Promise<BackendReport> {
  const versions = versionsOf(['@tensorflow/tfjs-core', ...packages]);
  if (!packages.some((package_) => package_ in versions)) {
    return report(name, 'missing', {versions, problem: `${packages.join(' or ')} is not installed`, fix: [install]});
  }
  return fromProbe(name, versions, await probe(name), [`${install} (again)`]);
}

function checkWebGL(): BackendReport {
  const name = '@tensorflow/tfjs-backend-webgl';
  const versions = versionsOf([name]);
  const facts = ['in pages only: Node has no WebGL'];
  return name in versions
    ? report('webgl', 'not run', {versions, facts})
    : report('webgl', 'missing', {facts, problem: `${name} is not installed`, fix: [INSTALL_TFJS]});
}

/** The package that Dawn also needs on a machine without a GPU. */
const SOFTWARE = '@sparticuz/chromium';

async function checkWebGPU(): Promise<BackendReport> {
  const names = Object.keys(WEBGPU_PACKAGES);
  const versions = versionsOf(['@tensorflow/tfjs-core', ...names, SOFTWARE]);
  const missing = names.filter((name) => !(name in versions));
  const software = swiftShaderUnsupported() === null ? [`${SOFTWARE}@143.0.4`] : [];
  const install = `npm install ${[...Object.values(WEBGPU_PACKAGES), ...software].join(' ')}`;
  if (missing.length > 0) {
    return report('webgpu', 'missing', {versions, problem: `${missing.join(' and ')} not installed`, fix: [install]});
  }
  const probed = await probe('webgpu');
  // Without a GPU and without the software driver, no installed package is at fault.
  if (probed.error !== null && !(SOFTWARE in versions) && software.length > 0) {
    return report('webgpu', 'missing', {versions, problem: probed.error, fix: [install]});
  }
  return fromProbe('webgpu', versions, probed, [install]);
}

/**
 * Describes two copies of tfjs-core, which would not see each other's backends; null if this package and tfjs-node
 * share one.
 */
function otherCore({name, folder}: TfjsNode): string | null {
  try {
    const ours = createRequire(import.meta.url).resolve('@tensorflow/tfjs-core/package.json');
    const theirs = createRequire(join(folder, 'x.js')).resolve('@tensorflow/tfjs-core/package.json');
    return ours === theirs ? null : `${name} has a tfjs-core of its own: ${dirname(theirs)} beside ${dirname(ours)}`;
  } catch {
    return null;
  }
}

/** The command, for the user's current folder, that installs or builds an addon with the missing kernels. */
function provideAddon(withCuda: boolean): string {
  if (!fileURLToPath(packageRoot()).includes('node_modules')) return 'npm run build:native';
  return withCuda ? `npm install ${CUDA_ADDON_PACKAGE}@${VERSION}` : SETUP;
}

function missingTensorFlow(): BackendReport {
  return report('tensorflow', 'missing', {
    problem: `neither ${CPU_PACKAGE} nor ${GPU_PACKAGE} is installed`,
    fix: [`npm install --ignore-scripts ${CPU_PACKAGE}@${TFJS_NODE_VERSION}`, SETUP],
  });
}

/** The result of checking one tfjs-node. */
interface Checked {
  report: BackendReport;
  usesGpu: boolean;
}

async function checkTfjsNode(tfjsNode: TfjsNode): Promise<Checked> {
  const versions: Record<string, string> = {[tfjsNode.name]: tfjsNode.version};
  const gpuFlag = tfjsNode.name === GPU_PACKAGE ? ' --gpu' : '';
  const broken = (problem: string, fix: string): Checked => ({
    report: report('tensorflow', 'broken', {versions, problem, fix: [fix]}),
    usesGpu: false,
  });
  const trial = await tryTfjsNode(tfjsNode);
  if (!trial.works) {
    return broken(trial.reason, SETUP + gpuFlag);
  }
  const {tensorflow, library, usesGpu} = trial.loaded;
  versions.libtensorflow = tensorflow;
  const core = otherCore(tfjsNode);
  if (core !== null) {
    return broken(core, 'npm dedupe');
  }
  const {result, error} = await probe('tensorflow', tfjsNode.folder);
  if (result === null) {
    // tfjs-node by itself has just worked, so the fault is what this package adds to it.
    return broken(
      `tfjs-node works, but not with the native kernels of tfjs-flashmask: ${error}`,
      provideAddon(usesGpu),
    );
  }
  const facts = library === null ? [] : [library];
  if (result.addon) {
    versions['addon of tfjs-flashmask'] = result.addon.version;
    facts.push(result.addon.path);
  }
  const problem = result.notNative ? `the native kernels are not used: there is ${result.notNative}` : null;
  const fix = problem === null ? [] : [provideAddon(usesGpu)];
  return {report: report('tensorflow', 'ok', {versions, kernel: result.kernel, facts, problem, fix}), usesGpu};
}

/** The report for a GPU: the kernels that run there, or what is missing. */
function checkGpu(checked: Checked | null, {nvidia}: Machine): BackendReport {
  const name = 'tensorflow, GPU';
  if (checked?.report.status === 'ok' && checked.usesGpu) {
    return {...checked.report, name};
  }
  const withCuda = checked?.report.facts.some((fact) => fact.includes('-gpu-linux-')) ?? false;
  const gpuSetup = `${SETUP} --gpu${checked?.report.status === 'ok' ? ' --force' : ''}`;
  if (nvidia === null) {
    const problem = 'no NVIDIA GPU, or no driver for it, on this machine (nvidia-smi does not run)';
    const driver = "install NVIDIA's driver 525 or newer where there is a GPU";
    return report(name, 'missing', {problem, fix: withCuda ? [driver] : [driver, gpuSetup]});
  }
  if (checked === null || checked.report.status !== 'ok') {
    return report(name, checked?.report.status ?? 'missing', {
      problem: 'the backend tensorflow does not work',
      fix: [gpuSetup],
    });
  }
  return withCuda
    ? report(name, 'broken', {
        problem: `TensorFlow does not use ${nvidia.gpus[0].name} with driver ${nvidia.driver}; it says why at its start`,
        fix: ["update NVIDIA's driver (525 or newer)", `TF_CPP_MIN_LOG_LEVEL=0 node -e "require('${CPU_PACKAGE}')"`],
      })
    : report(name, 'missing', {problem: 'the TensorFlow that is loaded uses no GPU', fix: [gpuSetup]});
}

/** The backend 'tensorflow' of the project in the current folder, on the CPU and on a GPU. */
export async function checkTensorFlow(machine: Machine): Promise<BackendReport[]> {
  const [tfjsNode] = findTfjsNode(process.cwd(), machine.nvidia !== null);
  const checked = tfjsNode === undefined ? null : await checkTfjsNode(tfjsNode);
  const gpu = checkGpu(checked, machine);
  const cpu = checked?.report ?? missingTensorFlow();
  return checked?.usesGpu ? [gpu] : [cpu, gpu];
}

/** Checks the machine and every backend. Runs a small attention on each installed backend. */
export async function examine(): Promise<DoctorReport> {
  const {version} = JSON.parse(readFileSync(new URL('package.json', packageRoot()), 'utf8')) as {version: string};
  const machine = await thisMachine();
  const [tensorflow, ...others] = await Promise.all([
    checkTensorFlow(machine),
    checkSimple('cpu', ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-cpu'], INSTALL_TFJS),
    checkSimple('wasm', ['@tensorflow/tfjs-backend-wasm'], 'npm install @tensorflow/tfjs-backend-wasm'),
    checkWebGPU(),
  ] as const);
  return {version, machine, backends: [...others, checkWebGL(), ...tensorflow]};
}
