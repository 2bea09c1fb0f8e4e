/**
 * @file Trains a language model of characters on texts that are packed into one row. The mask keeps them apart, so a
 * row costs no more than its texts.
 */
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-webgpu';
import {flashMaskAttention, masks} from 'tfjs-flashmask';

const [WIDTH, HEADS, LAYERS, LONGEST] = [32, 2, 2, 64];
const END = 0; // The token after a text.

function makeModel(vocabulary) {
  const weight = (...shape) => tf.variable(tf.randomNormal(shape, 0, 0.1, 'float32', shape[0] + shape[1]));
  const layer = () => ({
    qkv: [1, 2, 3].map(() => weight(WIDTH, WIDTH)),
    out: weight(WIDTH, WIDTH),
    up: weight(WIDTH, 4 * WIDTH),
    down: weight(4 * WIDTH, WIDTH),
  });
  return {
    tokens: weight(vocabulary, WIDTH),
    places: weight(LONGEST, WIDTH),
    layers: Array.from({length: LAYERS}, layer),
  };
}

const norm = (x) => x.div(x.square().mean(-1, true).add(1e-5).sqrt());
const pick = (rows, ids) => tf.oneHot(tf.tensor1d(ids, 'int32'), rows.shape[0]).cast('float32').matMul(rows);

/** Tokens and their places in their texts, [N], to logits [N, vocabulary]. */
function logits({tokens, places, layers}, ids, positions, mask) {
  let x = pick(tokens, ids).add(pick(places, positions));
  for (const {qkv, out, up, down} of layers) {
    const [q, k, v] = qkv.map((weight) =>
      norm(x)
        .matMul(weight)
        .reshape([1, -1, HEADS, WIDTH / HEADS]),
    );
    x = x.add(flashMaskAttention(q, k, v, mask).reshape([-1, WIDTH]).matMul(out));
    x = x.add(norm(x).matMul(up).relu().matMul(down));
  }
  return norm(x).matMul(tokens, false, true);
}

/** Texts as one row: their tokens, places and next tokens, and the mask that keeps them apart. */
function pack(texts) {
  const each = (of) => texts.flatMap((ids) => ids.map((id, i) => of(ids, i)));
  return {
    ids: each((ids, i) => ids[i]),
    positions: each((_, i) => i),
    next: each((ids, i) => ids[i + 1] ?? END),
    mask: masks.causalDocument(texts.map(({length}) => length)),
  };
}

/** The most likely text that begins with a token. */
async function write(model, first) {
  const ids = [first];
  while (ids.length < LONGEST) {
    const mask = masks.causal(ids.length);
    const token = tf.tidy(() =>
      logits(model, ids, [...ids.keys()], mask)
        .slice([ids.length - 1, 0])
        .argMax(-1),
    );
    const [id] = await token.data();
    token.dispose();
    if (id === END) break;
    ids.push(id);
  }
  return ids;
}

addEventListener('message', async ({data: {texts, steps}}) => {
  await tf.setBackend((await navigator.gpu?.requestAdapter()) ? 'webgpu' : 'cpu');
  const alphabet = ['', ...new Set(texts.join(''))];
  const cut = texts.map((text) => [...text].slice(0, LONGEST).map((character) => alphabet.indexOf(character)));
  const {ids, positions, next, mask} = pack(cut);
  const model = makeModel(alphabet.length);
  const optimizer = tf.train.adam(0.01);
  for (let step = 1; step <= steps; step++) {
    const loss = optimizer.minimize(() => {
      const labels = tf.oneHot(tf.tensor1d(next, 'int32'), alphabet.length);
      return tf.losses.softmaxCrossEntropy(labels, logits(model, ids, positions, mask));
    }, true);
    postMessage({backend: tf.getBackend(), step, loss: (await loss.data())[0]});
    loss.dispose();
  }
  const written = await write(model, cut[0][0]);
  postMessage({written: written.map((id) => alphabet[id]).join('')});
});
