/**
 * @file Records the TensorFlow operations that a function of tensors runs on tfjs-node's backend, while they run as
 * usual. What a recording cannot repeat is refused with an error that names it.
 */
import {type DataId, type Tensor, Variable, engine, util} from '@tensorflow/tfjs-core';
import {fail} from '../../../call/errors.js';
import {type FunctionGraph, nodeOf} from './function_graph.js';
import {
  type Attribute,
  type AttributeTypes,
  type GraphNode,
  type InputDefinition,
  attributeValue,
  inputDefinitions,
  placeholder,
  tensorValue,
  typeValue,
} from './graph_def.js';

export const WHO = 'traced';

/** What tfjs-node's binding says of an output. */
interface OutputInfo {
  id: number;
  shape: number[];
  dtype: number;
}

type BackendValues = ArrayBufferView | string[] | Uint8Array[];

/** The members of tfjs-node's binding that a recording replaces, and those that setup-node's binding adds. */
export interface Binding extends AttributeTypes {
  TF_FLOAT: number;
  TF_INT32: number;
  createTensor(shape: number[], dtype: number, values: BackendValues): number;
  tensorDataSync(id: number): unknown;
  executeOp(name: string, attributes: Attribute[], inputs: number[], outputs: number): OutputInfo[];
  deleteTensor(id: number): void;
  addFunction?(name: string, graph: Uint8Array, inputs: string[], outputs: string[], xla: boolean): void;
  runFunction?(name: string, inputs: number[], outputs: number): number[];
  waitForFunctions?(): void;
  removeFunction?(name: string): void;
  opDefinition?(name: string): Uint8Array;
}

/** The members of tfjs-node's backend that a recording needs. */
export interface RecordedBackend {
  isUsingGpuDevice: boolean;
  binding: Binding;
  tensorMap: {get(dataId: DataId): {id: number; shape: number[]; dtype: number; values: unknown}};
  getInputTensorIds(tensors: Tensor[]): number[];
  write(values: BackendValues, shape: number[], dtype: string): DataId;
  createOutputTensor(output: OutputInfo): Tensor;
  disposeData(dataId: DataId, force?: boolean): boolean;
}

/** Operations whose results differ from run to run, so that a gradient that computes them again would be wrong. */
const RANDOM = /^(Random|Multinomial|Truncated|Stateful|Parameterized|Shuffle)/;
/** Operations that have results of another shape for other values. */
const SHAPE_OF_VALUES =
  /^(Where|Unique|UniqueV2|ListDiff|NonMaxSuppression.*|DynamicPartition|SparseFillEmptyRows|Ragged.*)$/;

/** Recorded operations. */
export interface Recording extends FunctionGraph {
  /** The operations and constants, in words, to tell two recordings apart. */
  steps: string[];
}

class Recorder {
  readonly nodes: GraphNode[] = [];
  readonly steps: string[] = [];
  /** Where the graph has the tensors of the binding, and their types, by id. Ids are not used twice. */
  private readonly places = new Map<number, {output: string; dtype: number}>();
  /** Tensors with values of the host that were made while recording. */
  private readonly made = new Set<DataId>();
  private readonly returned = new Set<string>();

  constructor(private readonly backend: RecordedBackend) {}

  /** Adds a node for an input that every call replaces; returns its output. */
  addInput(id: number, shape: number[], dtype: number): string {
    const node = placeholder(`n${this.nodes.length}`, dtype, shape);
    this.nodes.push(node);
    this.places.set(id, {output: `${node.name}:0`, dtype});
    return `${node.name}:0`;
  }

  /** The output of the graph with a tensor's values. */
  outputOf(tensor: Tensor): string {
    const [id] = this.backend.getInputTensorIds([tensor]);
    const {output, dtype} = this.places.get(id)!;
    // A function may return an input, a constant, or one result twice; TensorFlow's may not.
    const computed = this.nodes.find(({name}) => name === nodeOf(output))!.inputs.length > 0;
    if (computed && !this.returned.has(output)) {
      this.returned.add(output);
      return output;
    }
    return this.add('Identity', [output], {T: typeValue(dtype)}, [{dtype, shape: tensor.shape}]);
  }

