/**
 * @file `tfjs-flashmask doctor`: in this repository, in projects where something is missing or broken, and as users run
 * it.
 */
import {existsSync, mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {expect} from 'chai';
import {findTfjsNode, tryTfjsNode} from '../../src/cli/tfjs_node.js';
import {type BackendReport, type DoctorReport, checkTensorFlow} from '../../src/cli/doctor.js';
import {doctorText} from '../../src/cli/doctor_text.js';
import {thisMachine} from '../../src/cli/machine.js';
import {featureLine, kernelLines} from '../../src/cli/webgpu_kernels.js';
import type {DeviceCapabilities} from '../../src/backends/webgpu/plan/vector_plan.js';
import {tuningKey} from '../../src/backends/webgpu/plan/tuned_tiles.js';
import {devices} from '../support/devices.js';
import {
  FAKE_VERSION,
  FakeProject,
  inProject,
  programs,
  runCommand,
  wheelFolder,
  whyNotHere,
} from '../support/fake_tfjs_node.js';
import {type Finished, Project, root, temporaryFolder} from '../support/packed_project.js';

const here = whyNotHere();
const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
/** An environment without a GPU, even on a machine with one. */
const noGpu = () => ({PATH: `${programs({'nvidia-smi': 'exit 9'})}:${process.env.PATH!}`});

function parse({stdout}: Finished): {report: DoctorReport; backends: Record<string, BackendReport>} {
  const report = JSON.parse(stdout) as DoctorReport;
  return {report, backends: Object.fromEntries(report.backends.map((backend) => [backend.name, backend]))};
}

describe('doctor', () => {
  it('runs attention on every backend that is installed, and says by which kernels', async () => {
    const finished = await runCommand(root, ['doctor', '--json'], noGpu());
    const {report, backends} = parse(finished);
    expect(Object.keys(backends)).to.deep.equal(['cpu', 'wasm', 'webgpu', 'webgl', 'tensorflow', 'tensorflow, GPU']);
    expect(report.machine).to.deep.include({node: process.versions.node, nvidia: null});
    expect(backends.cpu).to.deep.include({status: 'ok', problem: null, fix: []});
    expect(backends.cpu.kernel).to.match(/^own, in TypeScript/);
    expect(backends.wasm.kernel).to.match(/^composed/);
    expect(backends.wasm.versions).to.have.keys('@tensorflow/tfjs-core', '@tensorflow/tfjs-backend-wasm');
    expect(backends.webgl).to.deep.include({
      ...{status: 'not run', kernel: null, facts: ['in pages only: Node has no WebGL']},
    });
    expect(backends['tensorflow, GPU'].status).to.equal('missing');
    const broken = report.backends.filter(({status}) => status === 'broken').map(({name}) => name);
    expect(finished.code).to.equal(broken.length ? 1 : 0);
    // Without pip or a compiler this repository's setup skips tfjs-node, and the doctor reports it as broken.
    expect(broken).to.deep.equal(backends.tensorflow.status === 'broken' ? ['tensorflow'] : []);
    if (process.platform === 'linux' && process.arch === 'x64') {
      expect(backends.webgpu.kernel).to.match(/^own, in WGSL: auto: \d+ x \d+ tiles/);
      const [adapter, features, ...kernels] = backends.webgpu.facts;
      expect(adapter).to.match(/^on .* \((software|GPU)/);
      expect(features).to.match(
        /^with createWebGPUBackend\(\): (no )?float16, (no )?subgroups, (no )?subgroup matrices/,
      );
      expect(kernels[0]).to.match(/auto: \d+ x \d+ tiles/);
      expect(kernels[1]).to.match(/float32: \d+ x \d+ tiles/);
      expect(kernels.some((line) => line.includes('float16: '))).to.equal(!features.includes('no float16'));
    }
    if (backends.tensorflow.status === 'ok') {
      expect(backends.tensorflow.versions).to.include.keys('@tensorflow/tfjs-node', 'libtensorflow');
      expect(backends.tensorflow.kernel).to.match(/^(own, in C\+\+|composed)/);
      expect(backends.tensorflow.problem === null).to.equal(/^own/.test(backends.tensorflow.kernel!));
    }
  });

  it('names the GPU and its driver, and that TensorFlow does not use it', async () => {
    const smi = 'echo "550.54, NVIDIA H100, 9.0, 81559 MiB"';
    const PATH = `${programs({'nvidia-smi': smi})}:${process.env.PATH!}`;
    const machine = await inProject(root, {PATH}, thisMachine);
    const gpu = {name: 'NVIDIA H100', computeCapability: '9.0', memory: '81559 MiB'};
    expect(machine.nvidia).to.deep.equal({driver: '550.54', gpus: [gpu]});
    const reports = await inProject(root, {PATH}, () => checkTensorFlow(machine));
    const {status, problem, fix} = reports.find(({name}) => name === 'tensorflow, GPU')!;
    if (reports[0].name === 'tensorflow' && reports[0].status === 'ok') {
      expect({status, problem, fix}).to.deep.equal({
        status: 'missing',
        problem: 'the TensorFlow that is loaded uses no GPU',
        fix: ['npx tfjs-flashmask setup-node --gpu --force'],
      });
    }
  });

  describe('tfjs-node that is broken', () => {
    /** The doctor's report on tfjs-node alone. */
    const reportOn = async ({folder, cache}: FakeProject): Promise<BackendReport> => {
      const env = {...noGpu(), XDG_CACHE_HOME: cache};
      const [report] = await inProject(folder, env, async () => checkTensorFlow(await thisMachine()));
      return report;
    };

    it('has no addon, which the exit code tells', async () => {
      const project = new FakeProject();
      const finished = await project.run(['doctor', '--json'], {env: noGpu()});
      const {status, problem, fix} = parse(finished).backends.tensorflow;
      expect({code: finished.code, status, problem, fix}).to.deep.equal({
        code: 1,
        status: 'broken',
        problem: `its addon is missing: ${project.binding}`,
        fix: ['npx tfjs-flashmask setup-node'],
      });
    });

    it('has an addon that does not load', async () => {
      const project = new FakeProject('tfjs-node-gpu');
      project.source('lib/napi-v8/tfjs_binding.node', 'no library');
      const {status, problem, fix} = await reportOn(project);
      expect({status, fix}).to.deep.equal({status: 'broken', fix: ['npx tfjs-flashmask setup-node --gpu']});
      expect(problem).to.match(/tfjs_binding\.node: .*(too short|invalid)/);
    });

    it('crashes', async () => {
      const project = new FakeProject();
      project.source('lib/napi-v8/tfjs_binding.node', '');
      project.source('index.js', "process.kill(process.pid, 'SIGSEGV'); setTimeout(() => 0, 1e4);");
      expect((await reportOn(project)).problem).to.match(/^the process ended by SIGSEGV/);
    });

    it('hangs, or ends without a word', async () => {
      const project = new FakeProject();
      project.source('lib/napi-v8/tfjs_binding.node', '');
      const [tfjsNode] = findTfjsNode(project.folder, false);
      const reasonWith = async (source: string, limitMs?: number): Promise<string> => {
        project.source('index.js', source);
        const trial = await tryTfjsNode(tfjsNode, limitMs);
        return trial.works ? 'works' : trial.reason;
      };
      expect(await reasonWith('for (;;);', 1500)).to.equal('the process did not end within 1.5 seconds');
      expect(await reasonWith('process.exit(3);')).to.equal('the process ended with exit code 3, and said nothing');
    });

    it('has lost its TensorFlow in the cache; or has a tfjs-core of its own', async function () {
      if (here) {
        this.test!.title += ` (${here})`;
        this.skip();
      }
      const project = new FakeProject();
      await project.run(['setup-node', '--tensorflow', FAKE_VERSION], {wheels: wheelFolder()});
      const core = join(project.tfjsNode, 'node_modules', '@tensorflow', 'tfjs-core');
      mkdirSync(core, {recursive: true});
      writeFileSync(join(core, 'package.json'), '{"name": "@tensorflow/tfjs-core", "version": "4.21.0"}');
      const twice = await reportOn(project);
      expect(twice.versions).to.deep.equal({'@tensorflow/tfjs-node': '4.22.0', libtensorflow: FAKE_VERSION});
      expect(twice.problem).to.include('@tensorflow/tfjs-node has a tfjs-core of its own');
      expect(twice.fix).to.deep.equal(['npm dedupe']);
      rmSync(project.cache, {recursive: true});
      const lost = await reportOn(project);
      expect(lost.problem).to.include('libtensorflow_cc.so.2: cannot open shared object file');
      expect(lost.fix).to.deep.equal(['npx tfjs-flashmask setup-node']);
    });
  });

  it('says that it is the addon of this package that is cut off, where tfjs-node works', async function () {
    const addon = join(root, 'build', 'Release', 'tfjs_flashmask.node');
    const why = tensorflow.skip ?? (existsSync(addon) ? undefined : 'the addon is not built');
    if (why !== undefined) {
      this.test!.title += ` (${why})`;
      this.skip();
    }
    const cut = join(temporaryFolder(), 'tfjs_flashmask.node');
    writeFileSync(cut, readFileSync(addon).subarray(0, 100_000));
    const env = {...noGpu(), FLASHMASK_ADDON: cut};
    const [report] = await inProject(root, env, async () => checkTensorFlow(await thisMachine()));
    // Loading it may end the process.
    expect(report.problem).to.match(
      /native kernels (are not used: there is an addon that does not load|of tfjs-flashmask)/,
    );
    expect(report.fix).to.deep.equal(['npm run build:native']);
  });

  describe('of the packed package', () => {
    const MAIN = join('node_modules', 'tfjs-flashmask', 'dist', 'cli', 'main.js');

    it('tells how to install what is missing, which is no failure', async () => {
      const project = new Project({without: ['@tensorflow', '@sparticuz', 'webgpu']});
      const {code, stdout, stderr} = await project.start([MAIN, 'doctor'], noGpu());
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/^tfjs-flashmask \d+\.\d+\.\d+\n {2}Node \d+/);
      expect(stdout.match(/^➖ \S.* missing$/gm)).to.have.length(6);
      expect(stdout)
        .to.include('npm install @tensorflow/tfjs\n')
        .and.include('npm install @tensorflow/tfjs-backend-webgpu webgpu@0.6.2')
        .and.include('npm install --ignore-scripts @tensorflow/tfjs-node@4.22.0')
        .and.include('npx tfjs-flashmask setup-node');
    });

    it('runs in a project with everything', async () => {
      const project = new Project();
      const {backends} = parse(await project.start([MAIN, 'doctor', '--json'], noGpu()));
      expect(backends.cpu.status).to.equal('ok');
      expect(backends.wasm.status).to.equal('ok');
    });

    it('has its version and its help', async () => {
      const folder = temporaryFolder();
      const version = await runCommand(folder, ['--version']);
      expect(version.stdout).to.match(/^\d+\.\d+\.\d+\n$/);
      const help = await runCommand(folder, ['setup-node', '--help']);
      expect(help.stdout).to.include('--gpu').and.include('--tensorflow <version>').and.include('--force');
    });
  });

  describe('of the WebGPU kernels', () => {
    const traits = (bytes: number, float16: boolean): DeviceCapabilities => ({
      limits: {maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: 256},
      float16,
      matrix: null,
    });

    it('says what the plan says of a device', () => {
      expect(kernelLines(traits(16384, false))).to.deep.equal(['auto: 32 x 32 tiles', 'float32: 32 x 32 tiles']);
      expect(kernelLines(traits(49152, true))).to.deep.equal([
        'auto: 64 x 32 tiles',
        'float32: 64 x 32 tiles',
        'float16: 64 x 32 tiles',
      ]);
      const matrix = {M: 16, N: 16, K: 16, lanes: 32};
      const onMatrices = {
        ...traits(49152, true),
        limits: {maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024},
        matrix,
      };
      expect(kernelLines(onMatrices)[0]).to.equal('auto: 64 x 32 tiles');
      expect(kernelLines(onMatrices)[2]).to.equal(
        'float16: 128 x 16 tiles on subgroup matrices forward, 64 x 16 tiles on subgroup matrices dq, ' +
          '64 x 16 tiles on subgroup matrices dkdv at D 64; 128 x 32 tiles on subgroup matrices forward, ' +
          '64 x 16 tiles on subgroup matrices dq, 64 x 32 tiles on subgroup matrices dkdv at D 128',
      );
    });

    it('tells passes and head sizes apart where they differ', () => {
      const variant = {causal: true, intervals: true, dropout: false, halvesPerNumber: 0 as const, fewQueries: false};
      const key = tuningKey('dq', {...variant, D: 128, Dv: 128});
      const tuned = new Map([[key, {rows: 64, cols: 64, threadsX: 8, threadsY: 8}]]);
      expect(kernelLines({...traits(49152, false), tuned})).to.deep.equal([
        'auto: 64 x 32 tiles at D 64; 64 x 32 tiles forward, 64 x 64 tiles dq, 64 x 32 tiles dkdv at D 128',
        'float32: 64 x 32 tiles',
      ]);
    });

    it('names the features that faster kernels need', () => {
      const matrix = {M: 16, N: 16, K: 16, lanes: 32};
      const matrices = 'chromium-experimental-subgroup-matrix';
      expect(featureLine(traits(16384, false), new Set())).to.equal('no float16, no subgroups, no subgroup matrices');
      expect(featureLine(traits(16384, true), new Set(['subgroups', matrices]))).to.equal(
        'float16, subgroups, subgroup matrices that do not pass their trial',
      );
      expect(featureLine({...traits(16384, true), matrix}, new Set(['subgroups', matrices]))).to.equal(
        'float16, subgroups, subgroup matrices of 16 x 16 x 16',
      );
    });
  });

  it('puts a long problem and several steps into columns', () => {
    const backend = {name: 'tensorflow', versions: {}, facts: [], kernel: null};
    const text = doctorText({
      version: '1.2.3',
      machine: {
        platform: {os: 'linux', arch: 'x64', glibc: '2.36'},
        processor: {model: 'A processor', instructions: ['AVX2']},
        node: '22.0.0',
        nvidia: {driver: '550.1', gpus: [{name: 'NVIDIA A100', computeCapability: '8.0', memory: '40 GB'}]},
        cudaToolkit: null,
      },
      backends: [{...backend, status: 'broken', problem: 'first line\n    second line', fix: ['one', 'two']}],
    });
    expect(text).to.equal(`tfjs-flashmask 1.2.3
  Node 22.0.0, linux-x64 with glibc 2.36
  A processor (AVX2)
  NVIDIA A100 (sm_80); NVIDIA driver 550.1
  no CUDA toolkit (nvcc)

❌ tensorflow       broken
                    problem  first line
                             second line
                    fix      one
                             two`);
  });
});
