/**
 * @file The files that a fine-tuning run writes: checkpoints through kills, full disks and damage, adapters and model
 * folders, metrics, progress, charts. `FLASHMASK_PYTHON` names a Python with peft, which judges the files; without it
 * those tests are skipped with the reason.
 */
import {spawn, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  rmdirSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import {mkdir} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {basename, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import {parseHTML} from 'linkedom';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {type Io, processIo} from '../../examples/finetune/io.js';
import {type LlamaConfig, parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import {normal, uniform} from '../../examples/finetune/random.js';
import {
  type AdapterContent,
  adapterShapes,
  readAdapter,
  writeAdapter,
} from '../../examples/finetune/train/adapter_files.js';
import {printCharts, saveCharts} from '../../examples/finetune/train/charts.js';
import {
  type CheckpointParts,
  latestCheckpoint,
  loadCheckpoint,
  saveCheckpoint,
} from '../../examples/finetune/train/checkpoint.js';
import type {TrainerState} from '../../examples/finetune/train/checkpoint_state.js';
import {type Fingerprint, fingerprint} from '../../examples/finetune/train/fingerprint.js';
import {type MetricsRecord, MetricsLog} from '../../examples/finetune/train/metrics.js';
import {rewardModelConfig, writeModelFolder} from '../../examples/finetune/train/model_folder.js';
import {PrecomputedReference} from '../../examples/finetune/train/reference.js';
import {formatSeconds, trainingBar} from '../../examples/finetune/train/progress.js';
import {openSafetensors, shapesOf, writeSafetensors} from '../../examples/finetune/weights/safetensors.js';
import {skip} from '../support/skip.js';

const repository = fileURLToPath(new URL('../..', import.meta.url));

const CONFIG_JSON = {
  ...{
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    torch_dtype: 'bfloat16',
    eos_token_id: 2,
    pad_token_id: 2,
  },
  ...{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, vocab_size: 40, head_dim: 6},
  ...{num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: true},
};
const CONFIG = parseConfig(CONFIG_JSON, 'the test');

const fingerprintOf = (digit: string): Fingerprint => {
  const sha256 = digit.repeat(64);
  return {configuration: sha256, weights: sha256, tokenizer: sha256, 'chat template': sha256};
};

const STATE: TrainerState = {
  run: '0123456789abcdef'.repeat(2),
  settings: {rank: 8, learningRate: 2e-4, targets: ['q_proj', 'v_proj'], seed: 1},
  baseModel: {origin: 'smollm2', fingerprint: fingerprintOf('a')},
  reference: null,
  position: {epoch: 1, row: 17},
  logHistory: [
    {global_step: 1, loss: 2.5},
    {global_step: 2, loss: 1 / 3},
  ],
};

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'flashmask-checkpoint-'))));
afterEach(() => rmSync(folder, {recursive: true, force: true}));

/** Random numbers of the given shapes. */
function randomTensors(shapes: Iterable<readonly [string, number[]]>, seed = 1): Map<string, HostTensor> {
  const next = normal(seed);
  return new Map(
    Array.from(shapes, ([name, shape]) => {
      const size = shape.reduce((product, length) => product * length, 1);
      return [name, {shape, data: Float32Array.from({length: size}, next)}];
    }),
  );
}

/** The state after some steps. */
const stateOf = (step: number): TrainerState => ({
  ...STATE,
  logHistory: Array.from({length: step}, (_, i) => STATE.logHistory[i] ?? {global_step: i + 1, loss: i}),
});

/** A small checkpoint; each seed gives other tensors. */
function parts(seed = 1, step = 2, run = STATE.run): CheckpointParts {
  const model = randomTensors([['weight', [5, 3]]], seed);
  const optimizer = randomTensors(
    [
      ['exp_avg.weight', [5, 3]],
      ['exp_avg_sq.weight', [5, 3]],
    ],
    seed + 100,
  );
  return {
    state: {...stateOf(step), run},
    writeModel: async (into) => {
      writeFileSync(join(into, 'adapter_config.json'), '{}');
      await writeSafetensors(join(into, 'adapter_model.safetensors'), shapesOf(model), model);
    },
    optimizer: {shapes: shapesOf(optimizer), tensors: optimizer},
  };
}

async function fails(promise: Promise<unknown>, ...texts: string[]): Promise<Error> {
  const error = await promise.then(
    () => null,
    (error: unknown) => error as Error,
  );
  expect(error, `should fail with ${texts.join()}`).to.be.an.instanceOf(Error);
  texts.forEach((text) => expect(error!.message).to.include(text));
  return error!;
}

async function readAll(tensors: AsyncIterable<[string, HostTensor]>): Promise<Map<string, HostTensor>> {
  const all = new Map<string, HostTensor>();
  for await (const [name, tensor] of tensors) {
    all.set(name, tensor);
  }
  return all;
}

