/**
 * @file Small, quickly made stand-ins for the parts that `setup-node` puts together: TensorFlow wheels with libraries
 * of a few kilobytes, and a tfjs-node with a few lines of C++. pip, the compiler and Node are the real ones.
 */
import {spawn, spawnSync} from 'node:child_process';
import {chmodSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {expect} from 'chai';
import {type Zippable, strToU8, zipSync} from 'fflate';
import {run} from '../../src/cli/command_line.js';
import {plainConsole} from '../../src/cli/progress.js';
import {processTraces, within} from './in_process.js';
import {type Finished, root, temporaryFolder} from './packed_project.js';

export const FAKE_VERSION = '2.99.0';
export const MACHINE = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
/** There is only one wheel for arm64. */
export const CPU_WHEEL = process.arch === 'arm64' ? 'tensorflow' : 'tensorflow_cpu';

const CLI = join(root, 'src', 'cli', 'main.ts');
const TSX = pathToFileURL(join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')).href;

/** The reason why the whole installation cannot run here, or undefined. */
export function whyNotHere(): string | undefined {
  const runs = (command: string, ...args: string[]) => spawnSync(command, args).status === 0;
  if (process.platform !== 'linux') return 'setup-node is for Linux';
  if (!runs('python3', '-m', 'pip', '--version')) return 'no pip';
  return runs('g++', '--version') ? undefined : 'no g++';
}

function write(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), {recursive: true});
  writeFileSync(path, content);
}

/** A folder of programs that is put first on PATH, or alone. */
export function programs(scripts: Record<string, string>): string {
  const folder = temporaryFolder();
  for (const [name, script] of Object.entries(scripts)) {
    write(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  return folder;
}

const INDEX = `
const binding = require('./lib/napi-v8/tfjs_binding.node');
const {usesGpu = false} = binding;
exports.version = {'tfjs-node': '4.22.0'};
exports.tensor2d = (rows) => rows;
exports.matMul = (a, b) => ({dataSync: () => a.flatMap((row) => b[0].map((_, j) => row[0] * b[0][j] + row[1] * b[1][j]))});
exports.backend = () => ({binding, isUsingGpuDevice: usesGpu});
`;

const BACKEND = `
#include "tensorflow/c/c_api.h"
const char* Version() { return TF_Version(); }
`;

/** Has what native/tfjs_node/functions.cc uses of tfjs-node's binding. */
const BINDING = `
#include <node_api.h>
#include <cstdint>
#include <unordered_map>
#include "tensorflow/c/eager/c_api.h"
const char* Version();
namespace tfnodejs {
class TFJSBackend {
  TFE_Context* tfe_context_ = nullptr;
  std::unordered_map<int32_t, TFE_TensorHandle*> tfe_handle_map_;
  int32_t InsertHandle(TFE_TensorHandle*) { return 0; }
};
static TFJSBackend* GetTFJSBackend(napi_env) { return nullptr; }
static napi_value ExecuteOp(napi_env, napi_callback_info) { return nullptr; }
static napi_value TensorDataSync(napi_env, napi_callback_info) { return nullptr; }
static napi_value RunSavedModel(napi_env, napi_callback_info) { return nullptr; }
static napi_value InitTFNodeJSBinding(napi_env env, napi_value exports) {
  napi_value version;
  napi_create_string_utf8(env, Version(), NAPI_AUTO_LENGTH, &version);
  napi_set_named_property(env, exports, "TF_Version", version);
  return exports;
}
NAPI_MODULE(tfe_binding, InitTFNodeJSBinding)
}
`;

/** A project with the small tfjs-node. */
export class FakeProject {
  readonly folder = temporaryFolder();
  readonly cache = temporaryFolder();
  readonly tfjsNode: string;
  readonly binding: string;

  constructor(name = 'tfjs-node') {
    this.tfjsNode = join(this.folder, 'node_modules', '@tensorflow', name);
    this.binding = join(this.tfjsNode, 'lib', 'napi-v8', 'tfjs_binding.node');
    const binary = {
      module_name: 'tfjs_binding',
      module_path: './lib/napi-v{napi_build_version}',
      napi_versions: [7, 8],
    };
    this.source(
      'package.json',
      JSON.stringify({name: `@tensorflow/${name}`, version: '4.22.0', main: 'index.js', binary}),
    );
    this.source('index.js', INDEX);
    this.source('binding/tfjs_backend.cc', BACKEND);
    this.source('binding/tfjs_binding.cc', BINDING);
  }

  /** Replaces a file of tfjs-node. */
  source(name: string, content: string): void {
    write(join(this.tfjsNode, name), content);
  }

  /** Runs a command in the project, in this process. */
  run(args: string[], options: ProjectOptions = {}): Promise<Finished> {
    return runCommand(this.folder, args, this.environment(options));
  }

  /** Runs a command in the project, in its own process. */
  start(args: string[], options: ProjectOptions = {}): RunningCommand {
    return startCommand(this.folder, args, this.environment(options));
  }

  private environment({wheels = '', env = {}}: ProjectOptions): NodeJS.ProcessEnv {
    const pip = {PIP_NO_INDEX: '1', PIP_FIND_LINKS: wheels, PIP_CONFIG_FILE: '/dev/null', PIP_NO_CACHE_DIR: '1'};
    return {...pip, XDG_CACHE_HOME: this.cache, CXX: '', ...env};
  }
}

interface ProjectOptions {
  /** The only folder that pip takes wheels from. */
  wheels?: string;
  env?: NodeJS.ProcessEnv;
}

/** Runs `tfjs-flashmask` in this process, in a folder. Fails if it leaves a listener behind. */
export async function runCommand(cwd: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
  const written = {stdout: '', stderr: ''};
  const console = plainConsole((line) => void (written.stderr += `${line}\n`));
  const print = (line: string): void => void (written.stdout += `${line}\n`);
  return inProject(cwd, env, async () => {
    const before = processTraces();
    const code = await run(args, {print, console});
    expect(processTraces(), `left behind by ${args.join(' ')}`).to.deep.equal(before);
    return {code, signal: null, ...written};
  });
}

/** Runs a part of a command's work in this process, in a folder. */
export async function inProject<T>(cwd: string, env: NodeJS.ProcessEnv, work: () => Promise<T>): Promise<T> {
  const {execArgv} = process;
  // The doctor starts its probes with these options. Mocha's name for the loader works only in the repository.
  process.execArgv = ['--import', TSX];
  try {
    return await within({cwd, env: {NODE_OPTIONS: '', ...env}}, work);
  } finally {
    process.execArgv = execArgv;
  }
}

export type RunningCommand = Promise<Finished> & {kill: (signal: NodeJS.Signals) => void};

/** Runs `tfjs-flashmask` from the sources, in a folder. */
function startCommand(cwd: string, args: string[], env: NodeJS.ProcessEnv = {}): RunningCommand {
  const child = spawn(process.execPath, ['--import', TSX, CLI, ...args], {
    cwd,
    env: {...process.env, NODE_OPTIONS: '', ...env},
  });
  const finished: Finished = {code: null, signal: null, stdout: '', stderr: ''};
  child.stdout.on('data', (data: Buffer) => (finished.stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => (finished.stderr += data.toString()));
  const promise = new Promise<Finished>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      resolve({...finished, code, signal});
    });
  });
  return Object.assign(promise, {kill: (signal: NodeJS.Signals) => child.kill(signal)});
}

