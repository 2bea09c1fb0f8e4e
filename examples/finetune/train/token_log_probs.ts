/**
 * @file The log-probability that a language model gives to each label. Only the logits of one chunk of rows exist at a
 * time, as in Liger Kernel's fused linear cross-entropy (arXiv 2410.10989).
 *
 *     logits = hidden·headᵀ;  p = softmax(logits);  logProb = logits[label] - logSumExp(logits)
 *     dLogProb / dHidden = head[label] - p·head;  dLogProb / dHead = (oneHot(label) - p)ᵀ·hidden
 *
 * The first of these derivatives is no larger than `hidden`. So the forward pass computes it while the logits exist,
 * and the backward pass only scales it. A frozen head costs two matrix products in all. A trained head costs four,
 * because its gradient needs the logits again.
 */
import * as tf from '@tensorflow/tfjs';
import {placesOf, putRows} from './gather_rows.js';

const DEFAULT_CHUNK_BYTES = 64 * 2 ** 20;

/** Sums over the rows of one call. The receiver disposes these scalars. */
export interface TokenSums {
  /** Sum of the entropies of the predicted distributions, in nats. */
  entropy: tf.Scalar;
  /** Number of rows whose label is the likeliest token. */
  correct: tf.Scalar;
}

export interface TokenLogProbsOptions {
  /** Most bytes of logits at a time. Default 64 MB. On a GPU more is faster, if memory allows. */
  chunkBytes?: number;
  /** Receives the sums of this call before it returns. They are nearly free if the call is differentiated. */
  onSums?: (sums: TokenSums) => void;
}

/** Rows from `start` up to `end`. */
interface Chunk {
  start: number;
  end: number;
}

/** What the forward pass computes for some rows while their logits exist. */
interface Predictions extends tf.TensorContainerObject {
  logProbs: tf.Tensor1D;
  /** 1 where the label is the likeliest token, else 0. */
  correct: tf.Tensor1D;
  /** dLogProb / dHidden, `[rows, C]`, if asked for. */
  slopes?: tf.Tensor2D;
}

/**
 * Log-probability in nats of token `labels[i]` after row `rows[i]` of `hidden`, `[rows.length]`.
 *
 * Differentiable by `hidden`, and by `head` if that is a trainable `tf.Variable`. Any other tensor is a frozen head and
 * costs nothing. Outside of a gradient (`tf.variableGrads` and the like) it computes only the logits, with one matrix
 * product.
 *
 * @param hidden `[N, C]`
 * @param head `[V, C]`
 * @param rows Distinct rows of `hidden`.
 * @param labels As many tokens as rows, each below V.
 * @throws when there is no row, or when a row or a label does not exist
 */
export function tokenLogProbs(
  hidden: tf.Tensor2D,
  head: tf.Tensor2D,
  rows: Int32Array,
  labels: Int32Array,
  {chunkBytes = DEFAULT_CHUNK_BYTES, onSums}: TokenLogProbsOptions = {},
): tf.Tensor1D {
  const places = placesOf('tokenLogProbs', rows, hidden.shape[0]);
  checkLabels(labels, rows.length, head.shape[0]);
  const chunks = chunksOf(rows.length, chunkBytes / (4 * head.shape[0]));
  const gatherRows = () => tf.gather(hidden, tf.tensor1d(rows, 'int32'));
  if (!tf.engine().isTapeOn() && onSums === undefined) {
    return tf.tidy(() => predict(gatherRows(), head, labels, chunks, false).logProbs);
  }

  const trained = head instanceof tf.Variable && head.trainable;
  const run = tf.customGrad((...args) => {
    const save = args.at(-1) as unknown as tf.GradSaveFunc;
    const x = gatherRows();
    const {logProbs, correct, slopes} = predict(x, head, labels, chunks, true);
    onSums?.(sumsOf(x, logProbs, correct, slopes!));
    save(trained ? [slopes!, x] : [slopes!]);
    const gradFunc = (dy: tf.Tensor, [dx, saved]: tf.Tensor[]) =>
      tf.tidy(() => {
        const weights = dy.reshape([-1, 1]);
        const dHidden = putRows(dx.mul(weights), places);
        return trained ? [dHidden, headGradient(saved as tf.Tensor2D, head, labels, chunks, weights)] : [dHidden];
      });
    return {value: logProbs, gradFunc};
  });
  return (trained ? run(hidden, head) : run(hidden)) as tf.Tensor1D;
}

