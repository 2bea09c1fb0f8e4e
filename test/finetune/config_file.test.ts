/** @file `--config`: options of a training run from a YAML file. */
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import {Command} from 'commander';
import {applyConfig} from '../../examples/finetune/commands/config.js';
import {type TrainOptions, addTrainCommand, defaultOptions} from '../../examples/finetune/commands/train_options.js';
import {fails} from '../support/finetune_command.js';

describe('options from a YAML file', () => {
  let folder: string;
  before(() => (folder = mkdtempSync(join(tmpdir(), 'finetune-config-'))));
  after(() => rmSync(folder, {recursive: true}));

  const write = (text: string): string => {
    const path = join(folder, 'run.yaml');
    writeFileSync(path, text);
    return path;
  };

  /** The options of a run with this file, and with these on the command line. */
  async function optionsOf(objective: 'sft' | 'dpo' | 'rm', text: string, ...args: string[]): Promise<TrainOptions> {
    const found: (TrainOptions & {config?: string})[] = [];
    const program = new Command().exitOverride().hook('preAction', (_, command) => applyConfig(command));
    addTrainCommand(program, objective, async (options) => void found.push(options));
    await program.parseAsync([objective, ...args, '--config', write(text)], {from: 'user'});
    delete found[0].config;
    return found[0];
  }

  it('are those of the command line, by the same names or with underscores', async () => {
    const text = `
# A run of adapters.
model: my-model
data: pairs.jsonl
lora: true
lora_targets: [v_proj, q_proj]
steps: 30
learning-rate: 1e-3
too-long: drop
share-questions: false
keep-activations: true
report_to: tensorboard
compare: all
prompt: "1"
`;
    expect(await optionsOf('dpo', text)).to.deep.equal({
      ...defaultOptions('dpo'),
      ...{model: 'my-model', data: 'pairs.jsonl', lora: true, loraTargets: ['q_proj', 'v_proj'], steps: 30},
      ...{
        learningRate: 1e-3,
        tooLong: 'drop',
        shareQuestions: false,
        keepActivations: 'always',
        reportTo: 'tensorboard',
      },
      ...{compare: Infinity, prompt: '1'},
    });
    expect(await optionsOf('sft', '# nothing\n')).to.deep.equal(defaultOptions('sft'));
    const rate = {...defaultOptions('sft'), lora: true, learningRate: 2e-4};
    expect(await optionsOf('sft', 'lora: true'), 'defaults follow').to.deep.equal(rate);
  });

  it('give way to the command line', async () => {
    const text = 'steps: 30\nseed: 5\nlora: false\nshare-questions: true';
    const args = ['--seed', '0', '--lora', '--no-share-questions'];
    expect(await optionsOf('rm', text, ...args)).to.deep.include({
      ...{steps: 30, seed: 0, lora: true, shareQuestions: false},
    });
  });

  const wrong: [text: string, message: RegExp][] = [
    ['steps: 3\nlerning-rate: 1', /run\.yaml, line 2: sft has no option lerning-rate\. Add --help/],
    ['beta: 0.1', /line 1: sft has no option beta/],
    ['config: x.yaml', /line 1: sft has no option config/],
    ['no-share-questions: true', /line 1: sft has no option no-share-questions/],
    ['seed: 1\n\nsteps: 0', /line 3: steps is 0\. It should be a whole number, at least 1/],
    ['steps: "30"', /line 1: steps is "30"\. It should be a number without quotes/],
    ['steps: many', /line 1: steps is "many"\. It should be a whole number/],
    ['steps:', /line 1: steps is null\. It should be a text or a number/],
    ['lora: 8', /line 1: lora is 8\. It should be true or false/],
    ['output: 3', /line 1: output is 3\. It should be a text/],
    ['too-long: shorten', /line 1: too-long is "shorten"\. Allowed choices are cut, drop/],
    ['lora-targets: [q_prj]', /line 1: lora-targets is \["q_prj"\]\. q_prj should be all, or some of/],
    ['steps: 3\nsteps: 4', /line 2: this is not YAML: Map keys must be unique/],
    ['steps: [', /line 1: this is not YAML/],
    ['- steps', /line 1: a file of options has one "name: value" on each line/],
  ];
  for (const [text, message] of wrong) {
    it(`are refused for ${JSON.stringify(text)}`, () => fails(message, ['sft', '--config', write(text)]));
  }

  it('are refused where there is no such file', () =>
    fails(/--config: no\.yaml cannot be read/, ['sft', '--config', 'no.yaml']));
});
