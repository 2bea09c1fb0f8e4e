/** @file TensorFlow's GraphDef (tensorflow/core/framework/graph.proto) of recorded operations, as bytes. */
import {bytesField, fieldsOf, floatField, intField, message, textField} from './protobuf.js';

/** An attribute as tfjs-node passes it to `executeOp`. */
export interface Attribute {
  name: string;
  /** One of the binding's TF_ATTR_* numbers. */
  type: number;
  value: unknown;
}

/** The binding's numbers of attribute types. */
export type AttributeTypes = Record<
  'TF_ATTR_STRING' | 'TF_ATTR_INT' | 'TF_ATTR_FLOAT' | 'TF_ATTR_BOOL' | 'TF_ATTR_TYPE' | 'TF_ATTR_SHAPE',
  number
>;

/** A node of a graph: its outputs are `name:0`, `name:1`, ... */
export interface GraphNode {
  name: string;
  op: string;
  inputs: string[];
  /** AttrValue messages by name. */
  attributes: Record<string, Uint8Array>;
  /** Types and shapes of its outputs. */
  outputs: {dtype: number; shape: number[]}[];
}

/** A node that stands for a tensor that every call gives. */
export function placeholder(name: string, dtype: number, shape: number[]): GraphNode {
  const attributes = {dtype: typeValue(dtype), shape: shapeValue(shape)};
  return {name, op: 'Placeholder', inputs: [], attributes, outputs: [{dtype, shape}]};
}

/** Fields of AttrValue that hold one value, by what they hold. */
const ONE = {list: 1, string: 2, int: 3, float: 4, bool: 5, type: 6, shape: 7, tensor: 8} as const;
/** TensorFlow refuses graphs of old producers. From version 27 on, attributes mean what they mean today. */
const PRODUCER = 27;

const shapeMessage = (shape: readonly number[]): Uint8Array =>
  message(...shape.map((size) => bytesField(2, intField(1, size))));

export const typeValue = (dtype: number): Uint8Array => intField(ONE.type, dtype);
const shapeValue = (shape: readonly number[]): Uint8Array => bytesField(ONE.shape, shapeMessage(shape));

/** The value of a constant: a TensorProto with the bytes of its elements. */
export function tensorValue(dtype: number, shape: readonly number[], bytes: Uint8Array): Uint8Array {
  return bytesField(ONE.tensor, message(intField(1, dtype), bytesField(2, shapeMessage(shape)), bytesField(4, bytes)));
}

/** The AttrValue of an attribute. A list of numbers is a ListValue, whose fields have the numbers of `ONE`. */
export function attributeValue({name, type, value}: Attribute, types: AttributeTypes): Uint8Array {
  const one = (single: unknown): Uint8Array => {
    switch (type) {
      case types.TF_ATTR_STRING:
        return textField(ONE.string, String(single));
      case types.TF_ATTR_INT:
        return intField(ONE.int, single as number);
      case types.TF_ATTR_FLOAT:
        return floatField(ONE.float, single as number);
      case types.TF_ATTR_BOOL:
        return intField(ONE.bool, single as boolean);
      case types.TF_ATTR_TYPE:
        return typeValue(single as number);
      default:
        throw new Error(`traced: attributes must be of a type of tfjs-node's binding, got ${type} for '${name}'.`);
    }
  };
  if (type === types.TF_ATTR_SHAPE) return shapeValue(value as number[]);
  return Array.isArray(value) ? bytesField(ONE.list, message(...value.map(one))) : one(value);
}

function nodeMessage({name, op, inputs, attributes}: GraphNode): Uint8Array {
  const attrs = Object.entries(attributes).map(([key, value]) =>
    bytesField(5, message(textField(1, key), bytesField(2, value))),
  );
  return message(textField(1, name), textField(2, op), ...inputs.map((input) => textField(3, input)), ...attrs);
}

/**
 * The GraphDef of nodes, each after those that it reads.
 *
 * @param ordered nodes that run in their order here, each after the one before: TensorFlow runs others as they are
 *   ready.
 */
export function graphDef(nodes: readonly GraphNode[], ordered: (node: GraphNode) => boolean): Uint8Array {
  let before: string[] = [];
  const messages = nodes.map((node) => {
    if (!ordered(node)) return nodeMessage(node);
    // An input with a caret is waited for, and not read.
    const inputs = [...node.inputs, ...before];
    before = [`^${node.name}`];
    return nodeMessage({...node, inputs});
  });
  return message(...messages.map((node) => bytesField(1, node)), bytesField(4, intField(1, PRODUCER)));
}

/** An input of an operation, as its OpDef declares it. */
export interface InputDefinition {
  /** The attribute with the type of its tensors; empty if the type is fixed. */
  typeAttribute: string;
  /** The attribute with the number of its tensors; empty if it is one. */
  countAttribute: string;
}

/** The inputs of an operation, of an OpDef message (tensorflow/core/framework/op_def.proto). */
export function inputDefinitions(opDef: Uint8Array): InputDefinition[] {
  const inputs = fieldsOf(opDef).filter(({field}) => field === 2);
  return inputs.map(({bytes}) => {
    const fields = fieldsOf(bytes);
    const text = (number: number): string =>
      new TextDecoder().decode(fields.find(({field}) => field === number)?.bytes ?? new Uint8Array(0));
    return {typeAttribute: text(4), countAttribute: text(5)};
  });
}
