/** @file config.json of the models that examples/finetune reads, and the errors for models that it cannot read. */
import {expect} from 'chai';
import {type LlamaConfig, parseConfig, projectionName} from '../../examples/finetune/model/config.js';
import {rotaryFrequencies} from '../../examples/finetune/model/rope.js';

/** The smallest set of fields of a config.json. */
const SIZES = {
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
};

function parse(changes: Record<string, unknown>): LlamaConfig {
  return parseConfig({model_type: 'llama', ...SIZES, ...changes}, 'm');
}

/** Compares to the precision of float32. */
function expectClose(got: ArrayLike<number>, wanted: number[]): void {
  wanted.forEach((value, i) => expect(got[i]).to.be.closeTo(value, 2e-7 * value));
}

describe('the configuration of a model', () => {
  it('takes the defaults of transformers', () => {
    expect(parse({})).to.deep.equal({
      modelType: 'llama',
      vocabSize: 100,
      hiddenSize: 64,
      intermediateSize: 96,
      layers: 3,
      heads: 4,
      kvHeads: 4,
      headSize: 16,
      maxPositions: 2048,
      rmsNormEpsilon: 1e-6,
      rope: {theta: 10000, scaling: null},
      tiedEmbeddings: false,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      slidingWindows: [null, null, null],
      bosTokenId: 1,
      eosTokenIds: [2],
      padTokenId: null,
      scoreHead: false,
    });
    const mistral = parse({model_type: 'mistral', num_attention_heads: 16});
    expect(mistral).to.include({kvHeads: 8, maxPositions: 131072});
    expect(mistral.slidingWindows).to.deep.equal([4096, 4096, 4096]);
    const qwen2 = parse({model_type: 'qwen2', num_attention_heads: 32, sliding_window: 9});
    expect(qwen2.kvHeads).to.equal(32);
    expect(() => parse({model_type: 'qwen2'})).to.throw('multiple of num_key_value_heads, got 4 and 32');
    expect(parse({model_type: 'mistral', num_key_value_heads: null}).kvHeads).to.equal(4);
    expect(qwen2).to.include({qkvBias: true, outputBias: false, maxPositions: 32768, bosTokenId: null});
    expect(qwen2.slidingWindows).to.deep.equal([null, null, null]);
    expect(qwen2.eosTokenIds).to.deep.equal([]);
  });

  it('reads sliding windows, and several tokens that end a text', () => {
    expect(parse({model_type: 'mistral', num_key_value_heads: 2, sliding_window: null}).slidingWindows[0]).to.equal(
      null,
    );
    const qwen2 = {model_type: 'qwen2', num_key_value_heads: 4, use_sliding_window: true, sliding_window: 9};
    expect(parse({...qwen2, max_window_layers: 2}).slidingWindows).to.deep.equal([null, null, 9]);
    const types = ['sliding_attention', 'full_attention', 'sliding_attention'];
    expect(parse({...qwen2, layer_types: types}).slidingWindows).to.deep.equal([9, null, 9]);
    expect(parse({eos_token_id: [5, 6]}).eosTokenIds).to.deep.equal([5, 6]);
  });

  it('reads the scaling of rotary positions in both forms', () => {
    const yarn = {factor: 4, original_max_position_embeddings: 512};
    const expected = {
      type: 'yarn',
      factor: 4,
      attentionFactor: 0.1 * Math.log(4) + 1,
      betaFast: 32,
      betaSlow: 1,
      originalMaxPositions: 512,
      truncate: true,
    };
    const old = parse({rope_theta: 1e6, rope_scaling: {type: 'yarn', ...yarn}});
    expect(old.rope).to.deep.equal({theta: 1e6, scaling: expected});
    expect(parse({rope_parameters: {rope_type: 'yarn', rope_theta: 1e6, ...yarn}}).rope).to.deep.equal(old.rope);
    // If the factor is missing, it is the ratio of the two lengths; a length outside the scaling's fields takes
    // precedence.
    const outside = {max_position_embeddings: 4096, original_max_position_embeddings: 1024};
    const {scaling} = parse({...outside, rope_scaling: {rope_type: 'yarn', original_max_position_embeddings: 9}}).rope;
    expect(scaling).to.include({factor: 4, originalMaxPositions: 1024});
  });

  it('turns channels as transformers does at positions far out', () => {
    // Values from transformers 5.23: Llama 3.1's scaling, and dynamic scaling at 4 times the length.
    const llama3 = {rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4};
    const scaled = parse({rope_theta: 5e5, rope_scaling: {...llama3, original_max_position_embeddings: 8192}});
    const {frequencies} = rotaryFrequencies({...scaled, headSize: 128}, 1);
    const some = [0, 20, 32, 40, 63].map((i) => frequencies[i]);
    expectClose(some, [1, 0.01656044088, 0.000524846022, 3.428102354e-5, 3.068925878e-7]);
    const dynamic = {...parse({max_position_embeddings: 16, rope_scaling: {type: 'dynamic', factor: 2}}), headSize: 8};
    expectClose(rotaryFrequencies(dynamic, 64).frequencies, [1, 0.05227579555, 0.002732758876, 0.0001428571413]);
    expectClose(rotaryFrequencies(dynamic, 16).frequencies, [1, 0.1, 0.01, 0.001]);
  });

  it('names projections as Hugging Face does', () => {
    expect(projectionName(3, 'o_proj')).to.equal('model.layers.3.self_attn.o_proj');
    expect(projectionName(0, 'gate_proj')).to.equal('model.layers.0.mlp.gate_proj');
  });

  const known =
    'm: model_type must be llama (LlamaForCausalLM, ...ForSequenceClassification), ' +
    'mistral (MistralForCausalLM, ...ForSequenceClassification), qwen2 (Qwen2ForCausalLM, ...ForSequenceClassification), got';
  const errors: [Record<string, unknown>, string][] = [
    [{model_type: 'gpt2'}, `${known} "gpt2" (no architectures).`],
    [{model_type: undefined}, `${known} nothing (no architectures).`],
    [{architectures: ['LlamaForTokenClassification']}, `${known} "llama" (LlamaForTokenClassification).`],
    [{architectures: 'Llama'}, 'm: architectures must be a list of strings, got "Llama".'],
    [
      {architectures: ['LlamaForSequenceClassification']},
      'm: a reward model has one label (id2label), got 2: this is a classifier.',
    ],
    [{hidden_act: 'gelu'}, 'm: hidden_act must be "silu", got "gelu".'],
    [
      {quantization_config: {quant_method: 'gptq'}},
      'm: the weights are quantised ("gptq"), which is not read. Use the model in float32, float16 or bfloat16, or as a .gguf file.',
    ],
    [{vocab_size: undefined}, 'm: vocab_size must be a positive integer, got nothing.'],
    [{num_hidden_layers: 1.5}, 'm: num_hidden_layers must be a positive integer, got 1.5.'],
    [{rms_norm_eps: 0}, 'm: rms_norm_eps must be a positive number, got 0.'],
    [{tie_word_embeddings: 1}, 'm: tie_word_embeddings must be true or false, got 1.'],
    [
      {num_attention_heads: 3},
      'm: without head_dim, hidden_size must be a multiple of num_attention_heads, got 64 and 3.',
    ],
    [{num_hidden_layers: 1e9}, 'm: num_hidden_layers must be at most 4096, got 1000000000.'],
    [{vocab_size: 2 ** 40}, 'm: vocab_size must be at most 16777216, got 1099511627776.'],
    [{hidden_size: 2 ** 40}, 'm: hidden_size must be at most 16777216, got 1099511627776.'],
    [{intermediate_size: 2 ** 40}, 'm: intermediate_size must be at most 16777216, got 1099511627776.'],
    [{num_attention_heads: 2 ** 40}, 'm: num_attention_heads must be at most 16777216, got 1099511627776.'],
    [{head_dim: 512}, 'm: head_dim must be at most 256, got 512.'],
    [{hidden_act: 'x'.repeat(1e6)}, `m: hidden_act must be "silu", got "${'x'.repeat(199)}….`],
    [{partial_rotary_factor: 0.5}, 'm: partial_rotary_factor must be 1, got 0.5.'],
    [
      {rope_scaling: {type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4}},
      'm: rope_scaling: low_freq_factor must be under high_freq_factor, got 4 and 4.',
    ],
    [
      {rope_scaling: {type: 'yarn', factor: 8, mscale: 'x'}},
      'm: rope_scaling: mscale must be a number of 0 or more, got "x".',
    ],
    [
      {model_type: 'qwen2', num_key_value_heads: 4, use_sliding_window: true, max_window_layers: 'x'},
      'm: max_window_layers must be a number of 0 or more, got "x".',
    ],
    [
      {model_type: 'qwen2', num_key_value_heads: 4, use_sliding_window: true, layer_types: ['full_attention']},
      'm: layer_types must be "full_attention" or "sliding_attention" for each of 3 layers, got ["full_attention"].',
    ],
    [{num_key_value_heads: 3}, 'm: num_attention_heads must be a multiple of num_key_value_heads, got 4 and 3.'],
    [{head_dim: 7}, 'm: rotary positions need an even head_dim, got 7.'],
    [{eos_token_id: [1, -1]}, 'm: eos_token_id must be a token id or a list of them, got [1,-1].'],
    [{rope_scaling: 3}, 'm: rope_scaling must be a JSON object, got 3.'],
    [
      {rope_scaling: {type: 'longrope', factor: 2}},
      'm: rope_scaling: rope_type must be "default", "linear", "dynamic", "llama3" or "yarn", got "longrope".',
    ],
    [{rope_parameters: {rope_type: 'linear'}}, 'm: rope_parameters: factor must be a positive number, got nothing.'],
    [{rope_parameters: {partial_rotary_factor: 0.5}}, 'm: rope_parameters: partial_rotary_factor must be 1, got 0.5.'],
    [
      {rope_parameters: {full_attention: {rope_theta: 1}, sliding_attention: {rope_theta: 2}}},
      'm: rope_parameters: rotary positions must be the same in all layers, got some for each layer type.',
    ],
  ];

  for (const [changes, message] of errors) {
    it(`says: ${message}`, () => {
      expect(() => parse(changes)).to.throw(Error, message);
    });
  }

  it('says what is wrong: no object', () => {
    expect(() => parseConfig([1], 'm')).to.throw('m must be a JSON object, got [1].');
  });
});