describe('fine-tuning: checkpoints', () => {
  const save = (step: number, seed = step, saveLimit?: number): Promise<string> =>
    saveCheckpoint(folder, step, parts(seed, step), saveLimit, (text) => said.push(text));
  const path = (step: number): string => join(folder, `checkpoint-${step}`);
  let said: string[];
  beforeEach(() => (said = []));

  /** The latest checkpoint's step, and the messages printed while looking for it. */
  async function latest(): Promise<{step: number | null; said: string[]}> {
    const said: string[] = [];
    const found = await latestCheckpoint(folder, (text) => said.push(text));
    return {step: found === null ? null : (await loadCheckpoint(found)).step, said};
  }

  it('gives back what was saved', async () => {
    expect(await save(2)).to.equal(path(2));
    expect(await latest()).to.deep.equal({step: 2, said: []});
    const checkpoint = await loadCheckpoint(path(2), STATE);
    expect(checkpoint.state).to.deep.equal(STATE);
    expect(await readAll(checkpoint.optimizer)).to.deep.equal(parts(2).optimizer.tensors);
    const model = await openSafetensors(join(checkpoint.folder, 'adapter_model.safetensors'));
    expect([...model.entries.keys()]).to.deep.equal(['weight']);
    await model.close();
    expect(readdirSync(folder)).to.deep.equal(['checkpoint-2']);
  });

  it('finds none in a folder without any, and in no folder', async () => {
    expect(await latest()).to.deep.equal({step: null, said: []});
    expect(await latestCheckpoint(join(folder, 'nowhere'))).to.equal(null);
  });

  it('keeps the latest few, by number', async () => {
    for (const step of [8, 9, 10, 11]) {
      await save(step, step, 2);
    }
    expect(readdirSync(folder).sort()).to.deep.equal(['checkpoint-10', 'checkpoint-11']);
  });

  it('keeps those of a later step when a run goes on from before them, and does not count them', async () => {
    for (const step of [1, 2, 20]) {
      await save(step);
    }
    await save(3, 3, 2);
    expect(readdirSync(folder).sort()).to.deep.equal(['checkpoint-2', 'checkpoint-20', 'checkpoint-3']);
  });

  it('replaces one of the same step', async () => {
    await save(2, 2);
    await save(2, 7);
    const {optimizer} = await loadCheckpoint(path(2));
    expect(await readAll(optimizer)).to.deep.equal(parts(7).optimizer.tensors);
    expect(readdirSync(folder)).to.deep.equal(['checkpoint-2']);
  });

  const flipByte = (file: string): void => {
    const bytes = readFileSync(file);
    bytes[bytes.length - 2] ^= 4;
    writeFileSync(file, bytes);
  };
  const rewriteState = (change: (state: Record<string, unknown>) => void) => (file: string) => {
    const state = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    change(state);
    writeFileSync(file, JSON.stringify(state));
  };
  const damages: [string, string, (file: string) => void, string][] = [
    [
      'a changed bit in the model',
      'adapter_model.safetensors',
      flipByte,
      'adapter_model.safetensors is not as it was written',
    ],
    ['a truncated optimizer', 'optimizer.safetensors', (file) => truncateSync(file, 100), 'not as it was written'],
    ['a missing model', 'adapter_model.safetensors', unlinkSync, 'no such file'],
    ['a missing state', 'trainer_state.json', unlinkSync, 'no such file'],
    ['a truncated state', 'trainer_state.json', (file) => truncateSync(file, 90), 'is not JSON'],
    [
      'a state of another format',
      'trainer_state.json',
      (file) => writeFileSync(file, '{"epoch": 1}'),
      'should be of the format',
    ],
    [
      'a state of a later version',
      'trainer_state.json',
      rewriteState((state) => (state.format_version = 3)),
      "checkpoint' 3",
    ],
    [
      'a state that was edited',
      'trainer_state.json',
      rewriteState((state) => (state.data_position = {epoch: 0, row: 1})),
      'is not as it was written',
    ],
    ...(
      [
        ['a place in the data before its start', 'data_position', {epoch: 0, row: -1}],
        ['a log with another number of steps', 'log_history', []],
        ['a file elsewhere', 'files', {'../../dev/zero': 'a'.repeat(64)}],
        ['settings that are none', 'settings', {seed: {}}],
        ['a field of tomorrow', 'tomorrow', 1],
      ] as const
    ).map(([what, field, value]): (typeof damages)[number] => [
      `a state with ${what}, though its sha256 is right`,
      'trainer_state.json',
      rewriteState((state) => {
        Object.assign(state, {[field]: value});
        const body = Object.fromEntries(Object.entries(state).filter(([name]) => name !== 'sha256'));
        state.sha256 = createHash('sha256').update(JSON.stringify(body)).digest('hex');
      }),
      'is no part of such a file',
    ]),
    ['a state that is null', 'trainer_state.json', (file) => writeFileSync(file, 'null'), 'is not a JSON object'],
  ];
  for (const [name, file, damage, reason] of damages) {
    it(`passes over ${name}, and says so`, async () => {
      await save(1);
      await save(2);
      damage(join(path(2), file));
      const {step, said} = await latest();
      expect(step).to.equal(1);
      expect(said).to.have.lengthOf(1);
      expect(said[0])
        .to.include(`Passed over ${path(2)}: `)
        .and.to.include(reason);
    });
  }

  it('tells of an unfinished one, and the next save removes it', async () => {
    await save(1);
    const unfinished = join(folder, '.checkpoint-2.0123456789abcdef.new');
    await mkdir(unfinished);
    const {step, said} = await latest();
    expect(step).to.equal(1);
    expect(said).to.deep.equal([`Passed over ${unfinished}: the process was stopped before that was done.`]);
    await save(3);
    expect(readdirSync(folder).sort()).to.deep.equal(['checkpoint-1', 'checkpoint-3']);
  });

  it('refuses to go on with another model', async () => {
    await save(2);
    const baseModel = {origin: 'glassllm', fingerprint: {...STATE.baseModel.fingerprint, weights: 'b'.repeat(64)}};
    await fails(
      loadCheckpoint(path(2), {...STATE, baseModel}),
      `${path(2)} is a checkpoint of another model: smollm2, but this run trains glassllm, with another weights. Give`,
    );
  });

  it('takes the same model from another place', async () => {
    await save(2);
    const baseModel = {origin: 'a folder', fingerprint: fingerprintOf('a')};
    expect((await loadCheckpoint(path(2), {...STATE, baseModel})).step).to.equal(2);
  });

  it('refuses to go on with other settings, naming each', async () => {
    await save(2);
    const settings = {rank: 16, learningRate: 2e-4, targets: ['q_proj'], dropout: 0.1};
    const error = await fails(loadCheckpoint(path(2), {...STATE, settings}), 'other settings');
    expect(error.message).to.include(
      'rank was 8 and is 16; targets was ["q_proj","v_proj"] and is ["q_proj"]; seed was 1 and is unset; ' +
        'dropout was unset and is 0.1.',
    );
  });

  it('leaves the last one when a new one fails, and names it', async () => {
    await save(1);
    const broken: CheckpointParts = {...parts(2), writeModel: () => Promise.reject(new Error('the device is gone'))};
    const error = await fails(
      saveCheckpoint(folder, 2, broken, 1),
      'Checkpoint 2 could not be written',
      'the device is gone',
    );
    expect(error.message).to.include('checkpoint-1 is there to resume from');
    expect(readdirSync(folder)).to.deep.equal(['checkpoint-1']);
    await fails(saveCheckpoint(join(folder, 'new'), 1, broken), 'There is none yet to resume from.');
  });
});

