/**
 * @file Data parallel training: batches are dealt by live work; several ranks have the losses of one process with as
 * much accumulation, also with divided optimizer states and after a resume on another number of ranks; they stop
 * together, and every error reaches all of them. Ranks are threads here, on the backend cpu.
 */
import {mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {openSharedOutput} from '../../examples/finetune/commands/shared_output.js';
import {Session, processIo} from '../../examples/finetune/io.js';
import {deal} from '../../examples/finetune/train/dealing.js';
import type {MetricsRecord} from '../../examples/finetune/train/metrics.js';
import {alone} from '../../examples/finetune/train/ranks.js';
import {sharingOf} from '../../examples/finetune/train/sharing.js';
import {liveTiles} from '../../examples/finetune/train/work.js';
import type {ProcessGroup} from '../../src/distributed/process_group.js';
import {soloGroup} from '../../src/distributed/solo_group.js';
import {masks} from '../../src/entries/index.js';
import {full} from '../support/full.js';
import {command, interruptAt, succeeds} from '../support/finetune_command.js';
import {writeComparisons, writeInstructions, writeTinyModel} from '../support/finetune_tiny.js';
import {seeded} from '../support/random.js';
import {type EndedThread, TrainingThreads} from '../support/training_threads.js';

/** Fields of a model that JavaScript computes fast. */
const SMALL = {
  ...{num_hidden_layers: 1, hidden_size: 16, intermediate_size: 24},
  ...{num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8},
};

describe('fine-tuning: the batches of a step are dealt to ranks', () => {
  it('gives the heaviest to the lightest rank with room, and all ranks as many', () => {
    expect(deal([5, 1, 3, 4], 2)).to.deep.equal([
      [0, 1],
      [2, 3],
    ]);
    // The lightest rank has no room for a third.
    expect(deal([9, 1, 1, 1], 2)).to.deep.equal([
      [0, 3],
      [1, 2],
    ]);
    expect(deal([2, 2, 2], 3)).to.deep.equal([[0], [1], [2]]);
    expect(deal([1, 2], 3)).to.deep.equal([[1], [0], []]);
    expect(deal([], 2)).to.deep.equal([[], []]);
  });

  it('deals each batch once, and never worse than in order', () => {
    const random = seeded('deal');
    for (let round = 0; round < 200; round++) {
      const [ranks, each] = [1 + Math.floor(8 * random()), 1 + Math.floor(6 * random())];
      const work = Array.from({length: ranks * each}, () => Math.floor(100 * random()));
      const dealt = deal(work, ranks);
      expect(dealt.flat().sort((a, b) => a - b)).to.deep.equal([...work.keys()]);
      dealt.forEach((batches) => expect(batches).to.have.length(each));
      const heaviest = (parts: number[][]): number =>
        Math.max(...parts.map((batches) => batches.reduce((sum, batch) => sum + work[batch], 0)));
      // An optimal schedule is at least as long as both; dealing by work is at most one batch longer.
      const least = Math.max(Math.max(...work), work.reduce((sum, one) => sum + one, 0) / ranks);
      expect(heaviest(dealt)).to.be.at.most(least + Math.max(...work));
    }
  });

  it('counts the tiles that attention computes', () => {
    const documents = [
      masks.causalDocument([[200, 56, 1, 300]], {padTo: 700}),
      masks.causalDocument([[640], [64, 64, 64]], {padTo: 640}),
      masks.sharedQuestion([[[40, 30, 200]]], {padTo: 384}),
    ];
    for (const mask of documents) {
      const [queries, keys] = [mask.queryLength, mask.keyLength].map((length) => Math.ceil(length / 128));
      const {emptyTiles} = mask.sparsity({blockQ: 128, blockK: 128});
      expect(liveTiles(mask, 128)).to.be.closeTo((1 - emptyTiles) * mask.batch * queries * keys, 1e-6);
    }
  });
});

describe('fine-tuning: ranks share a step of the optimizer', () => {
  const MEBI = 2 ** 20;
  before(() => tf.setBackend('cpu'));

  /** A rank of two that have the same tensors, and the sizes of what it sends. */
  function twin(rank: number): {group: ProcessGroup; sent: number[]} {
    const sent: number[] = [];
    const sending =
      <T extends tf.Tensor>(received: (x: T) => tf.Tensor) =>
      (x: T): T => {
        sent.push(x.size);
        return received(x) as T;
      };
    const group = {
      ...{...soloGroup, rank, size: 2},
      allReduce: sending((x) => x.mul(2)),
      reduceScatter: sending((x) => x.mul(2).slice([rank, 0], [1, -1])),
      allGather: sending((x) => tf.concat([x, x])),
    };
    return {group: group as ProcessGroup, sent};
  }
  /** Elements 0, 1, 2, ... of a shape. */
  const counted = (...shape: number[]): tf.Tensor => tf.range(0, tf.util.sizeFromShape(shape)).reshape(shape);
  const values = (tensors: readonly tf.Tensor[]): number[][] => tensors.map((tensor) => [...tensor.dataSync()]);

  it('joins gradients up to 16 MB, and leaves larger ones alone', () => {
    const {group, sent} = twin(0);
    tf.tidy(() => {
      const sizes = [3 * MEBI, MEBI, 5 * MEBI, 6, 7];
      const sums = sharingOf(group, {divided: false}).sum(sizes.map((size) => tf.fill([1, size], size)));
      expect(sent).to.deep.equal([4 * MEBI, 5 * MEBI, 13]);
      expect(sums.map(({shape}) => shape)).to.deep.equal(sizes.map((size) => [1, size]));
      sums.forEach((sum, i) => expect(sum.mean().dataSync()[0]).to.equal(2 * sizes[i]));
    });
  });

  it('divides every tensor into equal pieces, with zeros behind the last', () => {
    const tensors = [counted(2, 3), counted(5), counted(1)];
    const shapes = tensors.map(({shape}) => shape);
    const pieces = [[[0, 1, 2], [0, 1, 2], [0]], [[3, 4, 5], [3, 4, 0], [0]]]; // prettier-ignore
    for (const rank of [0, 1]) {
      const {group, sent} = twin(rank);
      const sharing = sharingOf(group, {divided: true});
      tf.tidy(() => {
        const own = tensors.map((tensor) => sharing.piece(tensor));
        expect(values(own)).to.deep.equal(pieces[rank]);
        expect(values(sharing.sum(tensors))).to.deep.equal(pieces[rank].map((piece) => piece.map((x) => 2 * x)));
        const whole = sharing.whole(own, shapes);
        expect(whole.map(({shape}) => shape)).to.deep.equal(shapes);
        const twice = pieces[rank].map((piece, i) => [...piece, ...piece].slice(0, tensors[i].size));
        expect(values(whole)).to.deep.equal(twice);
        expect(sent).to.deep.equal([14, 7]);
      });
    }
    tf.dispose(tensors);
  });
});

// One of four whole runs had a thread that did not come to a call, for a reason that is not known yet. Processes do the
// same in launched.test.ts.
const withThreads = full ? describe : describe.skip;

withThreads(`fine-tuning: several ranks${full ? '' : ' (FLASHMASK_FULL=1 runs their threads)'}`, () => {
  let folder: string;
  let comparisons: string;
  let instructions: string;
  let two: TrainingThreads;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'flashmask-ranks-'));
    await writeTinyModel(join(folder, 'model'), 1, SMALL);
    instructions = writeInstructions(folder);
    comparisons = writeComparisons(folder);
    two = await TrainingThreads.start(2);
  });
  after(async () => {
    await two.end();
    rmSync(folder, {recursive: true, force: true});
  });

  const metricsOf = (name: string): MetricsRecord[] =>
    readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as MetricsRecord);
  const argsOf = (objective: string, name: string, ...args: string[]): string[] => [
    ...[objective, '--model', join(folder, 'model'), '--output', join(folder, name), '--backend', 'cpu'],
    ...['--data', objective === 'sft' ? instructions : comparisons, '--row-tokens', '128', '--learning-rate', '0.01'],
    ...(args.includes('--steps') ? [] : ['--steps', '2']),
    ...args,
  ];
  const endsWell = (ends: readonly EndedThread[], code = 0, team = ends.length): void => {
    // All at once: what one waits for in vain is told by another's error.
    expect(ends.map((ended) => [ended.error, ended.code])).to.deep.equal(ends.map(() => [null, code]));
    // All make the same calls, or they would wait for each other.
    ends.forEach(({calls}, rank) => expect(calls).to.deep.equal(ends[rank - (rank % team)].calls));
  };
  /** The kinds of collectives that a rank has called. */
  const kindsOf = ({calls}: EndedThread): string[] =>
    [...new Set(calls.map((call) => call.split(' ')[0]))].filter((kind) => kind !== 'exchange');
  /** Everything of a step but what depends on time, to so many digits or all. */
  const numbersOf = (name: string, digits = 17): Record<string, number>[] =>
    metricsOf(name).map((record) => {
      const numbers = Object.entries(record).filter(([key]) => key !== 'tokens_per_second');
      return Object.fromEntries(numbers.map(([key, value]) => [key, Number(value.toPrecision(digits))]));
    });

  it('have the numbers of one process with as much accumulation, to the last digit', async () => {
    const kinds: [objective: string, args: string[]][] = [
      ['sft', ['--eval-samples', '4', '--eval-steps', '2', '--weight-decay', '0.1', '--batch-rows', '2']],
      ['dpo', ['--eval-samples', '2']],
      ['rm', ['--lora', '--lora-dropout', '0.2', '--centering', '0.01', '--compare', '1']],
    ];
    for (const [i, [objective, args]] of kinds.entries()) {
      await succeeds(argsOf(objective, `one_${i}`, ...args, '--accumulate', '2'));
      const ends = await two.train({args: argsOf(objective, `two_${i}`, ...args)});
      endsWell(ends);
      expect(numbersOf(`two_${i}`), args.join(' ')).to.deep.equal(numbersOf(`one_${i}`));
      expect(kindsOf(ends[0])).to.deep.equal(['allReduce']);
      expect(ends[0].stdout).to.match(/Training 2 steps of \d rows on 2 ranks/);
    }
    expect(readdirSync(join(folder, 'two_1')).sort()).to.deep.equal(readdirSync(join(folder, 'one_1')).sort());
  });

  it('have these numbers with divided states to rounding, also three ranks that deal six batches', async () => {
    const args = ['--weight-decay', '0.1', '--accumulate'];
    await succeeds(argsOf('sft', 'six', ...args, '6'));
    const three = await TrainingThreads.start(3);
    const ends = await three.train({args: argsOf('sft', 'divided', ...args, '2', '--shard-optimizer')});
    await three.end();
    endsWell(ends);
    expect(numbersOf('divided', 5)).to.deep.equal(numbersOf('six', 5));
    expect(kindsOf(ends[0])).to.deep.equal(['reduceScatter', 'allReduce', 'allGather']);
  });

  it('have these numbers to rounding where two ranks share each row, also two such pairs', async () => {
    const four = await TrainingThreads.start(4);
    const kinds: [objective: string, threads: TrainingThreads, alone: string[], args: string[]][] = [
      ['sft', four, ['--accumulate', '2'], ['--eval-samples', '6', '--batch-rows', '2']],
      ['dpo', two, [], ['--lora', '--eval-samples', '2']],
      ['rm', two, [], ['--lora', '--centering', '0.01', '--batch-rows', '2']],
    ];
    try {
      for (const [objective, threads, alone, args] of kinds) {
        await succeeds(argsOf(objective, `${objective}_whole`, ...args, ...alone));
        const ends = await threads.train({
          args: argsOf(objective, `${objective}_shared`, ...args, '--context-parallel', '2'),
        });
        endsWell(ends, 0, 2);
        expect(ends[0].stdout).to.match(/Training 2 steps of \d rows? on \d ranks, 2 for each row/);
        expect(numbersOf(`${objective}_shared`, 4), objective).to.deep.equal(numbersOf(`${objective}_whole`, 4));
      }
    } finally {
      await four.end();
    }
  });

  it('go on where another number of ranks stopped, with the same numbers', async () => {
    const args = ['--steps', '4', '--lora', '--lora-dropout', '0.1'];
    await succeeds(argsOf('sft', 'uninterrupted', ...args, '--accumulate', '2'));
    const onTwo = argsOf('sft', 'parts', ...args, '--shard-optimizer');
    const stopped = await two.train({args: onTwo, stopped: 1});
    // Rank 1 alone was asked; both have stopped after the first step, with the exit code of its reason.
    endsWell(stopped, 130);
    expect(stopped[0].stdout).to.include('Stopped after step 1 of 4. Go on with --resume.');
    const onOne = argsOf('sft', 'parts', ...args, '--accumulate', '2', '--resume');
    expect((await command(onOne, {onOutput: interruptAt('step 2/4')})).code).to.equal(130);
    endsWell(await two.train({args: [...onTwo, '--resume']}));
    expect(numbersOf('parts', 5)).to.deep.equal(numbersOf('uninterrupted', 5));
    const other = await command(argsOf('sft', 'parts', ...args, '--resume'));
    expect(other.stderr).to.match(/accumulate was 2 and is 1/);
  });

  it('fail together, with one message, before they train', async () => {
    const refused = async (message: RegExp, args: string[], more?: Record<number, string[]>): Promise<void> => {
      const ends = await two.train({args, more});
      ends.forEach(({error, shared}) => {
        expect(error).to.match(message);
        expect(shared).to.equal(true);
      });
      expect(ends[1].error).to.equal(ends[0].error);
    };
    const args = argsOf('sft', 'refused');
    await refused(/^--seed is 0 on rank 0 and 1 on rank 1\. Give all ranks the same options\.$/, args, {
      1: ['--seed', '1'],
    });
    await refused(/^2 ranks with --batch-rows 9 need at least 18 rows, but .* has \d+ in an epoch/, [
      ...args,
      '--batch-rows',
      '9',
    ]);
    await refused(/^--context-parallel 3: as many ranks must share each row, and 2 cannot/, [
      ...args,
      '--context-parallel',
      '3',
    ]);
    const inTwo = [...args, '--context-parallel', '2'];
    await refused(/^--context-parallel 2: dense attention, which --compare asks for/, [...inTwo, '--compare', '1']);
    await refused(/^--context-parallel 2: --row-tokens must be a multiple of it, got 127/, [
      ...inTwo,
      '--row-tokens',
      '127',
    ]);
    await refused(/^--resume: there is no checkpoint in .*refused/, [...args, '--resume']);
    await refused(/^--data: there is no missing\.jsonl/, [...args, '--data', 'missing.jsonl']);
    await refused(/^The loss of step \d is (NaN|\d.*), .*lower --learning-rate/, [...args, '--learning-rate', '1e30']);
  });

  it('need one output folder', async () => {
    const there = {rank: 1, size: 2, exchange: <T>(own: T) => Promise.resolve([{value: 'of rank 0'} as T, own])};
    const opened = openSharedOutput(
      join(folder, 'elsewhere'),
      new Session(processIo),
      {...alone, ...there},
      {patience: 0},
    );
    const error = await opened.then(String, String);
    expect(error).to.match(/^Error: rank 1: --output: .*elsewhere must be one folder of all ranks, got another/);
  });
});
