/**
 * @file The fine-tuning commands on a tiny model: sft, lora, dpo and rm learn, with the same losses as dense attention;
 * their output can be resumed, generated from, scored with and merged; every error. Most commands run in this process,
 * a few in a process of their own. `FLASHMASK_PYTHON` names a Python with peft and transformers, which must compute the
 * same logits.
 */
import {spawnSync} from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import type {MetricsRecord} from '../../examples/finetune/train/metrics.js';
import {learningRate} from '../../examples/finetune/train/schedule.js';
import {
  type Finished,
  command,
  fails,
  finish,
  interruptAt,
  onEachLine,
  preload,
  start,
  succeeds,
} from '../support/finetune_command.js';
import {FASTEST_BACKEND as BACKEND, setUpFastestBackend} from '../support/finetune_device.js';
import {readScalars} from '../support/event_files.js';
import {writeComparisons, writeInstructions, writeTinyModel} from '../support/finetune_tiny.js';
import {skip} from '../support/skip.js';

const JUDGE = fileURLToPath(new URL('../support/finetune_judge.py', import.meta.url));
const LEARN = ['--row-tokens', '192', '--learning-rate', '0.01', '--backend', BACKEND];

/** Calls `make` once; later calls return the same promise. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}

const COMMON = ['global_step', 'epoch', 'loss', 'learning_rate', 'grad_norm', 'num_tokens'];
const SPEED = ['tokens_per_second', 'packing_density', 'tile_sparsity'];
const SFT = ['entropy', 'mean_token_accuracy'];
const DPO = ['rewards', 'logps', 'logits'].flatMap((name) => [`${name}/chosen`, `${name}/rejected`]);
const RM = ['accuracy', 'margin', 'min_reward', 'mean_reward', 'max_reward'];

describe('fine-tuning: the commands', () => {
  let folder: string;
  let model: string;
  let instructions: string;
  let comparisons: string;
  before(async () => {
    await setUpFastestBackend();
    folder = mkdtempSync(join(tmpdir(), 'flashmask-finetune-'));
    model = join(folder, 'model');
    await writeTinyModel(model);
    instructions = writeInstructions(folder);
    comparisons = writeComparisons(folder);
  });
  after(() => rmSync(folder, {recursive: true, force: true}));

  const output = (name: string): string => join(folder, name);
  const metricsOf = (name: string): MetricsRecord[] =>
    readFileSync(join(output(name), 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as MetricsRecord);
  const mean = (records: MetricsRecord[], field: string): number =>
    records.reduce((sum, record) => sum + record[field], 0) / records.length;
  /** The means over the first and over the last three steps. */
  const ends = (name: string, field: string): [number, number] => {
    const records = metricsOf(name);
    return [mean(records.slice(0, 3), field), mean(records.slice(-3), field)];
  };
  const trainingOf = (objective: string, name: string, data: string, ...args: string[]): string[] => [
    ...[objective, '--model', model, '--data', data, '--output', output(name), ...LEARN, ...args],
  ];
  /** Trains with a dense twin; the command fails if their losses differ. */
  const learn = (objective: string, name: string, data: string, ...args: string[]): Promise<string> =>
    succeeds(trainingOf(objective, name, data, '--compare', ...args));
  const DPO_LORA = ['--lora', '--steps', '12', '--beta', '0.2', '--label-smoothing', '0.05'];
  const RM_LORA = ['--lora', '--steps', '24', '--centering', '0.01', '--learning-rate', '0.003'];
  /** Runs that several tests use; each returns its output folder. */
  const trained = {
    lora: once(async () => {
      await learn('sft', 'lora', instructions, '--steps', '24', '--lora', '--lora-dropout', '0.05');
      return output('lora');
    }),
    merged: once(async () => {
      const args = ['--adapter', await trained.lora(), '--output', output('merged'), '--backend', BACKEND];
      await succeeds(['merge', ...args]);
      return output('merged');
    }),
    rm: once(async () => {
      await learn('rm', 'rm', writeComparisons(folder, 3), ...RM_LORA);
      return output('rm');
    }),
  };

  it('sft learns with all weights, and says what it does, in a process of its own', async () => {
    const args = ['--compare', '--steps', '16', '--eval-samples', '2', '--eval-steps', '8', '--prompt', 'Greet Eve.'];
    const {code, stdout, stderr} = await finish(start(trainingOf('sft', 'sft', instructions, ...args)));
    expect(code, stderr + stdout).to.equal(0);
    for (const part of [
      /Device +(tensorflow|cpu)/,
      /Model +.*: 0\.\d\d M parameters, all trained/,
      /Data +.*: 22 samples of 22 records; the first 2 held out/,
      /Packing +\d+ rows of 192 tokens, \d+\.\d % full, \d\.\d samples a row/,
      /Training 16 steps of 1 row, \d\.\d\d epochs; a twin with dense attention does the first 16 too/,
      /step 8\/16 .*  held-out loss \d\.\d{4}\n/,
      /Loss: held-out loss/,
      /step 16\/16 +loss \d\.\d{4} +learning rate \d\.\d\de-\d+ +\d+ tokens\/s +0s left/,
      /Held-out loss +\d\.\d{4} before, \d\.\d{4} after/,
      /Prompt +Greet Eve\.\n +before +".*"\n +after +".*"/,
      /Tiles skipped +\d+\.\d %/,
      /Same losses +yes: .* over 16 steps \(allowed 1e-4\)/,
      /dense \/ flashMaskAttention/,
    ]) {
      expect(stdout).to.match(part);
    }
    const [first, last] = ends('sft', 'loss');
    expect(last).to.be.below(0.5 * first);
    expect(metricsOf('sft')[0]).to.have.all.keys(...COMMON, ...SPEED, ...SFT);
    expect(ends('sft', 'mean_token_accuracy')[1]).to.be.above(0.5);
    const [, before, after] = /Held-out loss +([\d.]+) before, ([\d.]+) after/.exec(stdout)!;
    expect(Number(after)).to.be.below(Number(before));
    const measured = metricsOf('sft').map(({eval_loss: loss}) => loss?.toFixed(4));
    expect([...measured.keys()].filter((i) => measured[i] !== undefined)).to.deep.equal([7, 15]);
    expect(measured[15]).to.equal(after);
    expect(readdirSync(output('sft'))).to.have.members(['accuracy.svg', 'checkpoint-16', 'loss.svg', 'metrics.jsonl']);
    const asked = ['generate', '--model', output('sft'), '--prompt', 'Greet Ada.', '--backend', BACKEND];
    expect(await succeeds(asked)).to.match(/^Hello, /);
  });

  it('sft --lora learns, and merging gives a model that says the same', async () => {
    const adapter = await trained.lora();
    const [first, last] = ends('lora', 'loss');
    expect(last).to.be.below(0.6 * first);
    const checkpoint = join(adapter, 'checkpoint-24');
    expect(readdirSync(checkpoint)).to.include.members(['adapter_config.json', 'adapter_model.safetensors']);

    const say = (...args: string[]): Promise<string> =>
      succeeds(['generate', ...args, '--prompt', 'Call Kit.', '--backend', BACKEND, '--max-new-tokens', '24']);
    const adapted = await say('--adapter', adapter);
    expect(adapted).to.not.equal(await say('--model', model));
    expect(await say('--model', await trained.merged())).to.equal(adapted);
    expect(readdirSync(folder).filter((name) => name.endsWith('.unfinished'))).to.deep.equal([]);
    // The output of a run can be the base model of the next.
    await succeeds(trainingOf('sft', 'base', instructions, '--steps', '2'));
    const elsewhere = await say('--model', output('base'), '--adapter', adapter);
    expect(elsewhere).to.not.equal(adapted);
    // The same seed draws the same text, another seed another text.
    const draw = (seed: string): Promise<string> =>
      say('--model', model, '--temperature', '1', '--top-p', '0.9', '--seed', seed);
    const drawn = await draw('1');
    expect(await draw('1')).to.equal(drawn);
    expect(await draw('2')).to.not.equal(drawn);
  });

  it('has the same losses and gradient norms, to the last digit, operation by operation', async function () {
    if (BACKEND !== 'tensorflow') skip(this, 'functions need tfjs-node');
    const lora = ['--lora', '--lora-dropout', '0.1'];
    const kinds: [objective: string, data: string, args: string[]][] = [
      ['sft', instructions, ['--keep-activations', 'never']],
      ['sft', instructions, [...lora, '--accumulate', '2', '--keep-activations']],
      ['dpo', comparisons, [...lora, '--keep-activations', 'never']],
      ['rm', comparisons, lora],
    ];
    for (const [i, [objective, data, args]] of kinds.entries()) {
      const names = [`functions_${i}`, `eager_${i}`];
      const all = [...args, '--steps', '4'];
      expect(await succeeds(trainingOf(objective, names[0], data, ...all))).to.include('Compiling');
      // Keeping activations changes no digit either.
      const kept = [...all.map((arg) => (arg === 'never' ? 'always' : arg)), '--eager'];
      expect(await succeeds(trainingOf(objective, names[1], data, ...kept))).to.not.include('Compiling');
      const [functions, eager] = names.map((name) => metricsOf(name).map((r) => [r.loss, r.grad_norm]));
      expect(functions, objective).to.deep.equal(eager);
    }
  });

  it('keeps activations where they fit, unless it is told or has a twin, and says why', async () => {
    const said = async (name: string, ...args: string[]): Promise<string> => {
      const stdout = await succeeds(trainingOf('sft', `memory_${name}`, instructions, '--steps', '1', ...args));
      return /Memory.*/.exec(stdout)?.[0] ?? '';
    };
    expect(await said('fits')).to.match(
      /^Memory   activations are kept: they take up to 0\.\d+ GB of .* GB that are free/,
    );
    expect(await said('twin', '--compare')).to.match(/^Memory   activations are computed twice: the twin/);
    for (const when of ['always', 'never']) expect(await said(when, '--keep-activations', when)).to.equal('');
  });

  it('trains with bfloat16 products and with XLA, to nearly the same losses', async function () {
    if (BACKEND !== 'tensorflow') skip(this, 'functions need tfjs-node');
    const losses: number[][] = [];
    for (const [i, more] of [[], ['--dtype', 'bfloat16'], ['--xla']].entries()) {
      await succeeds(trainingOf('sft', `compiled_${i}`, instructions, '--steps', '4', ...more));
      losses.push(metricsOf(`compiled_${i}`).map(({loss}) => loss));
    }
    const [plain, bfloat16, xla] = losses;
    plain.forEach((loss, i) => {
      expect(bfloat16[i]).to.be.closeTo(loss, 0.02 * loss);
      expect(xla[i]).to.be.closeTo(loss, 1e-3 * loss);
    });
    expect(bfloat16[3]).to.not.equal(plain[3]);
    for (const args of [['--dtype', 'bfloat16'], ['--xla']]) {
      const refused = trainingOf('sft', 'refused', instructions, '--steps', '1', '--eager', ...args);
      await fails(/(--dtype bfloat16|--xla) needs TensorFlow functions, .*, got --eager\. Leave out/, refused);
    }
  });

  it('reports to TensorBoard what metrics.jsonl has, once a step also after --resume', async function () {
    if (BACKEND !== 'tensorflow') skip(this, 'no tfjs-node');
    const args = (...more: string[]): string[] =>
      trainingOf('sft', 'events', instructions, '--lora', '--save-every', '4', '--report-to', 'tensorboard', ...more);
    const held = ['--eval-samples', '2', '--eval-steps', '3'];
    await succeeds(args('--steps', '6', ...held));
    const check = (): void => {
      const expected = metricsOf('events').flatMap(({global_step: step, eval_loss: evalLoss, ...others}) => [
        ...Object.entries(others).map(([name, value]) => ({name: `train/${name}`, step, value: Math.fround(value)})),
        ...(evalLoss === undefined ? [] : [{name: 'eval/loss', step, value: Math.fround(evalLoss)}]),
      ]);
      expect(readScalars(join(output('events'), 'runs'))).to.have.deep.members(expected);
    };
    check();
    expect(readScalars(join(output('events'), 'runs')).map(({name}) => name)).to.include.members([
      ...['train/loss', 'train/learning_rate', 'train/grad_norm', 'train/epoch', 'eval/loss'],
    ]);
    // As if the process had ended after step 6, and before its checkpoint was written; in the middle of a record too.
    rmSync(join(output('events'), 'checkpoint-6'), {recursive: true});
    const [file] = readdirSync(join(output('events'), 'runs'));
    appendFileSync(join(output('events'), 'runs', file), 'torn');
    await succeeds(args('--steps', '8', ...held, '--resume'));
    expect(metricsOf('events').map(({global_step: step}) => step)).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8]);
    check();
    expect(readdirSync(join(output('events'), 'runs'))).to.have.length(2);
  });

  it('dpo learns preferences, with adapters and with all weights', async () => {
    await learn('dpo', 'dpo', comparisons, ...DPO_LORA);
    expect(metricsOf('dpo')[0]).to.have.all.keys(...COMMON, ...SPEED, ...DPO, 'rewards/margins', 'rewards/accuracies');
    // Before the first step policy and reference are the same.
    expect(metricsOf('dpo')[0].loss).to.be.closeTo(Math.log(2), 1e-6);
    expect(metricsOf('dpo')[0]['rewards/margins']).to.be.closeTo(0, 1e-5);
    expect(ends('dpo', 'rewards/accuracies')[1]).to.be.above(0.95);
    expect(ends('dpo', 'loss')[1]).to.be.below(0.6);

    const precomputed = [...DPO_LORA, '--precompute-reference'];
    await succeeds(trainingOf('dpo', 'precomputed', comparisons, ...precomputed));
    const resumed = trainingOf('dpo', 'dpo', comparisons, ...precomputed, '--resume');
    await fails(/precompute-reference was unset and is true/, resumed);
    metricsOf('precomputed').forEach(({loss}, i) => expect(loss).to.be.closeTo(metricsOf('dpo')[i].loss, 1e-4));

    const stdout = await learn('dpo', 'dpo_full', comparisons, '--steps', '6', '--learning-rate', '0.001');
    expect(stdout).to.match(/all trained/);
    expect(metricsOf('dpo_full')[0].loss).to.be.closeTo(Math.log(2), 1e-6);
    expect(ends('dpo_full', 'rewards/accuracies')[1]).to.be.above(0.95);
  });

  it('rm learns all pairs of three answers, and scores new ones in that order', async () => {
    const adapter = await trained.rm();
    expect(metricsOf('rm')[0]).to.have.all.keys(...COMMON, ...SPEED, ...RM);
    expect(ends('rm', 'accuracy')[1]).to.be.above(0.95);
    expect(ends('rm', 'loss')[1]).to.be.below(0.5);
    const scored = await succeeds([
      ...['score', '--adapter', adapter, '--prompt', 'Greet Zoe.', '--backend', BACKEND],
      ...['--answers', 'Hello, dear Zoe!', 'Hi Zoe.', 'What, Zoe?'],
    ]);
    const rewards = scored.match(/-?\d+\.\d{4}/g)!.map(Number);
    expect(rewards).to.have.length(3);
    expect(rewards).to.deep.equal([...rewards].sort((a, b) => b - a));

    const full = ['--steps', '4', '--learning-rate', '0.003', '--no-share-questions'];
    await learn('rm', 'rm_full', writeComparisons(folder, 3), ...full);
    const scores = ['score', '--prompt', 'Greet Zoe.', '--answers', 'Hi Zoe.', '--backend', BACKEND];
    expect(await succeeds([...scores, '--model', output('rm_full')])).to.match(/\d\.\d{4}/);
    const noText = /is a reward model, which writes no text/;
    await fails(noText, ['generate', '--model', output('rm_full'), '--prompt', 'Hi']);
    await fails(noText, ['sft', '--model', join(output('rm_full'), 'checkpoint-4')]);
    await fails(/is no reward model: train one with the command rm/, [...scores, '--model', model]);
  });

  describe('--resume', () => {
    const numbers = (name: string): object[] =>
      metricsOf(name).map((record) => ({...record, tokens_per_second: undefined}));
    const SIX_STEPS = ['--steps', '6', '--save-every', '2'];
    const adapters = (name: string, ...args: string[]): string[] =>
      trainingOf('sft', name, instructions, ...SIX_STEPS, ...DROPOUT, '--accumulate', '2', ...args);
    const DROPOUT = ['--lora', '--lora-dropout', '0.1'];
    /** After a wish to stop and --resume, a run must write the metrics of an uninterrupted run. */
    const goesOn = async (name: string, args: typeof adapters, stopped: Finished, code: number): Promise<void> => {
      expect(stopped.code, stopped.stderr).to.equal(code);
      expect(stopped.stdout).to.match(/Stopping after this step[^]*Stopped after step \d of 6\. Go on with --resume/);
      expect(await succeeds(args(name, '--resume'))).to.match(/from step \d/);
      await succeeds(args(`${name}_whole`));
      expect(numbers(name)).to.deep.equal(numbers(`${name}_whole`));
    };
    const again = once(async () => {
      // Twice, as npm passes on a signal that its process group gets too.
      const terminate = 'if (/^step 1.6/.test(line)) [1, 2].map(() => process.kill(process.pid, "SIGTERM"))';
      const stopped = await finish(start(adapters('again'), {env: onEachLine(terminate)}));
      await goesOn('again', adapters, stopped, 143);
      return output('again');
    });

    it('goes on with the identical losses: adapters with dropout, accumulation, several epochs', async () => {
      await again();
      await fails(/--resume: all 6 steps are done/, adapters('again', '--resume'));
    });

    it('goes on with the identical losses: all weights, with the reference of before training', async () => {
      const args = (name: string, ...more: string[]): string[] =>
        trainingOf('dpo', name, comparisons, ...SIX_STEPS, '--learning-rate', '0.001', ...more);
      const stopped = await command(args('again_dpo'), {onOutput: interruptAt('step 1/6')});
      await goesOn('again_dpo', args, stopped, 130);
      await fails(/--resume: all 6 steps are done/, args('again_dpo', '--resume'));
    });

    it('goes on with more steps: a longer schedule after the same warm-up, and the identical losses again', async () => {
      const args = (name: string, steps: number, ...more: string[]): string[] =>
        trainingOf(
          'sft',
          name,
          instructions,
          ...['--steps', String(steps), '--warmup-ratio', '0.5'],
          ...DROPOUT,
          ...more,
        );
      await succeeds(args('longer', 2));
      cpSync(output('longer'), output('longer_stopped'), {recursive: true});
      const rate = (step: number, steps: number): number => learningRate(step, steps, 0.01, 1);
      const stdout = await succeeds(args('longer', 4, '--resume'));
      expect(stdout).to.include(
        `Schedule 4 steps in place of 2: step 3 has the learning rate ${rate(2, 4).toExponential(2)}, not 1.00e-3; ` +
          'warm-up and peak stay, and it falls until step 4\n',
      );
      expect(metricsOf('longer').map((record) => record.learning_rate)).to.deep.equal([
        ...[rate(0, 2), rate(1, 2), rate(2, 4), rate(3, 4)],
      ]);
      const stopped = await command(args('longer_stopped', 4, '--resume'), {onOutput: interruptAt('step 3/4')});
      expect(stopped.code, stopped.stderr).to.equal(130);
      expect(await succeeds(args('longer_stopped', 4, '--resume'))).to.not.include('Schedule');
      expect(numbers('longer_stopped')).to.deep.equal(numbers('longer'));
      await fails(
        /--resume: 4 steps are done, which is more than the 3 asked for, see .*checkpoint-4\. Give more --steps than 4/,
        args('longer', 3, '--resume'),
      );
    });

    it('passes over a damaged checkpoint, and refuses those of another model, data or settings', async () => {
      cpSync(await again(), output('damaged'), {recursive: true});
      truncateSync(join(output('damaged'), 'checkpoint-6', 'optimizer.safetensors'), 1000);
      const {code, stdout, stderr} = await command(adapters('damaged', '--resume'));
      expect(code, stderr).to.equal(0);
      expect(stderr).to.match(/Passed over .*checkpoint-6: optimizer.safetensors is not as it was written/);
      expect(stdout).to.match(/from step 5/);
      expect(numbers('damaged')).to.deep.equal(numbers('again_whole'));

      const other = output('other_model');
      await writeTinyModel(other, 2);
      const refuses = (message: RegExp, ...args: string[]): Promise<Finished> =>
        fails(message, adapters('damaged', '--resume', ...args));
      await refuses(/is a checkpoint of another model/, '--model', other);
      const reworded = output('reworded_model');
      cpSync(model, reworded, {recursive: true});
      const config = join(reworded, 'tokenizer_config.json');
      writeFileSync(config, readFileSync(config, 'utf8').replace('Be brief', 'Be short'));
      await refuses(/trains .*reworded_model, with another chat template\./, '--model', reworded);
      await refuses(/lora-rank was 8 and is 4/, '--lora-rank', '4');
      const changed = output('changed.jsonl');
      copyFileSync(instructions, changed);
      writeFileSync(changed, readFileSync(changed, 'utf8').replace('Hello, Ada!', 'Bye, Ada!'));
      await refuses(/data was .* and is .*; data file was/, '--data', changed);
      await fails(/checkpoint-6 is there already\. Go on with --resume/, adapters('damaged'));
    });

    it('is not asked for where Ctrl-C came in the last step', async () => {
      const args = trainingOf('sft', 'last', instructions, '--steps', '2');
      const {code, stdout, stderr} = await command(args, {onOutput: interruptAt('step 2/2')});
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/Stopping after this step[^]*checkpoint-2\n[^]*Charts[^]*Done in/);
      expect(stdout).to.not.include('--resume');
    });

    it('finds a checkpoint where nobody read the output any more', async () => {
      const args = trainingOf(
        'sft',
        'unread',
        instructions,
        '--lora',
        ...'--steps 50 --save-every 50 --keep-activations never'.split(' '),
      );
      const child = start(args);
      // This is the last text before training. A closed output ends the process at once until then.
      child.stdout!.on('data', (text: Buffer) => text.includes('Training 50 steps') && child.stdout!.destroy());
      const {code, stderr} = await finish(child);
      expect(code, stderr).to.equal(141);
      expect(stderr).to.not.match(/EPIPE|\n {4}at /);
      // The first step is the next to write, so it is the latest to notice.
      expect(readdirSync(output('unread')).sort()).to.deep.equal(['checkpoint-1', 'metrics.jsonl']);
    });

    it('leaves the last good checkpoint when it is killed', async () => {
      const args = trainingOf('sft', 'killed', instructions, '--lora', '--steps', '12', '--save-every', '1');
      const killed = JSON.stringify(join(output('killed'), 'checkpoint-5'));
      // The process checks for the checkpoint itself: a check from outside might come too late.
      const child = start(args, {
        env: preload(`import {existsSync} from 'node:fs';
          setInterval(() => existsSync(${killed}) && process.kill(process.pid, 'SIGKILL'), 1).unref();`),
      });
      await finish(child);
      expect(child.signalCode).to.equal('SIGKILL');
      expect(await succeeds([...args, '--resume'])).to.match(/from step \d+/);
      expect(metricsOf('killed').map(({global_step: step}) => step)).to.deep.equal(
        Array.from({length: 12}, (_, i) => i + 1),
      );
    });
  });

  describe('errors', () => {
    const sft = (...args: string[]): string[] => ['sft', '--model', model, '--output', output('none'), ...args];
    const ofModel = (folder: string, ...args: string[]): string[] => [
      'sft',
      '--model',
      folder,
      '--backend',
      'cpu',
      ...args,
    ];
    const withData = (name: string, text: string): string[] => {
      const file = join(folder, name);
      writeFileSync(file, text);
      return sft('--data', file, '--backend', 'cpu', '--steps', '1', '--row-tokens', '64');
    };

    it('of options', async () => {
      await fails(
        /'--steps <number>' argument '0' is invalid\. It should be a whole number, at least 1/,
        sft('--steps', '0'),
      );
      await fails(/'--lora-targets <names>' argument 'q_prj' is invalid/, sft('--lora-targets', 'q_prj'));
      await fails(/unknown option '--beta'/, sft('--beta', '1'));
      await fails(/--resume: there is no checkpoint in/, sft('--data', instructions, '--resume', '--backend', 'cpu'));
      await fails(/required option '--prompt <text>' not specified/, ['generate']);
      await fails(
        /--report-to tensorboard: TensorFlow writes the events, so the backend must be tensorflow, got webgpu\. Run: npx tfjs-flashmask setup-node\./,
        sft('--report-to', 'tensorboard', '--backend', 'webgpu'),
      );
      expect(existsSync(output('none'))).to.equal(false);
      await fails(/--eval-steps: there is nothing to measure on\. Give --eval-samples/, sft('--eval-steps', '5'));
      await fails(/--output: .* is there already/, ['merge', '--adapter', model, '--output', folder]);
    });

    it('are the same in a process of their own', async () => {
      for (const args of [sft('--beta', '1'), ['--help']]) {
        expect(await finish(start(args))).to.deep.equal(await command(args));
      }
    });

    it('of models', async () => {
      await fails(/There is no model "nowhere"/, ofModel('nowhere'));
      const broken = output('broken');
      cpSync(model, broken, {recursive: true});
      truncateSync(join(broken, 'model.safetensors'), 5000);
      await fails(/model\.safetensors/, ofModel(broken));
      const unknown = output('unknown');
      await writeTinyModel(unknown);
      const config = JSON.parse(readFileSync(join(unknown, 'config.json'), 'utf8')) as Record<string, unknown>;
      const changeConfig = (fields: object): void =>
        writeFileSync(join(unknown, 'config.json'), JSON.stringify({...config, ...fields}));
      changeConfig({model_type: 'gpt_neox', architectures: []});
      await fails(/model_type must be .* got "gpt_neox"/, ofModel(unknown));
      changeConfig({vocab_size: 100});
      await fails(/belongs to another model/, ofModel(unknown, '--data', instructions));
    });

    it('of data', async () => {
      await fails(/--data: there is no nowhere\.jsonl/, sft('--data', 'nowhere.jsonl', '--backend', 'cpu'));
      await fails(/--data: .*table\.csv is a CSV file, which is not read/, withData('table.csv', 'text\nHello'));
      const good = '{"instruction": "Greet Bo.", "output": "Hello, Bo!"}\n';
      const wrong = '{"question": "Why?"}\n'.repeat(9);
      await fails(/wrong\.jsonl, line 1: a record of an unknown shape/, withData('wrong.jsonl', wrong));
      const held = [...withData('held.jsonl', good + wrong), '--eval-samples', '4'];
      await fails(/held\.jsonl, line 2: a record of an unknown shape/, held);
      await fails(/bad\.jsonl, line 2: .*--skip-bad/, withData('bad.jsonl', `${good}{"instruction": \n${good}`));
      await fails(/has nothing to learn from: of 0 records/, withData('empty.jsonl', ''));
      await fails(/samples of 65 tokens do not fit rows of 64\. Give as many --row-tokens/, [
        ...withData('good.jsonl', good),
        ...['--max-tokens', '65'],
      ]);
      await fails(/nothing to learn from: of 0 records after the first 1, which are held out/, [
        ...withData('good.jsonl', good),
        ...['--eval-samples', '1'],
      ]);
      await fails(/this is a conversation with one/, ['dpo', ...withData('kind.jsonl', good).slice(1)]);
      const bad = ['--skip-bad', '--eval-samples', '2', '--output', output('skip')];
      const items = `nonsense\n${good}${good}nonsense\n${good}`;
      const {stdout: skipped, stderr} = await command([...withData('skip.jsonl', items), ...bad]);
      expect(skipped).to.match(
        /2 samples of 3 records; 1 unreadable ones skipped; the first 2 held out, 1 of them used/,
      );
      expect(stderr.match(/Skipped/g), 'told once').to.have.length(1);
      const long = `{"instruction": "Greet Bo.", "output": "${'Hello, Bo! '.repeat(40)}"}\n`;
      const cut = await succeeds([...withData('long.jsonl', good + long), '--output', output('cut')]);
      expect(cut).to.match(/1 cut to 64 tokens/);
      const drop = ['--too-long', 'drop', '--output', output('drop')];
      const dropped = await succeeds([...withData('long.jsonl', good + long), ...drop]);
      expect(dropped).to.match(/1 longer than 64 tokens left out/);
    });

    it('of a loss that is no number: nothing of it is saved', async () => {
      const args = ['--steps', '8', '--save-every', '1', '--warmup-ratio', '0', '--learning-rate', '1e30'];
      await fails(
        /The loss of step 2 is .*(NaN|Infinity).*checkpoint-1 is the last good checkpoint\. Start again with a lower --learning-rate/,
        ['sft', '--model', model, '--output', output('nan'), '--data', instructions, '--backend', BACKEND, ...args],
      );
      expect(readdirSync(output('nan'))).to.deep.equal(['checkpoint-1', 'metrics.jsonl']);
    });
  });

  describe('against peft and transformers', function () {
    const python = process.env.FLASHMASK_PYTHON ?? 'python3';
    before(function () {
      const probe = spawnSync(python, ['-c', 'import peft'], {encoding: 'utf8'});
      if (probe.status !== 0) {
        skip(this, probe.error?.message ?? `${python}: ${probe.stderr.trim().split('\n').at(-1)}`);
      }
    });
    /** Python's rewards or greedy text for the same base and adapter. */
    const judge = (...args: string[]): string => {
      const {status, stdout, stderr} = spawnSync(python, [JUDGE, ...args], {
        encoding: 'utf8',
      });
      expect(status, stderr).to.equal(0);
      return stdout.trim();
    };

    it('an adapter and a merged model say the same in Python', async () => {
      const adapter = join(await trained.lora(), 'checkpoint-24');
      const args = ['--prompt', 'Call Kit.', '--max-new-tokens', '24', '--backend', BACKEND];
      const said = (await succeeds(['generate', '--adapter', adapter, ...args])).trim();
      expect(judge('generate', model, adapter, 'Call Kit.')).to.equal(said);
      expect(judge('generate', await trained.merged(), '', 'Call Kit.')).to.equal(said);
    });

    it('a reward model scores the same in Python', async () => {
      const adapter = join(await trained.rm(), 'checkpoint-24');
      const scored = await succeeds([
        ...['score', '--adapter', adapter, '--prompt', 'Greet Zoe.', '--backend', BACKEND],
        ...['--answers', 'Hello, dear Zoe!', 'What, Zoe?'],
      ]);
      const rewards = scored.match(/-?\d+\.\d{4}/g)!.map(Number);
      const wanted = judge('score', model, adapter, 'Greet Zoe.', 'Hello, dear Zoe!', 'What, Zoe?')
        .split('\n')
        .map(Number);
      rewards.forEach((reward, i) => expect(reward).to.be.closeTo(wanted[i], 1e-3));
    });
  });
});
