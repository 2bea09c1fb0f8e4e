/**
 * @file The pairs of one tile, as tfjs tensors `[B, Hkv, group * rows, columns]`: selecting the visible ones, dropout,
 * and sums over them. Hidden values are replaced by a `where` and never multiplied by 0, because 0 · NaN is NaN. This
 * holds in every derivative too.
 */
import {
  type GradSaveFunc,
  type Tensor,
  type Tensor4D,
  all,
  cast,
  customGrad,
  greater,
  isFinite,
  logicalNot,
  matMul,
  mul,
  pad,
  scalar,
  where,
  zerosLike,
} from '@tensorflow/tfjs-core';
import {roundUp} from '../../call/numbers.js';

/** The mask and the dropout of a tile's pairs. */
export interface Pairs {
  /** Bool, true where hidden; null in a full tile. */
  readonly hidden: Tensor4D | null;
  /** Dropout factors; null without dropout. */
  readonly factors: Tensor4D | null;
  /** Whether the values that are summed over pairs are known to be finite. */
  readonly finite: boolean;
}

export class Tile {
  constructor(private readonly pairs: Pairs) {}

  /** x at visible pairs, `other` at hidden ones. Only for use off the tape. */
  choose(x: Tensor4D, other: number): Tensor4D {
    const {hidden} = this.pairs;
    return hidden ? (where(hidden, scalar(other) as Tensor, x) as Tensor4D) : x;
  }

  /** x at visible pairs, 0 at hidden ones. */
  visible(x: Tensor4D): Tensor4D {
    const {hidden} = this.pairs;
    return hidden ? zeroWhere(hidden, x) : x;
  }

  /** The rows that see no key of this tile, bool `[..., rows, 1]`; null if there are no such rows. */
  blindRows(): Tensor4D | null {
    const {hidden} = this.pairs;
    return hidden && (all(hidden, -1, true) as Tensor4D);
  }

  /** Multiplies by the dropout factors, if there is dropout. */
  dropped(x: Tensor4D): Tensor4D {
    const {factors} = this.pairs;
    return factors ? mul(x, factors) : x;
  }

  /** The product of each row of a query block and each row of a key block, hidden pairs included. */
  products(rows: Tensor4D, keys: Tensor4D): Tensor4D {
    const {hidden, finite} = this.pairs;
    return hidden && !finite ? productsOfPairs(rows, keys, hidden) : matMul(rows, keys, false, true);
  }

  /** `[..., rows, channels]`: for each row the sum of x, which must be 0 where hidden, times a key block. */
  sumOverKeys(x: Tensor4D, keys: Tensor4D): Tensor4D {
    return this.sum(x, keys, false);
  }

  /** `[..., columns, channels]`: for each key the sum of x, which must be 0 where hidden, times a query block. */
  sumOverRows(x: Tensor4D, rows: Tensor4D): Tensor4D {
    return this.sum(x, rows, true);
  }

  private sum(x: Tensor4D, y: Tensor4D, transpose: boolean): Tensor4D {
    const {hidden, finite} = this.pairs;
    return hidden && !finite ? sumOverVisible(x, y, hidden, transpose) : matMul(x, y, transpose, false);
  }
}

/** x at visible pairs, 0 at hidden ones. It has its own gradient, because that of tfjs's `where` multiplies by 0. */
function zeroWhere(hidden: Tensor4D, x: Tensor4D): Tensor4D {
  return customGrad((y, save) => {
    (save as GradSaveFunc)([hidden]);
    return {
      value: where(hidden, zerosLike(y as Tensor), y as Tensor),
      gradFunc: (dy, [saved]) => zeroWhere(saved as Tensor4D, dy as Tensor4D),
    };
  })(x) as Tensor4D;
}

/** Most elements that a tfjs matMul sums in one step. */
const SUMMED_AT_ONCE = 32;

/**
 * matMul of numbers that may be NaN. If the length of the sum is no multiple of its tile, the matMul of
 * tfjs-backend-webgpu 4.22 multiplies the numbers that follow a row of x by zeros, which keeps a NaN. Padding makes
 * these numbers zeros.
 */
function paddedMatMul(x: Tensor4D, y: Tensor4D, transposeX: boolean, transposeY: boolean): Tensor4D {
  const length = x.shape[transposeX ? 2 : 3];
  const more = roundUp(length, SUMMED_AT_ONCE) - length;
  const padded = (z: Tensor4D, last: boolean): Tensor4D =>
    pad(z, [
      [0, 0],
      [0, 0],
      [0, last ? 0 : more],
      [0, last ? more : 0],
    ]) as Tensor4D;
  return more === 0
    ? matMul(x, y, transposeX, transposeY)
    : matMul(padded(x, !transposeX), padded(y, transposeY), transposeX, transposeY);
}

/**
 * x yᵀ. It has its own gradient, because that of tfjs's matMul would multiply the zeros that flow into hidden pairs.
 */
function productsOfPairs(x: Tensor4D, y: Tensor4D, hidden: Tensor4D): Tensor4D {
  return customGrad((a, b, save) => {
    (save as GradSaveFunc)([a as Tensor, b as Tensor, hidden]);
    return {
      value: paddedMatMul(a as Tensor4D, b as Tensor4D, false, true),
      gradFunc: (dy, saved) => {
        const [u, w, h] = saved as Tensor4D[];
        return [sumOverVisible(dy as Tensor4D, w, h, false), sumOverVisible(dy as Tensor4D, u, h, true)];
      },
    };
  })(x, y) as Tensor4D;
}

/**
 * x y, or xᵀ y. An element is NaN if it sees a number of y that is not finite. Numbers that it does not see have no
 * effect.
 */
function sumOverVisible(x: Tensor4D, y: Tensor4D, hidden: Tensor4D, transpose: boolean): Tensor4D {
  return customGrad((a, b, save) => {
    (save as GradSaveFunc)([a as Tensor, b as Tensor, hidden]);
    const finite = isFinite(b as Tensor);
    const clean = where(finite, b as Tensor, zerosLike(b as Tensor));
    const numbers = (x: Tensor): Tensor4D => cast(logicalNot(x), 'float32') as Tensor4D;
    const notFiniteSeen = paddedMatMul(numbers(hidden), numbers(finite), transpose, false);
    const value = where(
      greater(notFiniteSeen, scalar(0)),
      scalar(NaN) as Tensor,
      paddedMatMul(a as Tensor4D, clean as Tensor4D, transpose, false),
    );
    return {
      value,
      gradFunc: (dy, saved) => {
        const [u, w, h] = saved as Tensor4D[];
        const dPairs = transpose ? productsOfPairs(w, dy as Tensor4D, h) : productsOfPairs(dy as Tensor4D, w, h);
        return [zeroWhere(h, dPairs), sumOverVisible(u, dy as Tensor4D, h, !transpose)];
      },
    };
  })(x, y) as Tensor4D;
}
