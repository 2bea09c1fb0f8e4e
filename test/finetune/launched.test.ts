/**
 * @file Data parallel training in processes of a launcher: two processes of MPICH have the losses of one with twice the
 * accumulation, and go on from each other's checkpoints; rank 0 speaks; what cannot run there is refused.
 */
import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect} from 'chai';
import type {MetricsRecord} from '../../examples/finetune/train/metrics.js';
import {fails, succeeds} from '../support/finetune_command.js';
import {FASTEST_BACKEND, setUpFastestBackend} from '../support/finetune_device.js';
import {writeInstructions, writeTinyModel} from '../support/finetune_tiny.js';
import {mpich} from '../support/mpich.js';
import type {Ended} from '../support/rank_training.js';
import {type Rank, runOnMpi} from '../support/ranks.js';
import {skip} from '../support/skip.js';

describe('fine-tuning under a launcher', () => {
  const second = {env: {PMI_RANK: '1', PMI_SIZE: '2'}};

  it('refuses commands and backends that several processes cannot share, with the rank', async () => {
    await fails(/^\[rank 1\] Error: score runs in one process, but MPICH has started 2\. Start it without/, [
      ...['score', '--model', 'x', '--prompt', 'x', '--answers', 'x'],
    ], second); // prettier-ignore
    const first = {env: {PMI_RANK: '0', PMI_SIZE: '2'}};
    await fails(/^Error: --backend cpu: 2 processes of MPICH .* tensorflow alone/, ['sft', '--backend', 'cpu'], first);
    await fails(/^\[rank 1\] error: unknown option '--stepz'\n\[rank 1\] /, ['sft', '--stepz', '4'], second);
  });

  describe('two processes', () => {
    let folder: string;
    let ends: Ended[][];
    let resumed: Rank[];
    const metricsOf = (name: string): MetricsRecord[] =>
      readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as MetricsRecord);
    const lossesOf = (name: string): number[][] =>
      metricsOf(name).map(({loss, grad_norm: norm, num_tokens: tokens}) => [loss, norm, tokens]);
    const argsOf = (name: string, ...args: string[]): string[] => [
      ...['sft', '--model', join(folder, 'model'), '--data', join(folder, 'instructions.jsonl')],
      ...['--output', join(folder, name), '--row-tokens', '128', '--steps', '4', ...args],
    ];
    const WHOLE = ['--learning-rate', '0.01', '--eval-samples', '4', '--weight-decay', '0.1'];
    const LORA = ['--lora', '--lora-dropout', '0.1'];

    before(async function () {
      if (FASTEST_BACKEND !== 'tensorflow') skip(this, 'several processes need tfjs-node');
      const found = await mpich();
      if ('reason' in found) return skip(this, found.reason);
      await setUpFastestBackend();
      folder = mkdtempSync(join(tmpdir(), 'flashmask-launched-'));
      await writeTinyModel(join(folder, 'model'));
      writeInstructions(folder);
      const trainings = [
        {args: argsOf('whole', ...WHOLE)},
        {args: argsOf('lora', ...LORA)},
        {args: argsOf('parts', ...WHOLE, '--shard-optimizer'), stopped: 1},
        {args: argsOf('parts', ...WHOLE, '--accumulate', '2', '--resume'), stopped: 0, alone: true},
      ];
      const program = 'test/distributed/programs/trainings.ts';
      const ranks = await runOnMpi(found.folder, {ranks: 2, program, args: [JSON.stringify(trainings)]});
      ranks.forEach(({code, stderr}) => expect(code, stderr).to.equal(0));
      ends = ranks.map(({stdout}) => stdout.trim().split('\n').map((line) => JSON.parse(line) as Ended)); // prettier-ignore
      const args = argsOf('parts', ...WHOLE, '--shard-optimizer', '--resume');
      resumed = await runOnMpi(found.folder, {ranks: 2, program: 'examples/finetune/main.ts', args});
      await succeeds(argsOf('whole_alone', ...WHOLE, '--accumulate', '2', '--backend', 'tensorflow'));
      await succeeds(argsOf('lora_alone', ...LORA, '--accumulate', '2', '--backend', 'tensorflow'));
    });
    after(() => rmSync(folder ?? '', {recursive: true, force: true}));

    const closeTo = (name: string, other: string, relative: number): void => {
      const [a, b] = [lossesOf(name).flat(), lossesOf(other).flat()];
      expect(a).to.have.length(b.length);
      a.forEach((value, i) => expect(value).to.be.closeTo(b[i], relative * Math.abs(b[i])));
    };

    it('have the losses and norms of one with twice the accumulation, all weights and LoRA', () => {
      expect(ends[0].slice(0, 2).map(({code, error}) => [code, error])).to.deep.equal([[0, null], [0, null]]); // prettier-ignore
      closeTo('whole', 'whole_alone', 1e-5);
      closeTo('lora', 'lora_alone', 1e-5);
    });

    it('stop together, and go on by the command line after one process went on, with divided states', () => {
      expect(ends.map((rank) => rank[2].code)).to.deep.equal([130, 130]);
      expect(ends[0][2].stdout).to.include('Stopped after step 1 of 4.');
      expect(ends[0][3].stdout).to.include('Stopped after step 2 of 4.');
      resumed.forEach(({code, stderr}) => expect(code, stderr).to.equal(0));
      closeTo('parts', 'whole_alone', 1e-5);
    });

    it('let rank 0 alone speak', () => {
      expect(resumed[0].stdout).to.match(/Training 4 steps of 2 rows on 2 ranks, .* from step 3\n/);
      expect(resumed[0].stdout).to.match(/Held-out loss +\d\.\d+ before, \d\.\d+ after/);
      expect(resumed[1].stdout).to.equal('');
    });
  });
});
