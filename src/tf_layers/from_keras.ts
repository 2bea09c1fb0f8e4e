/**
 * @file Models of Keras for `tf.loadLayersModel`: attention layers get this library's class and their inputs as a list,
 * and what Keras 3 writes in another form than tfjs reads is rewritten.
 */
import {io} from '@tensorflow/tfjs-core';
import {describe, fail} from '../call/errors.js';

const WHO = 'fromKeras';

type Json = Record<string, unknown>;

/** A layer of a model's topology. */
interface LayerJson {
  class_name: string;
  config: Json;
  inbound_nodes?: unknown[];
}

/** The output of a layer: its name, the index of the call, the index of the output. */
type Reference = [name: string, node: number, tensor: number];

/** One call of a layer: its positional and its named arguments. Tensors in them are references. */
interface Call {
  args: unknown[];
  kwargs: Json;
}

const ATTENTION = ['MultiHeadAttention', 'GroupQueryAttention', 'GroupedQueryAttention'];

/**
 * Where a model of Keras comes from, in the form that `tf.loadLayersModel` takes: its MultiHeadAttention and
 * GroupQueryAttention layers become FlashMaskMultiHeadAttention layers with the same weights. Reads the topologies of
 * Keras 2 and 3, with weights under the names of their variables.
 *
 * @param source The address of a model.json, or a handler, as of `tf.io.fromMemory`.
 * @returns a handler that loads the same model.
 * @throws Error, when the model is loaded, if a call has an argument that this library's layer has not.
 * @example
 * const model = await tf.loadLayersModel(fromKeras('https://example.com/model.json'));
 */
export function fromKeras(source: string | io.IOHandler): io.IOHandler {
  const handler = typeof source === 'string' ? (io.getLoadHandlers(source)[0] ?? io.http(source)) : source;
  return {
    load: async () => {
      const artifacts = await handler.load!();
      return {...artifacts, modelTopology: convertTopology(artifacts.modelTopology as Json)};
    },
  };
}

/** @param topology A layer, a model, or an object with a model at `model_config`; as JSON. It stays as it was. */
function convertTopology(topology: Json): Json {
  const copy = structuredClone(topology);
  convertLayer((copy.model_config ?? copy) as LayerJson);
  return copy;
}

function convertLayer(layer: LayerJson): void {
  const {config} = layer;
  // A policy of Keras 3 has the type's name.
  if (isObject(config.dtype)) config.dtype = (config.dtype.config as Json).name;
  if (layer.class_name === 'InputLayer' && 'batch_shape' in config) config.batch_input_shape = config.batch_shape;
  if (Array.isArray(config.layers)) (config.layers as LayerJson[]).forEach(convertLayer);
  for (const key of ['input_layers', 'output_layers']) {
    const references = config[key] as unknown[] | undefined;
    if (references && isReference(references)) config[key] = [references];
  }
  const calls = layer.inbound_nodes?.map(callOf) ?? [];
  if (ATTENTION.includes(layer.class_name)) convertAttention(layer, calls);
  if (layer.inbound_nodes) layer.inbound_nodes = calls.map(({args}) => args.map((x) => [...(x as Reference), {}]));
}

/** A call from either form: `[[name, node, tensor, kwargs], ...]`, or `{args, kwargs}` with Keras tensors. */
function callOf(node: unknown): Call {
  if (!Array.isArray(node)) {
    const {args, kwargs} = node as Call;
    return {args: references(args), kwargs: Object.fromEntries(Object.entries(kwargs).map(([k, x]) => [k, revive(x)]))};
  }
  const rows = node as [string, number, number, Json?][];
  return {args: rows.map((row) => row.slice(0, 3)), kwargs: Object.assign({}, ...rows.map((row) => row[3])) as Json};
}

/** All tensors in nested arguments, in order. */
function references(args: unknown[]): Reference[] {
  return (args.flat(Infinity) as unknown[]).map(revive).filter((x) => Array.isArray(x)) as Reference[];
}

/** The reference that a Keras tensor stands for; other values as they are. */
function revive(value: unknown): unknown {
  if (!isObject(value) || value.class_name !== '__keras_tensor__') return value;
  return (value.config as {keras_history: Reference}).keras_history;
}

function convertAttention(layer: LayerJson, calls: Call[]): void {
  const {name} = layer.config;
  const read = calls.map((call) => readCall(String(name), call));
  const causal = new Set(read.map(({useCausalMask}) => useCausalMask));
  if (causal.size > 1) {
    fail(WHO, `all calls of ${describe(name)} must have one use_causal_mask`, 'both', 'Use a layer for each.');
  }
  layer.class_name = 'FlashMaskMultiHeadAttention';
  layer.config = attentionConfig(layer.config, causal.has(true));
  calls.forEach((call, i) => (call.args = read[i].inputs));
}

function readCall(name: string, {args, kwargs}: Call): {inputs: Reference[]; useCausalMask: boolean} {
  const {query = args[0], value = args[1] ?? args[0], key = args[2] ?? value, use_causal_mask, ...others} = kwargs;
  const [unknown] = Object.entries(others).filter(([, given]) => given !== null && given !== false);
  if (unknown) {
    const remedy = 'Give document ids or bounds as an input of the layer.';
    fail(WHO, `calls of '${name}' must have no other arguments than tensors and use_causal_mask`, unknown[0], remedy);
  }
  const inputs = [query, value, key] as Reference[];
  const same = (a: Reference, b: Reference): boolean => a.join() === b.join();
  if (same(key as Reference, value as Reference)) inputs.pop();
  if (inputs.length === 2 && same(inputs[0], inputs[1])) inputs.pop();
  return {inputs, useCausalMask: use_causal_mask === true};
}

/** Keys of Keras that this layer has not, and the values that change nothing; null: any. */
const WITHOUT_EFFECT: Record<string, unknown[] | null> = {
  attention_axes: [null, [1]],
  use_gate: [false],
  flash_attention: null,
  query_shape: null,
  key_shape: null,
  value_shape: null,
};

function attentionConfig(config: Json, useCausalMask: boolean): Json {
  const {head_dim, num_query_heads, sliding_window = null, ...given} = config;
  const kept = Object.entries(given).filter(([key, value]) => {
    if (!(key in WITHOUT_EFFECT)) return true;
    const allowed = WITHOUT_EFFECT[key]?.map((one) => JSON.stringify(one)) ?? null;
    if (allowed === null || allowed.includes(JSON.stringify(value))) return false;
    return fail(
      WHO,
      `${key} of ${describe(config.name)} must be ${allowed[0]}`,
      describe(value),
      'Convert it by hand.',
    );
  });
  const sizes = num_query_heads === undefined ? {} : {num_heads: num_query_heads, key_dim: head_dim};
  // Keras counts the token itself.
  const mask = sliding_window === null ? null : {builder: 'window', args: [(sliding_window as number) - 1]};
  return {...Object.fromEntries(kept), ...sizes, use_causal_mask: useCausalMask, mask};
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isReference(value: unknown[]): value is Reference {
  return typeof value[0] === 'string';
}
