/**
 * @file `tfjs-flashmask setup-node`: makes tfjs-node work, if it does not, with TensorFlow from the Python package
 * index.
 */
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {CUDA_ADDON_PACKAGE, findAddon} from '../backends/tensorflow/load.js';
import {VERSION} from '../call/version.js';
import {buildBinding, findCompiler} from './binding.js';
import {packageRoot} from './package_root.js';
import {findPip} from './pip.js';
import {run} from './run.js';
import {type Platform, thisPlatform, unsupported} from './platform.js';
import {type Console, terminal} from './progress.js';
import {TENSORFLOW_VERSION} from './pinned_wheels.js';
import {isComplete, provideTensorFlow, tensorFlowFolder} from './tensorflow.js';
import {type LoadedTfjsNode, type TfjsNode, requireTfjsNode, tryTfjsNode} from './tfjs_node.js';
import {UserError, tail} from './user_error.js';

export interface SetupNodeOptions {
  /** TensorFlow with CUDA. */
  gpu?: boolean;
  /** Version of TensorFlow. Default {@link TENSORFLOW_VERSION}. */
  tensorflow?: string;
  /** Set up again even if tfjs-node works. */
  force?: boolean;
}

/** @example '@tensorflow/tfjs-node 4.22.0 with TensorFlow 2.21.0 on the CPU' */
function describeLoaded({name, version}: TfjsNode, {tensorflow, usesGpu}: LoadedTfjsNode): string {
  return `${name} ${version} with TensorFlow ${tensorflow} on the ${usesGpu ? 'GPU' : 'CPU'}`;
}

function sayItWorks(tfjsNode: TfjsNode, loaded: LoadedTfjsNode, options: SetupNodeOptions, output: Console): void {
  output.say(`${describeLoaded(tfjsNode, loaded)} works already; nothing was changed.`);
  const other = options.tensorflow !== undefined && options.tensorflow !== loaded.tensorflow;
  if (other || (options.gpu && !loaded.usesGpu)) {
    const wish = options.gpu ? 'TensorFlow with CUDA' : `TensorFlow ${options.tensorflow ?? ''}`;
    output.say(`To replace its TensorFlow by ${wish}, add --force.`);
  }
}

function checkOptions({tensorflow = TENSORFLOW_VERSION, gpu = false}: SetupNodeOptions, platform: Platform): void {
  if (!/^2\.\d+\.\d+\w*$/.test(tensorflow)) {
    throw new UserError(
      `setup-node: --tensorflow must be a version of TensorFlow 2, such as ${TENSORFLOW_VERSION}, got '${tensorflow}'.`,
    );
  }
  const reason = unsupported(platform, gpu);
  if (reason !== null) {
    throw new UserError(`setup-node: ${reason}`);
  }
}

const BUILD = 'scripts/build_native.mjs';

/**
 * Compiles this package's addon if no package provides one. Without it tfjs-node still works, only slower, so a failure
 * here is no error.
 */
async function provideAddon(gpu: boolean, output: Console): Promise<void> {
  const root = fileURLToPath(packageRoot());
  if (!root.includes('node_modules')) return; // The repository has `npm run build:native`.
  const found = findAddon();
  if (found.addon !== null) {
    if (gpu && !found.addon.info().cuda.built)
      output.say(`For the CUDA kernels: npm install ${CUDA_ADDON_PACKAGE}@${VERSION}`);
    return;
  }
  output.say(`Building the native kernels of tfjs-flashmask: there is ${found.reason} ...`);
  const {code, stderr} = await run(process.execPath, [join(root, BUILD), ...(gpu ? [] : ['--no-cuda'])]);
  output.say(code === 0 ? stderr.trim().split('\n').at(-1)! : `Without the native kernels:${tail(stderr)}`);
}

/**
 * Makes the tfjs-node of a project work. If it already works, prints so and changes nothing.
 *
 * @throws UserError, with the remedy.
 */
export async function setupNode(project: string, options: SetupNodeOptions, output: Console = terminal): Promise<void> {
  const platform = thisPlatform();
  const {gpu = false, tensorflow: version = TENSORFLOW_VERSION} = options;
  const tfjsNode = requireTfjsNode(project, gpu);
  const before = await tryTfjsNode(tfjsNode);
  if (before.works && !options.force) {
    sayItWorks(tfjsNode, before.loaded, options, output);
    await provideAddon(gpu, output);
    return;
  }
  checkOptions(options, platform);
  const compiler = await findCompiler();
  const choice = {version, gpu, platform};
  if (!isComplete(tensorFlowFolder(choice))) {
    await findPip(); // Checked before printing that work begins.
  }
  const tensorflow = await provideTensorFlow(choice, output);
  output.say(`Building the addon of ${tfjsNode.name} ${tfjsNode.version} with ${compiler.version} ...`);
  const after = await buildBinding(compiler, tfjsNode, tensorflow);
  if (after.works) {
    output.say(`${describeLoaded(tfjsNode, after.loaded)} works: a matMul gave the right numbers.`);
    if (gpu && !after.loaded.usesGpu) {
      output.say(
        'No NVIDIA GPU was found on this machine, or its driver is too old; "npx tfjs-flashmask doctor" tells.',
      );
    }
  }
  output.say(`TensorFlow is in ${tensorflow.folder}, the addon in ${tfjsNode.binding}.`);
  await provideAddon(gpu, output);
}