function checkLabels(labels: Int32Array, rows: number, vocabSize: number): void {
  if (labels.length !== rows) {
    throw new Error(`tokenLogProbs needs a label a row, got ${labels.length} labels for ${rows} rows.`);
  }
  const wrong = labels.findIndex((label) => label < 0 || label >= vocabSize);
  if (wrong >= 0) {
    throw new Error(`tokenLogProbs needs labels of [0, ${vocabSize}), got labels[${wrong}] = ${labels[wrong]}.`);
  }
}

/** The fewest chunks of at most `most` rows, of nearly equal size. */
function chunksOf(rows: number, most: number): Chunk[] {
  const count = Math.ceil(rows / Math.max(1, Math.floor(most)));
  return Array.from({length: count}, (_, i) => ({
    start: Math.floor((i * rows) / count),
    end: Math.floor(((i + 1) * rows) / count),
  }));
}

function rowsOf(x: tf.Tensor2D, {start, end}: Chunk): tf.Tensor2D {
  return x.slice([start, 0], [end - start, -1]);
}

function predict(
  x: tf.Tensor2D,
  head: tf.Tensor2D,
  labels: Int32Array,
  chunks: readonly Chunk[],
  withSlopes: boolean,
): Predictions {
  const parts = chunks.map((chunk) =>
    tf.tidy(() => predictChunk(rowsOf(x, chunk), head, labels.subarray(chunk.start, chunk.end), withSlopes)),
  );
  return {
    logProbs: tf.concat(parts.map(({logProbs}) => logProbs)),
    correct: tf.concat(parts.map(({correct}) => correct)),
    slopes: withSlopes ? tf.concat(parts.map(({slopes}) => slopes!)) : undefined,
  };
}

function predictChunk(x: tf.Tensor2D, head: tf.Tensor2D, labels: Int32Array, withSlopes: boolean): Predictions {
  const logits = tf.matMul(x, head, false, true);
  const p = tf.softmax(logits);
  const largest = logits.max(1);
  // The largest probability is at least 1/V, so its logarithm is exact. That of the label's might be infinite.
  const logSumExp = largest.sub(p.max(1).log());
  const ofLabels = tf.gather(logits.flatten(), elementsOf(labels, head.shape[0]));
  return {
    logProbs: ofLabels.sub(logSumExp),
    correct: ofLabels.greaterEqual(largest).cast('float32') as tf.Tensor1D,
    slopes: withSlopes ? tf.gather(head, tf.tensor1d(labels, 'int32')).sub<tf.Tensor2D>(tf.matMul(p, head)) : undefined,
  };
}

/** Index of each row's label in a flattened `[rows, vocabSize]`. */
function elementsOf(labels: Int32Array, vocabSize: number): tf.Tensor1D {
  return tf.tensor1d(
    labels.map((label, row) => row * vocabSize + label),
    'int32',
  );
}

/** The entropy is Σ p (logSumExp - logits) = x·slope - logProb, so it needs no second pass over the logits. */
function sumsOf(x: tf.Tensor2D, logProbs: tf.Tensor1D, correct: tf.Tensor1D, slopes: tf.Tensor2D): TokenSums {
  return {
    entropy: tf.keep(x.mul(slopes).sum().sub(logProbs.sum())),
    correct: tf.keep(correct.sum()),
  };
}

/** Σ weight (oneHot(label) - p)ᵀ·x, `[V, C]`, with `weights [rows, 1]`. */
function headGradient(
  x: tf.Tensor2D,
  head: tf.Tensor2D,
  labels: Int32Array,
  chunks: readonly Chunk[],
  weights: tf.Tensor,
): tf.Tensor2D {
  const negative = x.mul(weights).neg() as tf.Tensor2D;
  const addChunk = (earlier: tf.Tensor2D | null, chunk: Chunk): tf.Tensor2D => {
    const sum = tf.tidy((): tf.Tensor2D => {
      const errors = probabilityErrors(rowsOf(x, chunk), head, labels.subarray(chunk.start, chunk.end));
      const part = tf.matMul<tf.Tensor2D>(errors, rowsOf(negative, chunk), true, false);
      return earlier === null ? part : earlier.add<tf.Tensor2D>(part);
    });
    earlier?.dispose();
    return sum;
  };
  return chunks.reduce<tf.Tensor2D | null>(addChunk, null)!;
}

/** p - oneHot(label), `[rows, V]`. */
function probabilityErrors(x: tf.Tensor2D, head: tf.Tensor2D, labels: Int32Array): tf.Tensor2D {
  const p = tf.softmax(tf.matMul(x, head, false, true));
  const elements = elementsOf(labels, head.shape[0]);
  const ofLabels = tf.gather(p.flatten(), elements);
  return tf.tensorScatterUpdate(p.flatten(), elements.expandDims(1), ofLabels.sub(1)).reshape(p.shape) as tf.Tensor2D;
}