/** Writes a wheel with these files and returns its path. `tag` is like `cp312-cp312-manylinux_2_17_x86_64`. */
export function writeWheel(
  folder: string,
  name: string,
  version: string,
  tag: string,
  files: Zippable,
  requires = '',
): string {
  const info = `${name}-${version}.dist-info`;
  const metadata = `Metadata-Version: 2.1\nName: ${name.replaceAll('_', '-')}\nVersion: ${version}\n${requires}`;
  const wheel = `Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: ${tag}\n`;
  const path = join(folder, `${name}-${version}-${tag}.whl`);
  write(
    path,
    zipSync({
      ...files,
      [`${info}/METADATA`]: strToU8(metadata),
      [`${info}/WHEEL`]: strToU8(wheel),
      [`${info}/RECORD`]: strToU8(''),
    }),
  );
  return path;
}

/** A shared library compiled from one line of C. */
function library(name: string, code: string): Uint8Array {
  const folder = temporaryFolder();
  const [source, out] = [join(folder, 'source.c'), join(folder, name)];
  writeFileSync(source, code);
  const {status, stderr} = spawnSync('g++', ['-x', 'c', '-shared', '-fPIC', `-Wl,-soname,${name}`, source, '-o', out]);
  if (status !== 0) {
    throw new Error(stderr.toString());
  }
  return readFileSync(out);
}

