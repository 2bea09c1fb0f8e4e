/** @file What `npm run finetune` sets up before a command: nothing, unless the command runs on tfjs-node. */
import {readFileSync} from 'node:fs';
import {expect} from 'chai';
import {run} from '../../examples/finetune/command_line.js';
import type {Io} from '../../examples/finetune/io.js';

describe('the set-up of npm run finetune', () => {
  /** Exit code, output and how often tfjs-node would have been set up. The set-up itself ends the command. */
  async function outcome(...args: string[]): Promise<{code: number; text: string; setUps: number}> {
    let [text, setUps] = ['', 0];
    const add = (more: string): void => void (text += `${more}\n`);
    const io: Io = {write: add, say: add, warn: add, terminal: null, onStop: () => () => {}};
    const code = await run(args, io, () => {
      setUps++;
      throw new Error('set up');
    });
    return {code, text, setUps};
  }

  it('does nothing for help, unknown commands, wrong options and missing ones', async () => {
    for (const [args, code, text] of [
      [['--help'], 0, /Usage: npm run finetune -- .*\n[^]*sft \[options\]/],
      [['demo', '--help'], 0, /Usage: npm start -- \[options\]/],
      [['sft', '--help'], 0, /--learning-rate <number>/],
      [['tune'], 1, /unknown command 'tune'/],
      [['sft', '--stepps', '3'], 1, /unknown option '--stepps'/],
      [['dpo', '--steps', 'many'], 1, /'--steps <number>' argument 'many' is invalid/],
      [['generate'], 1, /required option '--prompt <text>' not specified/],
    ] as const) {
      const result = await outcome(...args);
      expect(result.text).to.match(text);
      expect([result.code, result.setUps], args.join(' ')).to.deep.equal([code, 0]);
    }
  });

  it('does nothing for merge and for backends without tfjs-node', async () => {
    for (const args of [
      ['merge', '--adapter', 'no/such/adapter', '--output', 'package.json'],
      ['sft', '--backend', 'cpu', '--model', 'no/such/folder', '--output', 'package.json'],
    ]) {
      const {code, text, setUps} = await outcome(...args);
      expect(text).to.match(/^Error: .*package\.json/m);
      expect([code, setUps]).to.deep.equal([1, 0]);
    }
  });

  it('sets tfjs-node up for commands that take it', async () => {
    const prompt = ['--prompt', 'Hello'];
    for (const args of [
      ['sft'],
      ['rm', '--backend', 'tensorflow'],
      ['generate', ...prompt],
      ['score', ...prompt, '--answers', 'a'],
    ]) {
      expect(await outcome(...args), args.join(' ')).to.deep.equal({code: 1, text: 'Error: set up\n', setUps: 1});
    }
  });

  it('is left to the command by the script of package.json', () => {
    const {scripts} = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      scripts: Record<string, string>;
    };
    expect(scripts.finetune).to.match(/^node scripts\/setup\.mjs && node .*main\.ts --set-up$/);
    expect(scripts.start).to.match(/^node scripts\/setup\.mjs && node .*main\.ts --set-up demo$/);
  });
});
