/** @file Multi-head attention of a layer in float64, by plain loops: the truth for test/layers. */

/** Numbers and their shape. */
export interface Numbers {
  shape: number[];
  data: Float64Array;
}

export interface LayerCall {
  numHeads: number;
  numKeyValueHeads: number;
  ropeMaxWavelength?: number;
  query: Numbers;
  value: Numbers;
  key: Numbers;
  /** Kernel and bias of query, key, value and output, or the kernels alone. */
  weights: Numbers[];
  /** Whether query r of batch row b sees key j. */
  visible: (b: number, r: number, j: number) => boolean;
}

/** x `[B, S, E]` times a kernel `[E, H, D]`, plus a bias, as `[B, S, H, D]`. */
function projected(x: Numbers, kernel: Numbers, bias: Numbers | undefined): Numbers {
  const [batch, length, channels] = x.shape;
  const [, heads, size] = kernel.shape;
  const width = heads * size;
  const data = new Float64Array(batch * length * width);
  for (let row = 0; row < batch * length; row++) {
    for (let column = 0; column < width; column++) {
      let sum = bias ? bias.data[column] : 0;
      for (let e = 0; e < channels; e++) sum += x.data[row * channels + e] * kernel.data[e * width + column];
      data[row * width + column] = sum;
    }
  }
  return {shape: [batch, length, heads, size], data};
}

/** Rotates channels i and i + size / 2 of each head by position · wavelength^(-2i / size). */
function rotated({shape, data}: Numbers, maxWavelength: number): Numbers {
  const [, length, heads, size] = shape;
  const half = size / 2;
  const turned = data.slice();
  for (let head = 0; head * size < data.length; head++) {
    const position = Math.floor(head / heads) % length;
    for (let i = 0; i < half; i++) {
      const angle = position * maxWavelength ** (-i / half);
      const [a, b] = [data[head * size + i], data[head * size + i + half]];
      turned[head * size + i] = a * Math.cos(angle) - b * Math.sin(angle);
      turned[head * size + i + half] = b * Math.cos(angle) + a * Math.sin(angle);
    }
  }
  return {shape, data: turned};
}

/** Softmax attention of heads, `[B, Sq, H, Dv]`; rows that see no key give 0. */
function attended(q: Numbers, k: Numbers, v: Numbers, visible: LayerCall['visible']): Numbers {
  const [batch, Sq, heads, D] = q.shape;
  const [, Sk, keyHeads, Dv] = v.shape;
  const data = new Float64Array(batch * Sq * heads * Dv);
  for (let at = 0; at < batch * Sq * heads; at++) {
    const [b, r, h] = [Math.floor(at / (Sq * heads)), Math.floor(at / heads) % Sq, at % heads];
    const keyHead = Math.floor((h * keyHeads) / heads);
    const place = (j: number): number => (b * Sk + j) * keyHeads + keyHead;
    const scores = new Float64Array(Sk).fill(-Infinity);
    for (let j = 0; j < Sk; j++) {
      if (!visible(b, r, j)) continue;
      scores[j] = 0;
      for (let d = 0; d < D; d++) scores[j] += (q.data[at * D + d] * k.data[place(j) * D + d]) / Math.sqrt(D);
    }
    const largest = Math.max(...scores);
    if (largest === -Infinity) continue;
    const weights = scores.map((score) => Math.exp(score - largest));
    const total = weights.reduce((x, y) => x + y, 0);
    for (let j = 0; j < Sk; j++) {
      for (let d = 0; d < Dv; d++) data[at * Dv + d] += (weights[j] / total) * v.data[place(j) * Dv + d];
    }
  }
  return {shape: [batch, Sq, heads, Dv], data};
}

/** The output of the layer, `[B, Sq, channels]`. */
export function layerOracle({query, value, key, weights, visible, ropeMaxWavelength}: LayerCall): Numbers {
  const step = weights.length / 4;
  const part = (i: number): [Numbers, Numbers | undefined] => [
    weights[i * step],
    step === 2 ? weights[i * step + 1] : undefined,
  ];
  let [q, k] = [projected(query, ...part(0)), projected(key, ...part(1))];
  if (ropeMaxWavelength !== undefined) [q, k] = [rotated(q, ropeMaxWavelength), rotated(k, ropeMaxWavelength)];
  const heads = attended(q, k, projected(value, ...part(2)), visible);
  const [batch, length, count, size] = heads.shape;
  const [kernel, bias] = part(3);
  const channels = kernel.shape[2];
  const flat = {shape: [batch, length, count * size], data: heads.data};
  const out = projected(flat, {shape: [count * size, 1, channels], data: kernel.data}, bias);
  return {shape: [batch, length, channels], data: out.data};
}