/** Declares what native/tfjs_node/functions.cc calls; nobody calls it here. */
const C_API = `
#pragma once
#include <stddef.h>
extern "C" {
const char* TF_Version(void);
enum TF_Code { TF_OK = 0, TF_INVALID_ARGUMENT = 3 };
struct TF_Status;
struct TF_Graph;
struct TF_Function;
struct TF_FunctionOptions;
struct TF_Operation;
struct TF_ImportGraphDefOptions;
struct TF_Buffer { const void* data; size_t length; };
struct TF_Output { TF_Operation* oper; int index; };
TF_Status* TF_NewStatus();
void TF_SetStatus(TF_Status*, TF_Code, const char*);
void TF_DeleteStatus(TF_Status*);
TF_Code TF_GetCode(const TF_Status*);
const char* TF_Message(const TF_Status*);
TF_Graph* TF_NewGraph();
void TF_DeleteGraph(TF_Graph*);
TF_Operation* TF_GraphOperationByName(TF_Graph*, const char*);
TF_Buffer* TF_NewBuffer();
TF_Buffer* TF_NewBufferFromString(const void*, size_t);
void TF_DeleteBuffer(TF_Buffer*);
TF_ImportGraphDefOptions* TF_NewImportGraphDefOptions();
void TF_DeleteImportGraphDefOptions(TF_ImportGraphDefOptions*);
void TF_GraphImportGraphDef(TF_Graph*, const TF_Buffer*, const TF_ImportGraphDefOptions*, TF_Status*);
void TF_GraphGetOpDef(TF_Graph*, const char*, TF_Buffer*, TF_Status*);
TF_Function* TF_GraphToFunction(const TF_Graph*, const char*, unsigned char, int, const TF_Operation* const*, int,
                                const TF_Output*, int, const TF_Output*, const char* const*, const TF_FunctionOptions*,
                                const char*, TF_Status*);
void TF_FunctionSetAttrValueProto(TF_Function*, const char*, const void*, size_t, TF_Status*);
void TF_DeleteFunction(TF_Function*);
}
`;

const EAGER_C_API = `
#pragma once
#include "tensorflow/c/c_api.h"
extern "C" {
struct TFE_Context;
struct TFE_Op;
struct TFE_TensorHandle;
void TFE_ContextAddFunction(TFE_Context*, TF_Function*, TF_Status*);
void TFE_ContextRemoveFunction(TFE_Context*, const char*, TF_Status*);
TFE_Op* TFE_NewOp(TFE_Context*, const char*, TF_Status*);
void TFE_DeleteOp(TFE_Op*);
void TFE_OpAddInput(TFE_Op*, TFE_TensorHandle*, TF_Status*);
void TFE_Execute(TFE_Op*, TFE_TensorHandle**, int*, TF_Status*);
}
`;

const EXPERIMENTAL_C_API = `
#pragma once
#include "tensorflow/c/eager/c_api.h"
extern "C" {
struct TFE_Executor;
TFE_Executor* TFE_NewExecutor(bool, bool, int);
void TFE_DeleteExecutor(TFE_Executor*);
void TFE_ExecutorWaitForAllPendingNodes(TFE_Executor*, TF_Status*);
void TFE_ExecutorClearError(TFE_Executor*);
void TFE_ContextSetExecutorForThread(TFE_Context*, TFE_Executor*);
TFE_Executor* TFE_ContextGetExecutorForThread(TFE_Context*);
}
`;

let libraries: Zippable | undefined;

/** The files of a TensorFlow wheel that setup-node uses, and one that it does not use. */
export function tensorFlowFiles(): Zippable {
  libraries ??= {
    'tensorflow/libtensorflow_cc.so.2': library(
      'libtensorflow_cc.so.2',
      `const char* TF_Version(void) { return "${FAKE_VERSION}"; }`,
    ),
    'tensorflow/libtensorflow_framework.so.2': library('libtensorflow_framework.so.2', 'int framework;'),
    'tensorflow/include/tensorflow/c/c_api.h': strToU8(C_API),
    'tensorflow/include/tensorflow/c/eager/c_api.h': strToU8(EAGER_C_API),
    'tensorflow/include/tensorflow/c/eager/c_api_experimental.h': strToU8(EXPERIMENTAL_C_API),
    'tensorflow/python/large.py': strToU8('not used'),
  };
  return libraries;
}

/** A folder with the wheel of the small TensorFlow. */
export function wheelFolder({name = CPU_WHEEL, python = 'cp312', requires = '', version = FAKE_VERSION} = {}): string {
  const folder = temporaryFolder();
  writeWheel(folder, name, version, `${python}-${python}-manylinux_2_17_${MACHINE}`, tensorFlowFiles(), requires);
  return folder;
}
