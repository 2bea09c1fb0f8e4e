/** @file The exact pairs that take part, forward and backward, in the cases of the table that test masks. */
import {expect} from 'chai';
import {cases, prepare} from '../support/cases.js';
import {onEachDevice} from '../support/devices.js';
import {LONGEST, backwardWeights, forwardWeights, picture, pictureOf} from '../support/pair_pictures.js';

const groups = ['empty', 'dropout', 'few queries'];
const small = cases
  .filter(({group, Sq, Sk}) => groups.includes(group) && Sq <= LONGEST && Sk <= LONGEST)
  .map((c) => prepare({...c, lse: false}));

describe('pairs that take part', () => {
  onEachDevice((device) => {
    for (const prepared of small) {
      const {B, H, group, name} = prepared.case;
      it(`${group}: ${name}`, async () => {
        const forward = await forwardWeights(prepared);
        const backward = await backwardWeights(prepared);
        expect(await device.hiddenErrors()).to.deep.equal([]);
        for (let b = 0; b < B; b++) {
          for (let h = 0; h < H; h++) {
            const expected = picture(prepared, b, h);
            expect(pictureOf(forward, prepared, b, h), `forward, batch ${b}, head ${h}`).to.deep.equal(expected);
            expect(pictureOf(backward, prepared, b, h), `backward, batch ${b}, head ${h}`).to.deep.equal(expected);
          }
        }
      });
    }
  });
});