  /** Records what `body` runs. */
  during<T>(body: () => T): T {
    const {backend} = this;
    const {binding} = backend;
    const assign = Object.getOwnPropertyDescriptor(Variable.prototype, 'assign')!;
    const {random} = Math;
    // The binding's own members cannot be replaced.
    backend.binding = Object.create(
      binding,
      Object.getOwnPropertyDescriptors(this.recordingMembers(binding)),
    ) as Binding;
    backend.getInputTensorIds = (tensors) => this.inputIds(tensors);
    backend.write = (values, shape, dtype) => {
      const dataId = protoOf(backend).write.call(backend, values, shape, dtype);
      this.made.add(dataId);
      return dataId;
    };
    Variable.prototype.assign = () => refuse('variables must not be assigned inside', 'assign()', ASSIGN);
    Math.random = () => refuse('random numbers of the host must not be drawn inside', 'Math.random()', PASS);
    try {
      return body();
    } finally {
      backend.binding = binding;
      Reflect.deleteProperty(backend, 'getInputTensorIds');
      Reflect.deleteProperty(backend, 'write');
      Object.defineProperty(Variable.prototype, 'assign', assign);
      Math.random = random;
    }
  }

  private recordingMembers(binding: Binding): Partial<Binding> {
    return {
      createTensor: (shape, dtype, values) => {
        const id = binding.createTensor(shape, dtype, values);
        this.addConstant(id, shape, dtype, values);
        return id;
      },
      tensorDataSync: () => refuse('values must not be read inside', 'data() or dataSync()', READ),
      executeOp: (name, attributes, inputs, count) => {
        if (RANDOM.test(name)) refuse('random operations must not run inside', `'${name}'`, PASS);
        if (SHAPE_OF_VALUES.test(name)) refuse('shapes must not depend on values', `'${name}'`, SHAPES);
        const outputs = binding.executeOp(name, attributes, inputs, count);
        this.addOperation(name, attributes, inputs, outputs);
        return outputs;
      },
    };
  }

  private add(
    op: string,
    inputs: string[],
    attributes: Record<string, Uint8Array>,
    outputs: GraphNode['outputs'],
  ): string {
    const name = `n${this.nodes.length}`;
    this.nodes.push({name, op, inputs, attributes, outputs});
    return `${name}:0`;
  }

  private addConstant(id: number, shape: number[], dtype: number, values: BackendValues): void {
    if (!ArrayBuffer.isView(values)) refuse('constants must be numbers', 'a text', PASS);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const value = tensorValue(dtype, shape, bytes);
    this.places.set(id, {output: this.add('Const', [], {dtype: typeValue(dtype), value}, [{dtype, shape}]), dtype});
    this.steps.push(`a constant ${describeConstant(values as Float32Array, shape)}`);
  }

  private addOperation(op: string, attributes: Attribute[], inputs: number[], outputs: OutputInfo[]): void {
    const {binding} = this.backend;
    const values = Object.fromEntries(attributes.map((given) => [given.name, attributeValue(given, binding)]));
    const read = inputs.map((id) => this.places.get(id)!);
    const counts = new Map(attributes.map(({name, value}) => [name, value]));
    const place = this.add(
      op,
      read.map(({output}) => output),
      {...this.inferred(op, read, counts), ...values},
      outputs,
    );
    outputs.forEach(({id, dtype}, i) => this.places.set(id, {output: `${place.slice(0, -1)}${i}`, dtype}));
    const given = attributes.map(({name, value}) => `${name}=${String(value)}`).join(' ');
    this.steps.push(`${op} ${given}`.trim() + WIRING + read.map(({output}) => output).join());
  }

  /** The types that an operation infers from its inputs: tfjs-node leaves some out. */
  private inferred(
    op: string,
    inputs: readonly {dtype: number}[],
    counts: ReadonlyMap<string, unknown>,
  ): Record<string, Uint8Array> {
    const types: Record<string, Uint8Array> = {};
    let at = 0;
    for (const {typeAttribute, countAttribute} of inputsOf(op, this.backend.binding)) {
      if (typeAttribute !== '' && at < inputs.length) types[typeAttribute] = typeValue(inputs[at].dtype);
      at += countAttribute === '' ? 1 : Number(counts.get(countAttribute) ?? 1);
    }
    return types;
  }