/**
 * Arguments that make Node run a program with saveCheckpoint, latestCheckpoint, `folder` and `parts(step, size)`, whose
 * numbers are all `step`.
 */
function program(text: string): string[] {
  const module = (file: string): string =>
    JSON.stringify(new URL(`../../examples/finetune/${file}`, import.meta.url).href);
  const source = `
    import {readdirSync, writeFileSync} from 'node:fs';
    import {latestCheckpoint, saveCheckpoint} from ${module('train/checkpoint.ts')};
    import {shapesOf, writeSafetensors} from ${module('weights/safetensors.ts')};
    const folder = process.argv[1];
    const history = (step) => Array.from({length: step}, (_, i) => ({global_step: i + 1, loss: 1}));
    function parts(step, size) {
      const tensors = ['a', 'b', 'c'].map((name) => [name, {shape: [size], data: new Float32Array(size).fill(step)}]);
      return {
        state: {...${JSON.stringify(STATE)}, position: {epoch: 0, row: step}, logHistory: history(step)},
        writeModel: async (into) => {
          writeFileSync(into + '/adapter_config.json', '{}');
          await writeSafetensors(into + '/adapter_model.safetensors', shapesOf(tensors), tensors);
        },
        optimizer: {shapes: shapesOf(tensors), tensors},
      };
    }
    ${text}`;
  return ['--import=tsx', '--input-type=module', '-e', source];
}

