/** @file Runs the examples in the doc comments of the builders; each builder must have one. */
import {readFileSync, readdirSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {runInNewContext} from 'node:vm';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import * as masks from '../../src/mask/builders/index.js';
import {hashOrder} from '../../src/mask/builders/selected.js';
import {isFlashMask} from '../../src/mask/is_flash_mask.js';
import {isTensor} from '../../src/call/values.js';

const folder = fileURLToPath(new URL('../../src/mask/builders/', import.meta.url));
const comments = readdirSync(folder).flatMap((name) => {
  const text = readFileSync(folder + name, 'utf8');
  return [...text.matchAll(/\/\*\*\n((?: \*.*\n)+?) \*\/\nexport function (\w+)/g)].map(([, doc, name]) => ({
    doc,
    name,
  }));
});

/** The lines of an example that use only the builders. */
function examplesOf(doc: string): string[] {
  const [, example = ''] = doc.split('@example\n');
  const lines = example.split('\n').map((line) => line.replace(/^ \* ?/, '').trim());
  return lines.filter((line) => /^(masks\.|hashOrder)/.test(line) && !line.includes('await'));
}

describe('examples of the builders', () => {
  for (const name of Object.keys(masks)) {
    it(name, () => {
      const {doc} = comments.find((comment) => comment.name === name)!;
      const examples = examplesOf(doc);
      expect(examples).to.have.length.of.at.least(1);
      for (const example of examples) {
        const made: unknown = runInNewContext(example, {masks, hashOrder, tf});
        expect(isFlashMask(made) || isTensor(made), example).to.equal(true);
      }
    });
  }
});