  /** What `getInputTensorIds` returns, for tensors that a recording knows. */
  private inputIds(tensors: Tensor[]): number[] {
    const {backend} = this;
    for (const tensor of tensors) {
      if (!('dataId' in tensor)) continue; // tfjs-node's own wrapper of an int64 constant.
      const {id, values} = backend.tensorMap.get(tensor.dataId);
      const known = values == null ? this.places.has(id) : this.made.has(tensor.dataId);
      // A tensor without elements, such as the bounds of a call without a mask, has no values to freeze.
      if (!known && util.sizeFromShape(tensor.shape) > 0) {
        refuse('every tensor that is read must be an input, or made inside', describeTensor(tensor), ADD_INPUT);
      }
      if (!known && values == null)
        this.addConstant(id, tensor.shape, backend.tensorMap.get(tensor.dataId).dtype, NONE);
    }
    return protoOf(backend).getInputTensorIds.call(backend, tensors);
  }
}

const definitions = new Map<string, InputDefinition[]>();

/** The inputs of an operation. */
function inputsOf(op: string, binding: Binding): InputDefinition[] {
  if (!definitions.has(op)) definitions.set(op, inputDefinitions(binding.opDefinition!(op)));
  return definitions.get(op)!;
}

/** Precedes, in a step, what an operation reads. */
export const WIRING = ' reads ';

const NONE = new Int32Array(0);
const ADD_INPUT = 'Add it to the inputs of the function.';
const READ = 'Return the tensor, and read it outside.';
const PASS = 'Pass them as an input.';
const SHAPES = 'Run it outside, and pass its result as an input.';
const ASSIGN = 'Return the new values, and assign them outside.';

function refuse(rule: string, got: string, remedy: string): never {
  return fail(WHO, rule, got, remedy);
}

/** The class's own members, which a recording hides. */
function protoOf(backend: RecordedBackend): RecordedBackend {
  return Object.getPrototypeOf(backend) as RecordedBackend;
}

function describeTensor(tensor: Tensor): string {
  const {dtype, shape} = tensor;
  return `${tensor instanceof Variable ? `the variable '${tensor.name}', ` : ''}a tensor of dtype ${dtype} and shape [${shape.join(', ')}] from outside`;
}

function describeConstant(values: Float32Array, shape: number[]): string {
  const shown = Array.from(values.subarray(0, 4), String).join(', ');
  return `[${shape.join(', ')}]: ${shown}${values.length > 4 ? `, ... (sum ${sumOf(values)})` : ''}`;
}

function sumOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * (i + 1);
  return sum;
}

/** Whether a recording is going on, so that functions that would be recorded run as they are. */
let recording = false;
export const isRecording = (): boolean => recording;

/** Whether a backend's operations are being recorded, by this or another copy of the library. */
export const isRecordedBackend = (backend: object): boolean => Object.hasOwn(backend, 'getInputTensorIds');

/**
 * Runs `body`, which reads `inputs` and tensors that it makes, and records its operations.
 *
 * @returns its tensors and the recording.
 */
export function record(
  backend: RecordedBackend,
  inputs: readonly Tensor[],
  body: () => Tensor[],
): {outputs: Tensor[]; recording: Recording} {
  const recorder = new Recorder(backend);
  // Inputs that are still on the host go to the device now.
  const places = backend.getInputTensorIds([...inputs]).map((id, i) => {
    const {dtype} = backend.tensorMap.get(inputs[i].dataId);
    return recorder.addInput(id, inputs[i].shape, dtype);
  });
  recording = true;
  try {
    return recorder.during(() => {
      const outputs = engine().tidy(body);
      const names = outputs.map((output) => recorder.outputOf(output));
      const {nodes, steps} = recorder;
      return {outputs, recording: {nodes, inputs: places, outputs: names, steps}};
    });
  } finally {
    recording = false;
  }
}