describe('fine-tuning: a process that is stopped while it writes checkpoints', () => {
  const ROUNDS = 10;

  it(`always leaves a whole one, killed at ${ROUNDS} random moments`, async () => {
    const next = uniform(1);
    let interrupted = 0;
    for (let round = 0, step = 0; round < ROUNDS; round++) {
      const told = await killWhileSaving(step, next() * 60);
      interrupted += readdirSync(folder).filter((name) => name.startsWith('.')).length > 0 ? 1 : 0;
      const said: string[] = [];
      const found = await latestCheckpoint(folder, (text) => said.push(text));
      expect(found, said.join()).to.be.a('string');
      expect(said.filter((text) => !text.includes('stopped before that was done'))).to.deep.equal([]);
      const checkpoint = await loadCheckpoint(found!);
      expect(checkpoint.step).to.be.within(told, told + 1);
      await expectAllOf(checkpoint.step, checkpoint.state, checkpoint.optimizer);
      step = checkpoint.step;
    }
    expect(interrupted, 'kills that hit a checkpoint half-written').to.be.above(0);
    console.log(`      ${interrupted} of ${ROUNDS} kills hit a checkpoint half-written or half-deleted`);
  });

  /** Kills a saving process some ms after its first checkpoint; returns the last step that it printed as saved. */
  async function killWhileSaving(from: number, ms: number): Promise<number> {
    const loop = `for (let step = ${from + 1}; ; step++) {
      await saveCheckpoint(folder, step, parts(step, 50_000), 2);
      process.stdout.write(step + '\\n');
    }`;
    const child = spawn(process.execPath, [...program(loop), folder], {
      cwd: repository,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (text: Buffer) => (output += text.toString()));
    const closed = once(child, 'close');
    await Promise.race([once(child.stdout, 'data'), closed]);
    setTimeout(() => child.kill('SIGKILL'), ms);
    expect((await closed)[1], 'ended by').to.equal('SIGKILL');
    return Number(output.trim().split('\n').at(-1));
  }

  async function expectAllOf(
    step: number,
    {position}: TrainerState,
    optimizer: AsyncIterable<[string, HostTensor]>,
  ): Promise<void> {
    expect(position.row).to.equal(step);
    const tensors = [...(await readAll(optimizer)).values()];
    expect(tensors.map(({data}) => data.every((value) => value === step))).to.deep.equal([true, true, true]);
  }

  const full: [string, string, string][] = [
    ['a disk is full', `mount -t tmpfs -o size=1m tmpfs "$FOLDER"`, 'ENOSPC'],
    ['a file may not grow', 'ulimit -f 512', 'EFBIG'],
  ];
  for (const [name, limit, code] of full) {
    it(`leaves the last one when ${name}`, function () {
      const environment = {...process.env, FOLDER: folder};
      // Mounting needs its own namespace, which containers may forbid.
      const shell = code === 'ENOSPC' ? ['unshare', '-rm', 'bash', '-c'] : ['bash', '-c'];
      const probe = spawnSync(shell[0], [...shell.slice(1), limit], {encoding: 'utf8', env: environment});
      if (probe.status !== 0) {
        skip(this, probe.error?.message ?? probe.stderr.trim());
      }
      const [small, large] = [1000, 400_000];
      const attempt = `
        await saveCheckpoint(folder, 1, parts(1, ${small}), 1);
        const message = await saveCheckpoint(folder, 2, parts(2, ${large}), 1).catch((error) => error.message);
        const latest = await latestCheckpoint(folder);
        const names = readdirSync(folder);
        await saveCheckpoint(folder, 3, parts(3, ${small}), 1);
        console.log(JSON.stringify({message, latest, names, after: readdirSync(folder)}));`;
      const run = spawnSync(
        shell[0],
        [...shell.slice(1), `${limit} && exec "$@"`, 'bash', process.execPath, ...program(attempt), folder],
        {cwd: repository, encoding: 'utf8', env: environment},
      );
      expect(run.status, run.stderr).to.equal(0);
      const {message, ...found} = JSON.parse(run.stdout) as {message: string};
      expect(message).to.include(`Checkpoint 2 could not be written to ${folder}: ${code}`);
      expect(message).to.include('checkpoint-1 is there to resume from.');
      const expected = {latest: join(folder, 'checkpoint-1'), names: ['checkpoint-1'], after: ['checkpoint-3']};
      expect(found).to.deep.equal(expected);
    });
  }
});

describe('fine-tuning: fingerprints of models', () => {
  const weights = randomTensors(weightShapes(CONFIG));
  const files = (config: LlamaConfig, changed?: string, template = 'x') => ({
    ...{config, tokenizerJson: {version: '1.0'}, tokenizerConfig: {chat_template: template}},
    read: (name: string): Promise<HostTensor> => {
      const {shape, data} = weights.get(name)!;
      return Promise.resolve({shape, data: name === changed ? data.map((value) => value + 1e-3) : data});
    },
  });

  it('are equal for equal models', async () => {
    const one = await fingerprint(files(CONFIG));
    expect(await fingerprint(files({...CONFIG}))).to.deep.equal(one);
    Object.values(one).forEach((sha256) => expect(sha256).to.match(/^[0-9a-f]{64}$/));
  });

  it('differ by a setting, any weight, the tokenizer and the chat template, each by its name', async () => {
    const one = await fingerprint(files(CONFIG));
    const changes = async (other: Parameters<typeof fingerprint>[0]): Promise<string[]> => {
      const entries = Object.entries(await fingerprint(other)) as [keyof Fingerprint, string][];
      return entries.filter(([part, sha256]) => sha256 !== one[part]).map(([part]) => part);
    };
    expect(await changes(files({...CONFIG, rmsNormEpsilon: 1e-5}))).to.deep.equal(['configuration']);
    expect(await changes({...files(CONFIG), tokenizerJson: {}})).to.deep.equal(['tokenizer']);
    expect(await changes(files(CONFIG, undefined, 'y'))).to.deep.equal(['chat template']);
    for (const name of weights.keys()) expect(await changes(files(CONFIG, name)), name).to.deep.equal(['weights']);
  });
});

/** An adapter with random numbers on two kinds of projections. */
function adapter(taskType: 'CAUSAL_LM' | 'SEQ_CLS'): AdapterContent & {tensors: Map<string, HostTensor>} {
  const settings = {rank: 4, alpha: 12, dropout: 0.05, targetModules: ['q_proj', 'down_proj'] as const, taskType};
  return {...settings, baseModel: 'some/base', tensors: randomTensors(adapterShapes(CONFIG, settings))};
}

describe('fine-tuning: adapters', () => {
  for (const taskType of ['CAUSAL_LM', 'SEQ_CLS'] as const) {
    it(`come back as they were written (${taskType})`, async () => {
      await writeAdapter(folder, adapter(taskType));
      expect(readdirSync(folder).sort()).to.deep.equal(['adapter_config.json', 'adapter_model.safetensors']);
      expect(await readAdapter(folder, CONFIG)).to.deep.equal({...adapter(taskType), useRslora: false});
    });
  }

  const configPath = (): string => join(folder, 'adapter_config.json');
  const refusals: [string, unknown, string][] = [
    ['peft_type', 'IA3', "peft_type should be 'LORA'"],
    ['task_type', 'TOKEN_CLS', 'task_type should be'],
    ['r', 0, 'r should be a whole number above 0, got 0'],
    ['r', 8, 'rank 8 on this model needs [8,16]'],
    ['lora_alpha', '16', 'lora_alpha should be a number above 0, got "16"'],
    ['lora_dropout', 1, 'lora_dropout should be a number from 0 to below 1, got 1'],
    ['target_modules', null, 'target_modules should be a text, or a list'],
    ['target_modules', ['q_proj', 'lm_head'], 'target_modules should be a text, or a list of one or more of q_proj'],
    ['target_modules', ['q_proj', 'v_proj'], 'lacks base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight'],
    ['target_modules', ['q_proj'], 'holds base_model.model.model.layers.0.mlp.down_proj.lora_A.weight'],
    ['modules_to_save', ['lm_head'], 'modules_to_save should be null'],
    ['bias', 'all', "bias should be 'none'"],
    ['init_lora_weights', 'pissa', 'init_lora_weights should be'],
    ['use_dora', true, 'use_dora should be off (only plain LoRA is supported), got true'],
    ['fan_in_fan_out', true, 'fan_in_fan_out should be off'],
    ['layers_to_transform', [0], 'layers_to_transform should be off'],
    ['rank_pattern', {q_proj: 2}, 'rank_pattern should be off (only plain LoRA is supported), got {"q_proj":2}'],
    ['alpha_pattern', {q_proj: 2}, 'alpha_pattern should be off'],
    ['a_method_of_tomorrow', {x: 1}, 'a_method_of_tomorrow should be off'],
  ];
  for (const [field, value, message] of refusals) {
    it(`are refused with ${field} ${JSON.stringify(value)}`, async () => {
      await writeAdapter(folder, adapter('CAUSAL_LM'));
      const config = JSON.parse(readFileSync(configPath(), 'utf8')) as Record<string, unknown>;
      writeFileSync(configPath(), JSON.stringify({...config, [field]: value}));
      await fails(readAdapter(folder, CONFIG), folder, message);
    });
  }

  for (const targets of ['all-linear', String.raw`(?:.*?(?:self_attn|mlp).*?(?:q_proj|down_proj).*?)|(?:(a+)+)`]) {
    it(`have the projections of their tensors, if target_modules is ${targets}`, async () => {
      await writeAdapter(folder, adapter('CAUSAL_LM'));
      const config = JSON.parse(readFileSync(configPath(), 'utf8')) as Record<string, unknown>;
      writeFileSync(configPath(), JSON.stringify({...config, target_modules: targets}));
      expect(await readAdapter(folder, CONFIG)).to.deep.equal({...adapter('CAUSAL_LM'), useRslora: false});
    });
  }

  it('are refused on another model', async () => {
    await writeAdapter(folder, adapter('CAUSAL_LM'));
    await fails(
      readAdapter(folder, {...CONFIG, hiddenSize: 32}),
      'q_proj.lora_A.weight has shape [4,16], but rank 4 on this model needs [4,32]',
    );
    await fails(readAdapter(folder, {...CONFIG, layers: 3}), 'lacks base_model.model.model.layers.2', 'and 1 more');
    await fails(
      readAdapter(folder, {...CONFIG, layers: 1}),
      'holds base_model.model.model.layers.1',
      'of another model, or',
    );
  });

  it('are refused when files are missing or no JSON', async () => {
    await fails(readAdapter(folder, CONFIG), configPath(), 'cannot be read');
    await writeAdapter(folder, adapter('CAUSAL_LM'));
    unlinkSync(join(folder, 'adapter_model.safetensors'));
    await fails(readAdapter(folder, CONFIG), `${folder} has no adapter_model.safetensors.`);
    writeFileSync(join(folder, 'adapter_model.bin'), '');
    await fails(readAdapter(folder, CONFIG), 'safe_serialization=True');
    writeFileSync(configPath(), '{');
    await fails(readAdapter(folder, CONFIG), 'is not JSON');
    writeFileSync(configPath(), '[]');
    await fails(readAdapter(folder, CONFIG), 'is not a JSON object');
  });
});

const python = process.env.FLASHMASK_PYTHON ?? 'python3';

function reasonToSkip(): string {
  const probe = spawnSync(python, ['-c', 'import peft'], {encoding: 'utf8'});
  if (probe.error) {
    return `${python} cannot be run: ${probe.error.message}`;
  }
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

interface Judgement {
  missing: string[];
  unexpected: string[];
  tensors: Record<string, number[]>;
}

const reason = reasonToSkip();

(reason ? describe.skip : describe)(`fine-tuning: peft and transformers as judges${reason && ` (${reason})`}`, () => {
  let made: string;
  before(() => {
    made = mkdtempSync(join(tmpdir(), 'flashmask-peft-'));
    judge('make', made);
  });
  after(() => rmSync(made, {recursive: true, force: true}));

  function judge(...args: string[]): string {
    const script = fileURLToPath(new URL('../support/peft_judge.py', import.meta.url));
    const run = spawnSync(python, [script, ...args], {encoding: 'utf8', maxBuffer: 2 ** 28});
    expect(run.status, run.stderr).to.equal(0);
    return run.stdout;
  }

  const flat = (tensors: Iterable<readonly [string, HostTensor]>, prefix = ''): Record<string, number[]> =>
    Object.fromEntries(Array.from(tensors, ([name, {data}]) => [prefix + name, [...data]]));

  for (const [kind, taskType, baseClass] of [
    ['lm', 'CAUSAL_LM', 'LlamaForCausalLM'],
    ['rm', 'SEQ_CLS', 'LlamaForSequenceClassification'],
  ] as const) {
    it(`peft loads our adapter onto ${baseClass}`, async () => {
      const ours = adapter(taskType);
      await writeAdapter(folder, ours);
      const {tensors, ...rest} = JSON.parse(judge('adapter', join(made, `${kind}_base`), folder)) as Judgement;
      const expected = {missing: [], unexpected: [], scaling: 3, task: taskType, base: 'some/base'};
      expect(rest).to.deep.equal(expected);
      expect(tensors).to.deep.equal(flat(ours.tensors, 'base_model.model.'));
    });

    it(`peft notices when our adapter for ${baseClass} lacks a tensor or has one too many`, async () => {
      const ours = adapter(taskType);
      const name = 'model.layers.1.self_attn.q_proj.lora_B.weight';
      const tensor = ours.tensors.get(name)!;
      ours.tensors.delete(name);
      ours.tensors.set('model.layers.7.self_attn.q_proj.lora_B.weight', tensor);
      await writeAdapter(folder, ours);
      const {missing, unexpected} = JSON.parse(judge('adapter', join(made, `${kind}_base`), folder)) as Judgement;
      expect(missing).to.have.lengthOf(1);
      expect(unexpected).to.have.lengthOf(1);
    });

    it(`we load peft's adapter of ${baseClass}`, async () => {
      const theirs = join(made, `${kind}_adapter`);
      const config = parseConfig(JSON.parse(readFileSync(join(made, `${kind}_base`, 'config.json'), 'utf8')), kind);
      const {tensors, targetModules, ...rest} = await readAdapter(theirs, config);
      const baseModel = join(made, `${kind}_base`);
      expect(rest).to.deep.equal({rank: 3, alpha: 6, dropout: 0.1, baseModel, taskType, useRslora: true});
      expect([...targetModules].sort()).to.deep.equal(['down_proj', 'q_proj', 'v_proj']);
      const judged = JSON.parse(judge('adapter', baseModel, theirs)) as Judgement;
      expect(flat(tensors, 'base_model.model.')).to.deep.equal(judged.tensors);
    });

    it(`transformers loads our folder of ${baseClass}`, async () => {
      const configJson = kind === 'rm' ? rewardModelConfig(CONFIG_JSON) : CONFIG_JSON;
      expect(configJson.architectures).to.deep.equal([baseClass]);
      const shapes = weightShapes(parseConfig(configJson, 'ours'));
      const weights = randomTensors(shapes);
      const files = {tokenizerJson: {version: '1.0'}, tokenizerConfig: {bos_token: '<s>'}};
      await writeModelFolder(folder, {configJson, ...files, shapes, tensors: weights});
      const {tensors, ...rest} = JSON.parse(judge('model', folder)) as Judgement;
      expect(rest).to.deep.equal({missing: [], unexpected: [], dtype: 'torch.float32'});
      expect(tensors).to.deep.equal(flat(weights));
    });
  }
});

describe('fine-tuning: model folders', () => {
  it('hold the four files, with float32 in config.json', async () => {
    const tensors = randomTensors(weightShapes(CONFIG));
    const files = {tokenizerJson: {version: '1.0'}, tokenizerConfig: {}};
    await writeModelFolder(folder, {configJson: CONFIG_JSON, ...files, shapes: shapesOf(tensors), tensors});
    const read = (name: string): unknown => JSON.parse(readFileSync(join(folder, name), 'utf8'));
    expect(readdirSync(folder)).to.have.lengthOf(4);
    expect(read('config.json')).to.include({torch_dtype: 'float32', dtype: 'float32', hidden_size: 16});
    expect(read('tokenizer.json')).to.deep.equal(files.tokenizerJson);
  });

  it('of reward models have one label, and no padding token that also ends answers', () => {
    const config = rewardModelConfig({...CONFIG_JSON, model_type: 'qwen2', eos_token_id: [2, 3], pad_token_id: 3});
    expect(config.architectures).to.deep.equal(['Qwen2ForSequenceClassification']);
    expect(config.pad_token_id).to.equal(null);
    expect(rewardModelConfig({...CONFIG_JSON, pad_token_id: 0}).pad_token_id).to.equal(0);
    expect(parseConfig(rewardModelConfig(CONFIG_JSON), 'reward').scoreHead).to.equal(true);
  });
});

describe('fine-tuning: metrics', () => {
  const file = (): string => join(folder, 'run', 'metrics.jsonl');
  const lines = (): unknown[] =>
    readFileSync(file(), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown);

  it('are appended line by line', () => {
    const log = new MetricsLog(file());
    STATE.logHistory.forEach((record) => log.append(record));
    expect(lines()).to.deep.equal(STATE.logHistory);
    expect(log.records).to.deep.equal(STATE.logHistory);
  });

  it('go on after the steps of a checkpoint, without those that came after it', () => {
    const first = new MetricsLog(file());
    [...STATE.logHistory, {global_step: 3, loss: 9}].forEach((record) => first.append(record));
    writeFileSync(file(), '{"global_ste', {flag: 'a'});
    const resumed = new MetricsLog(file(), STATE.logHistory);
    resumed.append({global_step: 3, loss: 0.2});
    expect(lines()).to.deep.equal([...STATE.logHistory, {global_step: 3, loss: 0.2}]);
    expect(STATE.logHistory).to.have.lengthOf(2);
  });

  it('go on where the file could not be written for a while, and say so once', () => {
    const said: string[] = [];
    const log = new MetricsLog(file(), [], (text) => said.push(text));
    const history = [1, 2, 3, 4].map((step) => ({global_step: step, loss: step}));
    log.append(history[0]);
    unlinkSync(file());
    mkdirSync(file());
    history.slice(1, 3).forEach((record) => log.append(record));
    rmdirSync(file());
    log.append(history[3]);
    expect(lines()).to.deep.equal(history);
    expect(said).to.have.lengthOf(1);
    expect(said[0]).to.include(`${file()} lacks steps until it can be written again: EISDIR`);
  });
});

describe('fine-tuning: reference log-probabilities', () => {
  it('are those of before training, byte for byte, or an error', async () => {
    const file = join(folder, 'reference.json');
    const sha256 = await new PrecomputedReference().save(file);
    expect(await PrecomputedReference.load(file, sha256)).to.be.instanceOf(PrecomputedReference);
    writeFileSync(file, '[[0,[-1.5]]]');
    await fails(PrecomputedReference.load(file, sha256), `--resume: ${file} holds the`, 'it is not as it was written.');
    writeFileSync(file, '[[0,["x"]]]');
    await fails(PrecomputedReference.load(file, sha256), 'it is no list of log-probabilities. Start again.');
    unlinkSync(file);
    await fails(PrecomputedReference.load(file, sha256), 'there is no such file');
  });
});

/** The output of `show`, with or without a terminal. */
function printed(onTerminal: boolean, show: (io: Io) => void): string[] {
  const texts: string[] = [];
  const say = (text: string): void => void texts.push(text);
  show({...processIo, say, terminal: onTerminal ? process.stdout : null});
  return texts;
}

describe('fine-tuning: progress', () => {
  it('prints the first and the last line at once, where there is no terminal', () => {
    const texts = printed(false, (io) => {
      const bar = trainingBar(30, 10, io);
      [11, 12, 30].forEach((step) => bar.update({step, loss: 1.25, learningRate: 2e-4, tokensPerSecond: 321.4}));
      bar.stop();
    });
    expect(texts).to.deep.equal([
      'step 11/30  loss 1.2500  learning rate 2.00e-4  321 tokens/s  0s left',
      'step 30/30  loss 1.2500  learning rate 2.00e-4  321 tokens/s  0s left',
    ]);
  });

  it('shows what is compiled: on a terminal beside the steps, else in one line', () => {
    const plain = printed(false, (io) => {
      const bar = trainingBar(3, 0, io);
      for (const made of [0, 1, 2]) bar.compiling(made, 2);
    });
    expect(plain).to.deep.equal(['Compiling functions in the first steps, which take longer (--eager: not)']);
    let shown = '';
    const write = (text: string): boolean => Boolean((shown += text));
    const terminal = {write, isTTY: true, columns: 200};
    const bar = trainingBar(3, 0, {...processIo, terminal: terminal as never});
    const after = (made: number): string => {
      shown = '';
      // Bars are drawn ten times a second.
      for (const end = Date.now() + 250; Date.now() < end;);
      bar.compiling(made, 2);
      return shown;
    };
    expect(after(1)).to.match(/^[^\n]*step 0\/3 .* left  compiling functions: 1 of 2/);
    expect(after(2))
      .to.match(/step 0\/3 /)
      .and.to.not.match(/compiling/);
    bar.stop();
  });

  it('formats times', () => {
    const times = [0, 59.4, 95, 3599, 7322, -1].map(formatSeconds);
    expect(times).to.deep.equal(['0s', '59s', '1m35s', '59m59s', '2h02m', '0s']);
  });
});

describe('fine-tuning: charts', () => {
  /** Metrics of a DPO run whose loss falls from 1 to 0 and whose rewards move apart. */
  const dpo = (steps: number): MetricsRecord[] =>
    Array.from({length: steps}, (_, i) => ({
      ...{global_step: i + 1, loss: 1 - i / (steps - 1), 'rewards/accuracies': i % 2},
      ...{'rewards/chosen': i, 'rewards/rejected': -i, 'rewards/margins': 2 * i},
    }));
  const svg = (name: string): Element => {
    const text = readFileSync(join(folder, `${name}.svg`), 'utf8');
    expect(text)
      .to.match(/^<svg [^>]*xmlns="http:\/\/www.w3.org\/2000\/svg"/)
      .and.not.to.match(/NaN|undefined|Infinity/);
    return parseHTML(`<html><body>${text}</body></html>`).document.querySelector('svg')!;
  };
  const texts = (element: Element): string[] => [...element.querySelectorAll('text')].map((text) => text.textContent);
  /** The vertical positions of a line's points. */
  const heights = (path: Element): number[] =>
    [...path.getAttribute('d')!.matchAll(/[ML,]?(-?[\d.]+),(-?[\d.]+)/g)].map(([, , y]) => Number(y));

  it('are SVG files with a line each, axes and a legend', () => {
    const names = saveCharts(folder, dpo(20));
    expect(names).to.deep.equal(['loss', 'rewards', 'accuracy'].map((name) => join(folder, `${name}.svg`)));
    expect(texts(svg('rewards'))).to.include.members([
      'Rewards',
      '━━ chosen',
      '━━ rejected',
      '━━ margin',
      'step →',
      '20',
    ]);
    const [chosen, rejected] = [...svg('rewards').querySelectorAll('g[aria-label=line] path')].map(heights);
    expect(chosen).to.have.lengthOf(20);
    // In SVG the vertical axis points down: a larger reward has a smaller coordinate.
    expect(chosen.at(-1)).to.be.below(chosen[0]);
    expect(rejected.at(-1)).to.be.above(rejected[0]);
  });

  it('get a smooth line on top of many points', () => {
    saveCharts(folder, dpo(300));
    const [raw, smooth] = [...svg('accuracy').querySelectorAll('g[aria-label=line] path')].map(heights);
    const swing = (ys: number[]): number => Math.max(...ys.slice(50, 250)) - Math.min(...ys.slice(50, 250));
    expect([raw.length, smooth.length]).to.deep.equal([300, 300]);
    expect(swing(smooth)).to.be.below(swing(raw) / 10);
  });

  it('leave out what a run did not log, and numbers that are none', () => {
    const records = [
      {global_step: 1, loss: 2},
      {global_step: 2, loss: NaN},
      {global_step: 3, loss: 1},
    ];
    expect(saveCharts(folder, records)).to.deep.equal([join(folder, 'loss.svg')]);
    expect(heights(svg('loss').querySelector('g[aria-label=line] path')!)).to.have.lengthOf(2);
    expect(saveCharts(folder, [])).to.deep.equal([]);
  });

  it('are a warning where one cannot be written', () => {
    mkdirSync(join(folder, 'rewards.svg'));
    const warnings: string[] = [];
    const warn = (text: string): number => warnings.push(text);
    expect(saveCharts(folder, dpo(3), {warn}).map((path) => basename(path))).to.deep.equal([
      'loss.svg',
      'accuracy.svg',
    ]);
    expect(warnings).to.have.lengthOf(1);
    expect(warnings[0]).to.match(/rewards\.svg is not written: EISDIR/);
  });

  it('show one point, and equal ones', () => {
    saveCharts(folder, [{global_step: 5, loss: 2}]);
    expect(svg('loss').querySelectorAll('circle')).to.have.lengthOf(1);
    const flat = [1, 2, 3].map((step) => ({global_step: step, loss: 2}));
    expect(printed(false, (io) => printCharts(flat, io)).join()).to.include('2.000 ┼──');
  });

  it('are drawn in text, a chart a line where there are no colours', () => {
    const plain = printed(false, (io) => printCharts(dpo(20), io));
    const titles = plain.map((text) => text.split('\n')[1]);
    expect(titles).to.deep.equal([
      ...['Loss: training loss', 'Rewards: chosen', 'Rewards: rejected', 'Rewards: margin'],
      'Accuracy: chosen above rejected',
    ]);
    expect(plain.join()).to.not.include('\x1b');
    const [, , top, ...rest] = plain[0].split('\n');
    expect(top).to.match(/^ +1\.000 [┼┤]/);
    expect(rest.slice(-3)[0]).to.match(/^ +0\.000 ┤.*╰/);
    expect(rest.at(-1)).to.match(/^ +1 +20 step$/);
  });

  it('are drawn together in colours on a terminal', () => {
    const coloured = printed(true, (io) => printCharts(dpo(20), io));
    expect(coloured).to.have.lengthOf(3);
    expect(coloured[1])
      .to.include('\x1b[34m── chosen')
      .and.to.include('\x1b[31m── rejected')
      .and.to.include('\x1b[32m╭');
  });
});
